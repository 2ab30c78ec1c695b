"""Rows of a table in the text format of PostgreSQL's COPY, made by DuckDB, and the types that the columns get.

Columns are separated by tabs and rows end with a line feed; `\\N` is null, and backslash, tab, line feed and carriage
return are escaped (https://www.postgresql.org/docs/current/sql-copy.html, "Text Format").
"""

import re
from collections.abc import Iterator
from typing import cast

import numpy as np
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

from pipeline.destinations.published_file import PublishedTable
from pipeline.storage import warehouse

BATCH = 50_000
"""Rows that DuckDB formats at a time."""
NUL = "\u2400"
"""Stands for U+0000, which no text of PostgreSQL can have."""
SCALARS = {
    "VARCHAR": "text", "TINYINT": "smallint", "UTINYINT": "smallint", "SMALLINT": "smallint", "USMALLINT": "integer",
    "INTEGER": "integer", "UINTEGER": "bigint", "BIGINT": "bigint", "UBIGINT": "numeric", "HUGEINT": "numeric",
    "UHUGEINT": "numeric", "FLOAT": "real", "DOUBLE": "double precision", "BOOLEAN": "boolean", "DATE": "date",
    "TIMESTAMP": "timestamp", "TIMESTAMP_S": "timestamp", "TIMESTAMP_MS": "timestamp", "TIMESTAMP_NS": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamptz", "TIME": "time", "UUID": "uuid", "BLOB": "bytea", "INTERVAL": "interval",
}  # fmt: skip
"""PostgreSQL's type by DuckDB's."""
_ESCAPES = (("'\\'", "'\\\\'"), ("chr(9)", "'\\t'"), ("chr(10)", "'\\n'"), ("chr(13)", "'\\r'"), ("chr(0)", f"'{NUL}'"))


def postgres_type(dtype: str) -> str:
    """PostgreSQL's type for a type of DuckDB: text (as JSON) for those that it has no equal of."""
    if dtype in SCALARS:
        return SCALARS[dtype]
    if found := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", dtype):
        return f"numeric({found[1]},{found[2]})"
    if (element := _element(dtype)) and element != "BLOB":
        return f"{SCALARS[element]}[]"
    return "text"


def _element(dtype: str) -> str | None:
    """Type of the elements of a flat list; None for other types."""
    element = re.sub(r"\[\d*\]$", "", dtype)
    return element if element != dtype and element in SCALARS else None


def query(table: PublishedTable) -> str:
    """A query for the rows of a table, one text each."""
    fields = [f"coalesce({_field(warehouse.quoted(c.name), c.dtype)}, '\\N')" for c in table.columns]
    return f"SELECT concat_ws(chr(9), {', '.join(fields)}) || chr(10) AS line FROM {warehouse.quoted(table.name)}"


def _field(name: str, dtype: str) -> str:
    """SQL for the escaped text of a column; null where it is null."""
    if dtype == "VARCHAR":
        return _escaped(name)
    if dtype == "BLOB":
        return f"'\\\\x' || lower(hex({name}))"
    if dtype in SCALARS or dtype.startswith("DECIMAL("):
        return _scalar(name, dtype)
    if (element := _element(dtype)) and element != "BLOB":
        text = "replace(replace(x, '\\', '\\\\'), '\"', '\\\"')" if element == "VARCHAR" else _scalar("x", element)
        quoted = f"lambda x: coalesce('\"' || {text} || '\"', 'NULL')"
        return _escaped(f"'{{' || array_to_string(list_transform({name}::{element}[], {quoted}), ',') || '}}'")
    return _escaped(f"to_json({name})::VARCHAR")


def _scalar(name: str, dtype: str) -> str:
    """Text of a value. Years before 1 are written as `0044-03-15 BC`."""
    if dtype in ("DATE", "TIMESTAMP") or dtype.startswith("TIMESTAMP"):
        text = f"{name}::VARCHAR"
        return f"CASE WHEN contains({text}, ' (BC)') THEN replace({text}, ' (BC)', '') || ' BC' ELSE {text} END"
    return f"{name}::VARCHAR"


def _escaped(text: str) -> str:
    for plain, escaped in _ESCAPES:
        text = f"replace({text}, {plain}, {escaped})"
    return text


def replaced(con: warehouse.Connection, table: PublishedTable) -> int:
    """Number of texts of a table in which NUL replaces U+0000."""
    texts = [warehouse.quoted(column.name) for column in table.columns if column.dtype == "VARCHAR"]
    if not texts:
        return 0
    counts = " + ".join(f"count(*) FILTER (WHERE contains({name}, chr(0)))" for name in texts)
    return con.sql(f"SELECT {counts} FROM {warehouse.quoted(table.name)}").fetchall()[0][0]


def blocks(con: warehouse.Connection, table: PublishedTable) -> Iterator[memoryview]:
    """The rows as blocks of bytes in UTF-8, each with whole rows.

    The values of an Arrow array of texts lie one after another in its buffer, so the block is that buffer.
    """
    for batch in warehouse.stream(con.sql(query(table)), BATCH):
        lines = cast("pa.Array", batch.column(0))  # pyright: ignore
        if len(lines):  # pyright: ignore[reportUnknownArgumentType]
            yield _bytes_of(lines)  # pyright: ignore[reportUnknownArgumentType]


def _bytes_of(lines: "pa.Array") -> memoryview:  # pyright: ignore
    lines = lines.cast(pa.large_string())  # pyright: ignore
    _, ends, values = lines.buffers()  # pyright: ignore
    first, last = np.frombuffer(ends, np.int64)[[lines.offset, lines.offset + len(lines)]]  # pyright: ignore
    return memoryview(values)[int(first) : int(last)]  # pyright: ignore
