"""Types of text columns, from all of their values: a column has a type only if every value that it has is of it."""

import re
from collections.abc import Collection, Sequence

import polars as pl

from pipeline.core.console import log

EMPTY = ("", "NULL", "\\N")
"""Cells without a value."""
WORDS = (("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"))
"""Words for true and false; a column of them has one of these pairs, in any case."""
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})").fullmatch
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?").fullmatch
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}").fullmatch
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z| UTC|[+-][0-9]{2}:?[0-9]{2})?"
).fullmatch
TYPES = {
    "BIGINT": pl.Int64,
    "DOUBLE": pl.Float64,
    "BOOLEAN": pl.Boolean,
    "DATE": pl.Date,
    "TIMESTAMP": pl.Datetime("us"),
    "VARCHAR": pl.String,
}
"""DuckDB's name of each type that a column of text can have, and Polars' type."""


def infer(values: Collection[str], empty: Sequence[str] = EMPTY) -> str:
    """The type of a column with these distinct values, a key of TYPES; those of `empty` are no values.

    Codes, which are numbers with leading zeros or of more than 18 digits, are text.
    """
    filled = [value.strip() for value in values if value.strip() not in empty]
    if not filled:
        return "VARCHAR"
    if all(_INTEGER(value) for value in filled):
        return "BIGINT"
    if all(_NUMBER(value) for value in filled):
        return "VARCHAR" if any(len(value) > 18 and value.isdigit() for value in filled) else "DOUBLE"
    lowered = {value.lower() for value in filled}
    if any(lowered <= set(pair) for pair in WORDS):
        return "BOOLEAN"
    if all(_DATE(value) for value in filled) and _parses(filled, "DATE"):
        return "DATE"
    if all(_DATE(value) or _TIME(value) for value in filled) and _parses(filled, "TIMESTAMP"):
        return "TIMESTAMP"
    return "VARCHAR"


def _parses(values: list[str], kind: str) -> bool:
    return not cast(pl.Series(values), kind).has_nulls()


def infer_column(column: pl.Series, empty: Sequence[str] = EMPTY) -> str:
    """The type of a column of text; it may be Categorical."""
    return infer(column.unique().drop_nulls().cast(pl.String).to_list(), empty)


def cast(column: pl.Series, kind: str, empty: Sequence[str] = EMPTY) -> pl.Series:
    """A column of text as the type `kind`, cells without a value as null. Times are UTC, without a zone."""
    texts = column.cast(pl.String)
    stripped = texts.str.strip_chars()
    filled = pl.select(pl.when(~stripped.is_in(list(empty))).then(stripped)).to_series().alias(column.name)
    match kind:
        case "BIGINT" | "DOUBLE":
            return filled.str.strip_prefix("+").cast(TYPES[kind], strict=False)
        case "BOOLEAN":
            true = filled.str.to_lowercase().is_in([pair[0] for pair in WORDS])
            return pl.select(pl.when(filled.is_not_null()).then(true)).to_series().alias(column.name)
        case "DATE":
            return filled.str.to_date("%Y-%m-%d", strict=False)
        case "TIMESTAMP":
            return _times(filled)
        case _:
            return pl.select(pl.when(filled.is_not_null()).then(texts)).to_series().alias(column.name)


def _times(texts: pl.Series) -> pl.Series:
    """ISO times with or without a zone; a date is its first moment."""
    plain = texts.str.replace(r"( UTC|Z)$", "").str.replace(" ", "T", literal=True)
    plain = plain.str.replace(r"^(.{10})$", "${1}T00:00").str.replace(r"^(.{16})([+-]|$)", "${1}:00${2}")
    plain = plain.str.replace(r"([+-]\d{2}):?(\d{2})$", "${1}:${2}")
    is_zoned = plain.str.contains(r"T.*[+-]\d{2}:\d{2}$")
    zoned = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us")
    local = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", strict=False, time_unit="us")
    choice = pl.when(is_zoned).then(zoned.dt.replace_time_zone(None)).otherwise(local)
    return pl.select(choice).to_series().alias(texts.name)


def report(types: dict[str, str], where: str) -> None:
    """Log how columns of text were read."""
    if types:
        log.info("%s: columns are read as %s", where, ", ".join(f"{name} {kind}" for name, kind in types.items()))
