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

from pipeline.core.console import log
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
            kinds = _write_texts(con.execute(query), aside, where)
    except (sqlite3.Error, sqlite3.Warning) as error:
        refused = any(text in str(error) for text in ("not authorized", "authorization denied", "one statement"))
        why = f"it was refused: only one SELECT is allowed ({error})" if refused else f"it failed: {error}"
        raise where.unreadable("query", shortened(why)) from None
    texts = ", ".join(_column(warehouse.quoted(name), kind) for name, kind in kinds.items())
    with closing(warehouse.connect(temporary=limits.temporary, threads=limits.threads,
                                   memory_limit=limits.memory_limit)) as sorting:  # fmt: skip
        n_rows = query_results.write(sorting, f"SELECT {texts} FROM read_parquet({warehouse.literal(aside)})", path)
    aside.unlink()
    return n_rows


def _column(name: str, kind: str) -> str:
    return name if kind == "BLOB" else f"CAST(TRY(decode({name})) AS {kind}) AS {name}"


def _may(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    """SQLite's authorizer: reading is allowed, and nothing else."""
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and str(second).lower() in _REFUSED_FUNCTIONS):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _write_texts(found: sqlite3.Cursor, path: Path, where: Where) -> dict[str, str]:
    """Write all cells as text, encoded; returns the type of each column that all of its cells have.

    A column is a BLOB if none of its cells is text. Otherwise cells with bytes that are no text are NULL, with a
    warning.
    """
    names = [str(column[0]) for column in found.description or []]
    query_results.check_names(names, where)
    seen: list[set[str]] = [set() for _ in names]
    schema = pa.schema([(name, pa.binary()) for name in names])
    with pq.ParquetWriter(path, schema, compression="lz4") as writer:
        for rows in _batches(found):
            columns = [[_text(cell, seen[at]) for cell in column] for at, column in enumerate(zip(*rows, strict=True))]
            writer.write_table(pa.table([pa.array(column, pa.binary()) for column in columns], schema=schema))
    for name, kinds in zip(names, seen, strict=True):
        if "bytes" in kinds and len(kinds) > 1:
            text = f"column {name!r} has bytes that are no text next to other values: they count as NULL; cast them"
            log.warning(f"{where.key('query')}: {text}, e.g. with hex()")
    return {name: _kind(kinds) for name, kinds in zip(names, seen, strict=True)}


def _batches(found: sqlite3.Cursor) -> Iterator[list[tuple]]:
    while rows := found.fetchmany(_BATCH):
        yield rows


def _text(cell: object, seen: set[str]) -> bytes | None:
    """The text of a cell in UTF-8, or its bytes if they are no text; None for NULL. `seen` gets its type."""
    if cell is None:
        return None
    if isinstance(cell, int):
        seen.add("exact" if abs(cell) <= _EXACT else "integer")
        return str(cell).encode()
    if isinstance(cell, float):
        seen.add("float")
        return repr(cell).encode()
    found = cell if isinstance(cell, bytes) else str(cell).encode()
    try:
        found.decode()
        seen.add("text")
    except UnicodeDecodeError:
        seen.add("bytes")
    return found


def _kind(seen: set[str]) -> str:
    if seen == {"bytes"}:
        return "BLOB"
    if seen and seen <= {"exact", "integer"}:
        return "BIGINT"
    return "DOUBLE" if "float" in seen and seen <= {"exact", "float"} else "VARCHAR"
