"""Finds a catalog's flag of what can be had, such as stock or active, and proposes a rule that leaves out the rest."""

import re
from collections.abc import Callable, Sequence

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
THERE = ("in stock", "instock", "available", "active", "enabled", "preorder", "limited", "backorder", "low stock")


def only_where(names: Sequence[str], column: Callable[[int], Sequence[str]]) -> str | None:
    """The condition that finds what can be had, by the first column that is a flag or an amount of stock; else None.

    An item without a value, or without a line in the catalog, is not among them: shops delist items that way.
    `column(at)` are cells of the column `at`. A name alone does not suffice: the cells must be flags, amounts, or
    words for being there or not.
    """
    return next((rule for at, name in enumerate(names) if (rule := _rule(name, column(at)))), None)


def _rule(name: str, cells: Sequence[str]) -> str | None:
    plain = re.sub(r"[^a-z]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", folded(name)).lower()).strip("_")
    kind, column = column_types.infer(cells), quoted(name)
    words = {cell.strip().lower() for cell in cells if cell.strip() not in column_types.EMPTY}
    is_flag = kind == "BOOLEAN" or (kind == "BIGINT" and words <= {"0", "1"})
    can, cannot = CAN_BE_HAD.fullmatch(plain), CANNOT_BE_HAD.fullmatch(plain)
    if is_flag and (can or cannot or plain == "stock"):
        return f"not {column}" if cannot else column
    if kind in ("BIGINT", "DOUBLE") and (AMOUNT.fullmatch(plain) or (can and "stock" in plain)):
        return f"{column} > 0"
    gone = sorted(words & set(GONE), key=GONE.index)
    if gone and (can or cannot or "stock" in plain or plain in ("status", "state")) and words <= {*GONE, *THERE}:
        return f"lower({column}) not in ({', '.join(repr(word) for word in gone)})"
    return None


def quoted(name: str) -> str:
    """A column's name in an expression, quoted where it has to be."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


def comment(rule: str) -> list[str]:
    """Lines of a data set's TOML that say where the rule goes."""
    text = f"'{rule}'" if "'" not in rule else '"' + rule.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return [
        "# The catalog says what can be had. To recommend nothing else, also no item that has left the catalog, write",
        "# into the recipe:",
        "# [export]",
        f"# only_where = {text}",
    ]
