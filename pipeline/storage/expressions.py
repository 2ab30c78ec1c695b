"""Conditions in settings: one boolean DuckDB expression over named columns, checked before it runs, then sandboxed.

`parse` checks the text by DuckDB's own parser: only expressions, operators and scalar functions that always give the
same result for the same row are allowed. `resolve` checks the names, `check_types` the types, and `passing` evaluates
it in a connection that reaches neither files nor settings. A condition that is NULL counts as false.
"""

import datetime as dt
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import polars as pl

from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.storage import list_hints, warehouse

NIGHT_DATE = "night_date"
"""Name of the night's date in expressions, a DATE: the day, UTC, on which the night starts, or of `--as-of`."""
CLASSES = {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION",
           "OPERATOR", "TYPE"}  # fmt: skip
"""Classes of nodes that an expression may consist of. All others are refused, including new ones."""
MACROS = {
    "array_append", "array_pop_back", "array_pop_front", "array_prepend", "array_push_back", "array_push_front",
    "array_reverse", "array_to_string", "date_add", "days_in_month", "fdiv", "fmod", "if", "json", "list_any_value",
    "list_append", "list_avg", "list_bool_and", "list_bool_or", "list_count", "list_first", "list_last", "list_max",
    "list_median", "list_min", "list_mode", "list_prepend", "list_product", "list_reverse", "list_sum",
    "map_contains_entry", "map_contains_value", "nullif", "split_part",
}  # fmt: skip
"""DuckDB's macros that consist of allowed functions."""
NEVER = {"age", "current_localtime", "current_localtimestamp", "getenv", "json_deserialize_sql", "json_serialize_plan",
         "json_serialize_sql", "version"}  # fmt: skip
"""Functions that DuckDB calls consistent, but that read the clock, the machine or a statement."""
BOUNDLESS = {"array_resize", "generate_series", "list_resize", "range", "repeat"}
"""Functions that make long values of nothing, which DuckDB's memory limit does not count."""
FLAGS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
"""Types of results besides BOOLEAN; their values must be 0 and 1, as those of a column `is_new`."""
BATCH = 500_000  # rows
MEMORY = "1GiB"
MAX_LENGTH = 10_000  # characters
_LONG_INTEGER = re.compile(r"[0-9]{19,}(?![0-9_.eE])")
_HELP = (
    "a condition is one true-or-false expression of DuckDB over columns, e.g. rating >= 4, rated and rating > 2, "
    "category = 'book', price between 5 and 20"
)


@dataclass(frozen=True)
class Expression:
    """A checked expression."""

    key: str
    """The setting that has it, for messages."""
    text: str
    """As written."""
    sql: str
    """As evaluated."""
    names: tuple[str, ...]
    """Columns that it names, in order, as written there."""

    def error(self, problem: str) -> SettingsError:
        """The error about this expression."""
        return _error(self.text, self.key, problem)


def parse(text: str, key: str) -> Expression:
    """The expression `text` of the setting `key`. Raises SettingsError with what is not allowed, or not readable."""
    try:
        sql, names = _parsed(text)
    except _NotAllowed as reason:
        raise _error(text, key, str(reason)) from None
    return Expression(key, text, sql, names)


def resolve(expression: Expression, available: Collection[str], source: str) -> dict[str, str]:
    """The column that each name of the expression means: the same name, else the only one that differs in case.

    Raises SettingsError for a name that is not among `available`, the columns of `source`, with the nearest one.
    """
    found: dict[str, str] = {}
    for name in expression.names:
        same = [name] if name in available else [other for other in available if other.lower() == name.lower()]
        if len(same) > 1:
            raise expression.error(f"{name!r} may be {' or '.join(map(repr, same))}: write one exactly")
        if not same:
            there = f"there are: {', '.join(list(available)[:40])}"
            raise expression.error(f"{source} has no column {name!r}{nearest(name, list(available))}; {there}")
        found[name] = same[0]
    lowered = {name.lower(): column for name, column in found.items()}
    if clash := [name for name, column in found.items() if lowered[name.lower()] != column]:
        raise expression.error(f"{clash[0]!r} and another column of it differ only in case, which DuckDB ignores")
    return found


def check_types(expression: Expression, rows: pl.DataFrame, source: str) -> None:
    """Raise SettingsError unless the expression is true or false for the types of the columns of `rows`."""
    columns = resolve(expression, rows.columns, source)
    with _sandbox().cursor() as con:
        _check_types(con, expression, rows, columns)


