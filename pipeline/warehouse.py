"""The only importer of duckdb: connections with stated limits, and numbered SQL files run with named values."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from pipeline import paths

Connection = duckdb.DuckDBPyConnection
DatabaseError = duckdb.Error
BadData = (duckdb.InvalidInputException, duckdb.DataError)
"""What a statement raises over the values it reads, or by error()."""
_BAD_DATA = re.compile(r"(Conversion|Invalid Input|Out of Range|Mismatch Type) Error").match


def connect(
    database: Path | str = ":memory:",
    *,
    read_only: bool = False,
    threads: int = 0,
    memory_limit: str | None = None,
    temporary: Path | None = None,
) -> Connection:
    """A connection that installs nothing, loads nothing from the network and spills only to `temporary`."""
    config: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": threads or os.cpu_count() or 1,
        "memory_limit": memory_limit or f"{_half_of_memory_mib()}MiB",
    }
    if temporary:
        config["temp_directory"] = str(temporary)
    con = duckdb.connect(str(database), read_only=read_only, config=config)
    con.execute("SET enable_progress_bar = false")  # it would go to stdout, which is for data
    return con


def run_sql(con: Connection, name: str, **params: Any) -> duckdb.DuckDBPyRelation | None:
    """Run `sql/<name>.sql`, one statement, with `$named` values bound."""
    statement = read_sql(paths.SQL / f"{name}.sql")
    return con.sql(statement, params=params or None)


def stream(rows: duckdb.DuckDBPyRelation, size: int) -> Iterator[pa.RecordBatch]:
    """The rows in batches of `size`, as they are computed; raises DuckDB's own errors on the way."""
    try:
        yield from rows.to_arrow_reader(size)
    except OSError as error:  # what Arrow makes of an error in a later batch
        raise (duckdb.DataError if _BAD_DATA(str(error)) else duckdb.Error)(str(error)) from None


def read_sql(path: Path) -> str:
    """A statement file's text."""
    return path.read_text(encoding="utf-8")


def create_view(con: Connection, path: Path) -> None:
    """Run a file of sql/views; the lines of comment on its top, but for `-- reads`, become the view's comment."""
    text = read_sql(path)
    con.execute(text)
    top = [line.removeprefix("-- ") for line in text.splitlines() if line.startswith("-- ")]
    comment = " ".join(line for line in top if not line.startswith("reads:"))
    con.execute(f"COMMENT ON VIEW {identifier(path.stem)} IS {literal(comment)}")


def insert(con: Connection, table: str, frame: pl.DataFrame) -> None:
    """Append a frame's rows to a table with the same columns."""
    con.register("_frame", frame.to_arrow())
    con.execute(f"INSERT INTO {identifier(table)} SELECT * FROM _frame")
    con.unregister("_frame")


def identifier(name: str) -> str:
    """A quoted SQL identifier, from an allow-list of characters."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not allowed as a name in SQL")
    return f'"{name}"'


def quoted(name: str) -> str:
    """Any name as an identifier: of files and columns that other versions or people made."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A quoted SQL string, for the few places that take no parameters."""
    return "'" + str(text).replace("'", "''") + "'"


def _half_of_memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21
