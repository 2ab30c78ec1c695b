"""Cells of Parquet catalogs as text. What a text can't hold exactly is left out, with a note that names the column."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UnreadableInput
from pipeline.sources.dialect import find_column

PARTED = "\x1f"
"""Joins the values of a list if no separator is configured: ASCII's unit separator."""
_FIRST, _LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
_PER_SECOND = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = dt.datetime(1970, 1, 1)


def left_out(path: Path) -> dict[str, str]:
    """Columns whose values are no numbers, texts or times, to their type: lists, structures, bytes and durations."""
    file = pq.ParquetFile(path)
    intervals = {column.path for column in map(file.schema.column, range(len(file.schema.names)))
                 if column.converted_type == "INTERVAL"}  # fmt: skip
    return {
        field.name: "interval" if field.name in intervals else str(field.type)
        for field in file.schema_arrow
        if field.name in intervals or _is_no_text(field.type)
    }


def advice(section: str, column: str, kind: str) -> str:
    """What to do about a column that is left out, as a clause."""
    if "list<" in kind or "list_view<" in kind:
        return f'with {section}.attributes = {{ {column} = "" }} each of its values is an attribute'
    return "write it as text, in a query with a cast, to keep it"


def read(
    path: Path, name: str, wanted: Mapping[str, str], lists: Mapping[str, str]
) -> tuple[pl.DataFrame, list[str], set[int]]:
    """The columns `wanted` (settings' key to column) as text, nulls and NaN as empty texts; notes of times that are
    left out; and the lines, 1-based, with bytes that are no UTF-8.

    `lists`: columns that may hold lists, to the separator that joins their values. Times outside the years 1 to 9999,
    such as `infinity`, are empty. Raises UnreadableInput for a damaged file, for a column whose type is not read, and
    for one of bytes without any text.
    """
    keys = {column: key for key, column in wanted.items()}
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            for key, column in wanted.items():
                find_column(column, key, there, name)
            table = file.read(list(keys)).select(sorted(keys))
        table = pa.table([_plain(column) for column in table.columns], names=table.column_names)
        frame = pl.DataFrame(pl.from_arrow(table)).with_columns(cs.float().fill_nan(None))
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableInput(f"{name} is truncated, damaged or no Parquet file ({reason}): copy it again") from None
    notes, texts, broken = list[str](), list[pl.Series](), set[int]()
    for column in frame:
        if column.dtype == pl.Binary:
            text, lines = _decoded(column)
            if lines and len(lines) == len(column) - column.null_count():
                raise UnreadableInput(_no_text(name, keys[column.name], column))
            broken |= lines
        else:
            try:
                text, lost = _texts(column, lists.get(column.name))
            except pl.exceptions.PolarsError:
                raise UnreadableInput(_no_text(name, keys[column.name], column)) from None
            if lost:
                what = "1 value" if lost == 1 else f"{lost:,} values"
                times = "outside the years 1 to 9999, and empty here"
                notes.append(f"{name}: {what} of column {column.name!r}: {times}")
        texts.append(text.fill_null(""))
    return pl.DataFrame(texts), notes, broken


def _decoded(column: pl.Series) -> tuple[pl.Series, set[int]]:
    """Bytes as text, and the lines with bytes that are no UTF-8."""
    texts = [None if cell is None else cell.decode(errors="replace") for cell in column]
    again = [None if text is None else text.encode() for text in texts]
    lines = {line for line, (cell, same) in enumerate(zip(column, again, strict=True), start=1) if cell != same}
    return pl.Series(column.name, texts, dtype=pl.String), lines


def _no_text(name: str, key: str, column: pl.Series) -> str:
    return (
        f"{name}: column {column.name!r} ({key}) has the type {column.dtype}, which is not read: cast it to text, "
        "numbers or times, or write it as such"
    )


def _texts(column: pl.Series, separator: str | None) -> tuple[pl.Series, int]:
    """The column as text, and how many of its values are times outside the years 1 to 9999."""
    if separator is not None and isinstance(column.dtype, (pl.List, pl.Array)):
        lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
        text, lost = _texts(lists.explode(empty_as_null=False, keep_nulls=False), None)
        rows = pl.int_range(len(lists), eager=True).alias("row")
        owners = rows.repeat_by(lists.list.len().fill_null(0)).explode(empty_as_null=False, keep_nulls=False)
        parts = pl.DataFrame({"row": owners, "text": text}).drop_nulls("text")
        joined = parts.group_by("row", maintain_order=True).agg(pl.col("text").str.join(separator or PARTED))
        return rows.to_frame().join(joined, on="row", how="left", maintain_order="left")["text"].alias(
            column.name
        ), lost
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        inside = _in_range(column)
        return inside.cast(pl.String), inside.null_count() - column.null_count()
    return column.cast(pl.String), 0


def _in_range(column: pl.Series) -> pl.Series:
    """Times that can be written as text, others as null."""
    if isinstance(column.dtype, pl.Datetime):
        scale = _PER_SECOND[column.dtype.time_unit]
        low, high = (int((end - _EPOCH) // dt.timedelta(seconds=1)) * scale for end in (_FIRST, _LAST))
        high += scale - 1
    else:
        low, high = (_FIRST - _EPOCH).days, (_LAST - _EPOCH).days
    physical = column.to_physical()
    if column.dtype == pl.Datetime("ns"):
        return column  # its range is within these years
    is_inside = physical.is_between(low, high)
    return pl.select(pl.when(is_inside).then(column)).to_series().alias(column.name)


def _is_no_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return not isinstance(kind, pa.UuidType) and _is_no_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _is_no_text(kind.value_type)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return pa.types.is_nested(kind) or is_bytes or pa.types.is_duration(kind)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with a type that Polars has: UUIDs as their text, other extension types as what they are stored as."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return pa.chunked_array([[None if v is None else str(v) for v in column.to_pylist()]], pa.string())
    if isinstance(kind, pa.BaseExtensionType):
        return column.cast(kind.storage_type)
    return column