def _check_types(
    con: warehouse.Connection, expression: Expression, rows: pl.DataFrame, columns: Mapping[str, str]
) -> None:
    _create_view(con, expression, rows.head(0), columns)
    try:
        (described,) = con.sql(f"DESCRIBE SELECT {expression.sql} AS passes FROM rows").fetchall()
    except warehouse.DatabaseError as error:
        raise expression.error(_list_hint(con, expression, rows, columns) or _first_line(error)) from None
    if described[1] not in ("BOOLEAN", '"NULL"', *FLAGS):
        hint = _list_hint(con, expression, rows, columns)
        raise expression.error(hint or f"it gives {described[1]}, not true or false")


def passing(expression: Expression, rows: pl.DataFrame, source: str = "the source") -> pl.Series:
    """Which rows, (R,) bool, the expression is true for; NULL counts as false. Rows are evaluated in batches.

    Raises SettingsError for a wrong name or type, or a value that can't be converted (without that value).
    """
    columns = resolve(expression, rows.columns, source)
    parts: list[pl.Series] = []
    with _sandbox().cursor() as con:
        _check_types(con, expression, rows, columns)
        for start in range(0, max(rows.height, 1), BATCH):
            _create_view(con, expression, rows.slice(start, BATCH), columns)
            try:
                part = con.sql(f"SELECT coalesce({expression.sql}, false) AS passes FROM rows").pl()["passes"]
            except warehouse.DatabaseError as error:
                raise expression.error(_list_hint(con, expression, rows, columns) or _without_values(error)) from None
            if part.dtype != pl.Boolean and not part.is_in([0, 1]).all():
                raise expression.error("it gives numbers other than 0 and 1, not true or false")
            parts.append(part.cast(pl.Boolean))
    return pl.concat(parts).alias("passes")


def _list_hint(
    con: warehouse.Connection, expression: Expression, rows: pl.DataFrame, columns: Mapping[str, str]
) -> str | None:
    lists = {name.lower() for name, column in columns.items() if isinstance(rows.schema[column], pl.List)}
    return list_hints.hint(_nodes(_only_expression(con, f"SELECT {expression.sql}")), lists)


def _create_view(
    con: warehouse.Connection, expression: Expression, rows: pl.DataFrame, columns: Mapping[str, str]
) -> None:
    """A view `rows` with the columns that the expression names, under the names that it uses."""
    taken = {name.lower(): (name, column) for name, column in columns.items()}
    frame = rows.select(pl.col(column).alias(name) for name, column in taken.values())
    if not taken:  # so that it has as many rows
        frame = pl.DataFrame({"row": pl.int_range(rows.height, eager=True)})
    frame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    con.register("rows", cast("object", frame.to_arrow()))


@cache
def _sandbox() -> warehouse.Connection:
    return warehouse.open_sandbox(MEMORY)


# ── parsing ──
class _NotAllowed(ValueError):
    """Says what is wrong with a text."""


@cache
def _parsed(text: str) -> tuple[str, tuple[str, ...]]:
    """The expression as SQL in parentheses, and the columns that it names."""
    if not text.strip():
        raise _NotAllowed("it is empty")
    if len(text) > MAX_LENGTH or any(ord(letter) < 32 and letter not in "\t\n\r" for letter in text):
        raise _NotAllowed(f"it is longer than {MAX_LENGTH:,} characters, or has control characters")
    with _sandbox().cursor() as con:
        text = _with_float_literals(con, text)
        bare = _only_expression(con, f"SELECT \n{text}\n")
        inner = _only_expression(con, f"SELECT (\n{text}\n)")
        if bare.get("alias") or _shape(bare) != _shape(inner):
            raise _NotAllowed("it is not one expression")
        allowed = allowed_functions()
        names: dict[str, None] = {}
        for node in _nodes(bare):
            _check_node(node, allowed)
            if node.get("class") == "COLUMN_REF":
                names[node["column_names"][0]] = None
    return f"(\n{text}\n)", tuple(names)


def _with_float_literals(con: warehouse.Connection, text: str) -> str:
    """Integers beyond 64 bits as floats: DuckDB rounds their conversion twice."""
    try:
        starts = warehouse.token_starts(con, text)
    except (warehouse.DatabaseError, RuntimeError):
        return text
    for start in reversed(starts):
        if found := _LONG_INTEGER.match(text, start):
            text = f"{text[: found.end()]}e0{text[found.end() :]}"
    return text


