"""Finds a catalog's flag of what can be had, such as stock or active, and proposes a rule that leaves out the rest."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.sources import column_types
from pipeline.sources.sniffing.cells import folded

CAN_BE_HAD = re.compile(
    r"(is_?)?(in_?stock|available|availability|active|enabled|sellable|orderable|buyable|purchasable|published|visible|"
    r"lieferbar|verfugbar|aktiv|disponible|disponibile|disponivel|actif|activo|attivo|ativo|beschikbaar|actief)"
)
CANNOT_BE_HAD = re.compile(
    r"(is_?)?(out_?of_?stock|sold_?out|discontinued|deleted|archived|inactive|disabled|hidden|unavailable|delisted)"
)
AMOUNT = re.compile(
    r"(stock|inventory|quantity|qty|units?|bestand|lagerbestand|existencias|giacenza|voorraad|estoque)(_?(level|count|quantity|qty|left|on_?hand|available))?"
)
GONE = ("out of stock", "outofstock", "sold out", "soldout", "unavailable", "inactive", "discontinued", "disabled",
        "deleted", "archived", "not available", "no stock")  # fmt: skip
TRUE = frozenset({"1", "true", "t", "yes", "y"})
THERE = ("in stock", "instock", "available", "active", "enabled", "preorder", "limited", "backorder", "low stock")


@dataclass(frozen=True)
class Rule:
    """A setting of `[export]`, and the condition that it gets."""

    key: str
    """`only_where`, or `exclude_where` if nothing tells which items are in the catalog."""
    condition: str


def rule_of(names: Sequence[str], column: Callable[[int], Sequence[str]], always: str = "title") -> Rule | None:
    """The rule that leaves out what can't be had, by the first column that is a flag or an amount of stock; else None.

    An item without a line in the catalog is left out: shops delist items that way. Without a value it is left out where
    the column says what can be had, and listed where the column says what can't. `column(at)` are cells of the column
    `at`; `always` is a column that each line of the catalog fills, as conditions name it, or "" without one. A name
    alone does not suffice: the cells must be flags, amounts, or words for being there or not.
    """
    return next((rule for at, name in enumerate(names) if (rule := _rule(name, column(at), always))), None)


def _rule(name: str, cells: Sequence[str], always: str) -> Rule | None:
    plain = re.sub(r"[^a-z]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", folded(name)).lower()).strip("_")
    kind, column = column_types.infer(cells), quoted(name)
    words = {cell.strip().lower() for cell in cells if cell.strip() not in column_types.EMPTY}
    is_flag = kind == "BOOLEAN" or (kind == "BIGINT" and words <= {"0", "1"})
    can, cannot = CAN_BE_HAD.fullmatch(plain), CANNOT_BE_HAD.fullmatch(plain)
    if is_flag and (can or cannot or plain == "stock"):
        if cannot or not words & TRUE:  # an empty cell is the usual one
            return _unless(column if cannot else f"not {column}", always)
        return Rule("only_where", column)
    if kind in ("BIGINT", "DOUBLE") and (AMOUNT.fullmatch(plain) or (can and "stock" in plain)):
        return Rule("only_where", f"{column} > 0")
    gone = sorted(words & set(GONE), key=GONE.index)
    if gone and (can or cannot or "stock" in plain or plain in ("status", "state")) and words <= {*GONE, *THERE}:
        return _unless(f"lower({column}) in ({', '.join(repr(word) for word in gone)})", always)
    return None


def _unless(gone: str, always: str) -> Rule:
    """What is in the catalog, except where `gone` is true; it is NULL for an empty cell and without a line."""
    if not always:
        return Rule("exclude_where", gone)
    return Rule("only_where", f"{quoted(always)} is not null and not coalesce({gone}, false)")


def quoted(name: str) -> str:
    """A column's name in an expression, quoted where it has to be."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def comment(rule: Rule) -> list[str]:
    """Lines of a data set's TOML that say where the rule goes."""
    text = rule.condition
    text = f"'{text}'" if "'" not in text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    says = (
        "# The catalog says what can be had. To recommend nothing else, also no item that has left the catalog, write"
    )
    if rule.key == "exclude_where":
        says = "# The catalog says what can't be had. To leave it out (an item that has left the catalog stays), write"
    return [says, "# into the recipe:", "# [export]", f"# {rule.key} = {text}"]
