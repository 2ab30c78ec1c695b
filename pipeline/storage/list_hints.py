"""Says how to write a condition that takes a column of lists for a single value, such as `genres = 'Drama'`."""

from collections.abc import Collection, Iterable
from typing import Any, cast

_OPERATORS = ("COMPARISON", "BETWEEN", "CONJUNCTION", "OPERATOR")


def hint(nodes: Iterable[dict[str, Any]], lists: Collection[str]) -> str | None:
    """What is wrong, and what to write for the first list that is taken for one value; None if there is none.

    `nodes` are those of DuckDB's tree of a condition, the outermost first; `lists` are its columns of lists, in lower
    case.
    """
    negated: list[dict[str, Any]] = []  # operands of NOT, which NOT IN has, too
    for at, node in enumerate(nodes):
        parts = _parts(node) if at else [node, *_parts(node)]  # a condition may be nothing but a column
        names = [part["column_names"][0] for part in parts if part.get("class") == "COLUMN_REF"]
        if found := [name for name in names if name.lower() in lists]:
            instead = _instead(node, found[0], parts)
            denied = node.get("type") in ("COMPARE_NOTEQUAL", "COMPARE_NOT_IN") or any(each is node for each in negated)
            return f"the column {found[0]!r} is a list: write {'not ' if denied else ''}{instead}"
        negated += parts if node.get("type") == "OPERATOR_NOT" else []
    return None


def _parts(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The operands of an operator that takes single values; functions, which may take lists, have none."""
    if node.get("class") == "FUNCTION" and node.get("is_operator"):  # LIKE
        return [each["expression"] for each in node.get("arguments", [])]
    if node.get("class") not in _OPERATORS or "NULL" in str(node.get("type")):
        return []
    sides = [node[name] for name in ("left", "right", "input", "lower", "upper") if isinstance(node.get(name), dict)]
    return [*sides, *cast("list[dict[str, Any]]", node.get("children") or [])]


def _instead(node: dict[str, Any], name: str, parts: list[dict[str, Any]]) -> str:
    """The condition on any value of the list that was probably meant."""
    column = name if name.isidentifier() else '"' + name.replace('"', '""') + '"'
    texts = [part["literal"]["text"] for part in parts if part.get("literal")]
    values = ["'" + str(text).replace("'", "''") + "'" for text in texts]
    kind = node.get("type")
    if kind in ("COMPARE_IN", "COMPARE_NOT_IN") and len(values) > 1:
        return f"list_has_any({column}, [{', '.join(values)}])"
    is_equality = kind in ("COMPARE_EQUAL", "COMPARE_NOTEQUAL", "COMPARE_IN", "COMPARE_NOT_IN") and values
    value = values[0] if is_equality else "'value'"
    return f"list_contains({column}, {value})"