def _only_expression(con: warehouse.Connection, statement: str) -> dict[str, Any]:
    """The tree of the only expression of a SELECT without any other clause."""
    try:
        parsed = json.loads(warehouse.parsed_tree(con, statement))
    except warehouse.DatabaseError as error:
        raise _NotAllowed(f"it can't be parsed ({_first_line(error)})") from None
    except RecursionError:
        raise _NotAllowed("it can't be parsed (it is nested too deeply)") from None
    if parsed.get("error"):
        raise _NotAllowed(f"it can't be parsed ({parsed.get('error_message')})")
    nodes = [each["node"] for each in parsed["statements"]]
    if len(nodes) != 1 or nodes[0].get("type") != "SELECT_NODE":
        raise _NotAllowed("it is not one expression")
    node = nodes[0]
    empty = ("where_clause", "group_expressions", "group_sets", "having", "sample", "qualify", "modifiers")
    is_plain = node["from_table"]["type"] == "EMPTY" and not node["cte_map"]["map"]
    if not is_plain or any(node.get(clause) for clause in empty) or len(node["select_list"]) != 1:
        raise _NotAllowed("it is not one expression")
    return node["select_list"][0]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every node of a tree, without recursion."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            node = cast("dict[str, Any]", node)
            yield node
            waiting += reversed(list(node.values()))
        elif isinstance(node, list):
            waiting += reversed(cast("list[Any]", node))


def _shape(tree: Any) -> list[Any]:
    """What a tree says, without positions in the text."""
    skip = ("query_location", "query_location_length")
    scalars = str | int | float | bool
    return [
        (name, value)
        for node in _nodes(tree)
        for name, value in node.items()
        if name not in skip and (isinstance(value, scalars) or name == "column_names")
    ]


def _check_node(node: dict[str, Any], allowed: Collection[str]) -> None:
    kind = node.get("class")
    if "cte_map" in node or node.get("type") == "SUBQUERY":
        raise _NotAllowed("a subquery is not allowed")
    if kind is None:
        return
    if kind not in CLASSES or node.get("type") == "GROUPING_FUNCTION":
        raise _NotAllowed(f"{str(node.get('type')).lower().replace('_', ' ')} is not allowed in it")
    if kind == "COLUMN_REF" and node["column_names"][0].lower().startswith("current_"):
        raise _NotAllowed(f"{node['column_names'][0]} is not allowed; the night's date is {NIGHT_DATE}")
    if kind != "FUNCTION":
        return
    name = str(node.get("function_name") or "").lower()
    if node.get("schema") or node.get("catalog") or node.get("filter") or node.get("distinct"):
        raise _NotAllowed(f"{name}() with a schema, a filter or DISTINCT is not allowed")
    if name not in allowed:
        raise _NotAllowed(_why_not(name, allowed))


def _why_not(name: str, allowed: Collection[str]) -> str:
    if name in _CLOCKS:
        return f"{name}() is not allowed; the night's date is {NIGHT_DATE}"
    with _sandbox().cursor() as con:
        known = con.sql("SELECT 1 FROM duckdb_functions() WHERE lower(function_name) = $n", params={"n": name})
        if known.fetchall():
            return f"{name}() is not allowed: only scalar functions whose result depends on their arguments alone are"
    return f"there is no function {name}(){nearest(name, [each for each in allowed if each.isidentifier()])}"


_CLOCKS = ("age", "ago", "get_current_time", "get_current_timestamp", "now", "today", "transaction_timestamp")


@cache
def allowed_functions() -> frozenset[str]:
    """Names of the scalar functions whose every form DuckDB calls consistent, and of MACROS."""
    query = """SELECT lower(function_name) FROM duckdb_functions() GROUP BY 1
               HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')"""
    with _sandbox().cursor() as con:
        found = {name for (name,) in con.sql(query).fetchall()}
    return frozenset({name for name in found if not name.startswith("__internal")} - NEVER - BOUNDLESS | MACROS)


def _error(text: str, key: str, problem: str) -> SettingsError:
    shown = text if len(text) <= 300 else f"{text[:300]}…"
    return SettingsError(f"{key} = {shown!r}: {problem}; {_HELP}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _without_values(error: Exception) -> str:
    """What went wrong with a row, without its values, which may be ids."""
    kind = type(error).__name__
    return f"a value of the rows can't be used in it ({kind}); try_cast(column as type) gives NULL for such values"


def depend_on_date(*texts: str | None) -> bool:
    """Whether one of these texts of expressions names the night's date. A text that can't be parsed does not."""
    found: list[str] = []
    for text in filter(None, texts):
        with suppress(_NotAllowed):
            found += _parsed(text)[1]
    return NIGHT_DATE in (name.lower() for name in found)


def night_date(as_of: dt.datetime | None, started_at: dt.datetime) -> dt.date:
    """The value of NIGHT_DATE."""
    return (as_of or started_at).date()
