"""Queries on an SQLite file, read-only.

Python's own driver is used. SQLite has types per cell, not per column: ADBC's driver takes a column's type from its
first rows and fails at the first other one. Here a column is a number only if all of its cells are, else text.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.sources.connectors import query_results
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.problems import Where, shortened
from pipeline.storage import warehouse

_BATCH = 50_000  # rows
_EXACT = 2**53
"""Integers up to here are the same as DOUBLE."""
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_REFUSED_FUNCTIONS = {"load_extension", "edit", "writefile", "fts3_tokenizer"}


def file_of(url: str, folder: Path) -> Path:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`; relative ones are below `folder`."""
    parts = urlsplit(url)
    return folder / unquote(f"{parts.netloc}{parts.path}".removeprefix("/"))


def write(query: str, url: str, folder: Path, path: Path, where: Where, limits: Limits) -> int:
    """Write the result of the query to `path`; returns its number of rows.

    Raises UnreadableInput if the file can't be opened, or if the query is refused or fails.
    """
    file = file_of(url, folder)
    if not file.is_file():
        raise where.unreadable("url", f"there is no file {file}; a relative path is relative to {folder}")
    aside = path.with_name(f".{path.name}.unsorted")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as con:
            con.set_authorizer(_may)
            con.text_factory = bytes
            kinds = _write_texts(con.execute(query), aside, where, limits.rows)
    except (sqlite3.Error, sqlite3.Warning) as error:
        refused = any(text in str(error) for text in ("not authorized", "authorization denied", "one statement"))
        why = f"it was refused: only one SELECT is allowed ({error})" if refused else f"it failed: {error}"
        raise where.unreadable("query", shortened(why)) from None
    texts = ", ".join(f"{_typed(warehouse.quoted(name), kind)}" for name, kind in kinds.items())
    with closing(warehouse.connect(temporary=limits.temporary, threads=limits.threads,
                                   memory_limit=limits.memory_limit)) as sorting:  # fmt: skip
        n_rows = query_results.write(sorting, f"SELECT {texts} FROM read_parquet({warehouse.literal(aside)})", path)
    aside.unlink()
    return n_rows


def _may(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    """SQLite's authorizer: reading is allowed, and nothing else."""
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _REFUSED_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _write_texts(found: sqlite3.Cursor, path: Path, where: Where, most: int | None) -> dict[str, str]:
    """Write all cells as the bytes of their texts; returns the type of each column that all of its cells have."""
    names = [str(column[0]) for column in found.description or []]
    query_results.check_names(names, where)
    seen: list[set[str]] = [set() for _ in names]
    schema = pa.schema([(name, pa.binary()) for name in names])
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for rows in _batches(found, most):
            columns = [[_text(cell, seen[at]) for cell in column] for at, column in enumerate(zip(*rows, strict=True))]
            writer.write_table(pa.table([pa.array(column, pa.binary()) for column in columns], schema=schema))
    return {name: _kind(kinds) for name, kinds in zip(names, seen, strict=True)}


def _batches(found: sqlite3.Cursor, most: int | None) -> Iterator[list[tuple]]:
    """The rows; only the first `most` of them, if that is a number."""
    if most is not None:
        yield found.fetchmany(most)
        return
    while rows := found.fetchmany(_BATCH):
        yield rows


def _text(cell: object, seen: set[str]) -> bytes | None:
    """The text of a cell in UTF-8; None for NULL. `seen` gets its type; bytes that are no text stay as they are."""
    if cell is None:
        return None
    if isinstance(cell, int):
        seen.add("exact" if abs(cell) <= _EXACT else "integer")
        return str(cell).encode()
    if isinstance(cell, float):
        seen.add("float")
        return repr(cell).encode()
    text = cell if isinstance(cell, bytes) else str(cell).encode()
    seen.add("text")
    try:
        text.decode()
    except UnicodeDecodeError:
        seen.add("bytes")
    return text


def _typed(name: str, kind: str) -> str:
    """SQL for a column in its type. With a cell that is no text it stays one of bytes, which the night rejects."""
    return name if kind == "BLOB" else f"CAST(decode({name}) AS {kind}) AS {name}"


def _kind(seen: set[str]) -> str:
    if "bytes" in seen:
        return "BLOB"
    if seen and seen <= {"exact", "integer"}:
        return "BIGINT"
    return "DOUBLE" if "float" in seen and seen <= {"exact", "float"} else "VARCHAR"
