"""Writes the result of a query to a Parquet file that is the same for the same rows.

A server sends rows in any order, so they are sorted by all columns, left to right. So equal rows give equal files,
equal hashes and equal lake keys. Where the order matters (the last of several rows without a time counts), it is this
one. Rows stream in batches: what does not fit into memory is spilled.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.sources.connectors.problems import Where
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection

_BATCH = 122_880  # rows
_ROW_GROUP = 1_000_000
_KEPT = re.compile(
    r"(U?(TINY|SMALL|BIG)INT|U?INTEGER|FLOAT|DOUBLE|BOOLEAN|VARCHAR|BLOB|DATE|TIMESTAMP.*|DECIMAL\(.*\)|.*\]|STRUCT\(.*"
    r"|MAP\(.*)"
).fullmatch
"""Types that Parquet holds as they are. Others (HUGEINT, UUID, JSON, ENUM, TIME, …) are written as their text."""


_END = re.compile(r"(;\s*(--[^\n'\"]*\s*)*)+$").search


def trimmed(query: str) -> str:
    """A query without the semicolon at its end, and comments after it, so that it can be put into parentheses."""
    text = query.strip()
    end = _END(text)
    return f"{text[: end.start()] if end else text}\n"  # a comment may be at its end


def check_names(names: Sequence[str], where: Where) -> None:
    """Raise UnreadableInput if the result has no column, or two of one name."""
    counted = Counter(name.lower() for name in names)
    if twice := next((name for name in names if counted[name.lower()] > 1), None):
        raise where.unreadable("query", f"its result has two columns {twice!r}: rename one with AS")
    if not names:
        raise where.unreadable("query", "its result has no columns")


def write(con: Connection, rows: str, path: Path) -> int:
    """Write the rows of a SELECT to `path`, sorted; returns their number. DuckDB's errors are raised."""
    described = con.sql(f"DESCRIBE {rows}").fetchall()
    columns = [_column(str(name), str(kind)) for name, kind, *_ in described]
    batches = con.sql(f"SELECT {', '.join(columns)} FROM ({rows}) ORDER BY ALL").to_arrow_reader(_BATCH)
    n_rows, held = 0, []
    with pq.ParquetWriter(path, batches.schema, compression="zstd", store_schema=False) as writer:
        for batch in batches:
            held.append(batch)
            n_rows += batch.num_rows
            if sum(each.num_rows for each in held) >= _ROW_GROUP:
                writer.write_table(_table(held), row_group_size=2 * _ROW_GROUP)
                held = []
        if held or not n_rows:
            writer.write_table(_table(held) if held else batches.schema.empty_table())
    return n_rows


def _table(batches: list) -> object:
    import pyarrow as pa

    return pa.Table.from_batches(batches).combine_chunks()


def _column(name: str, kind: str) -> str:
    quoted = warehouse.quoted(name)
    return quoted if _KEPT(kind) else f"CAST({quoted} AS VARCHAR) AS {quoted}"
