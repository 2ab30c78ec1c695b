"""The only importer of duckdb: connections with limits, and SQL files run with named parameters."""

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import duckdb

from pipeline.core import paths
from pipeline.core.memory import total_memory

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

Connection = duckdb.DuckDBPyConnection
Relation = duckdb.DuckDBPyRelation
DatabaseError = duckdb.Error
BadData = (duckdb.InvalidInputException, duckdb.DataError)
"""Errors about the values that a statement reads, or raised by error()."""
_BAD_DATA = re.compile(r"(Conversion|Invalid Input|Out of Range|Mismatch Type) Error").match


def connect(
    database: Path | str = ":memory:",
    *,
    read_only: bool = False,
    threads: int = 0,
    memory_limit: str | None = None,
    temporary: Path | None = None,
) -> Connection:
    """A connection that neither installs nor loads extensions by itself, and spills only to `temporary`."""
    config = _config(threads, memory_limit)
    if temporary:
        config["temp_directory"] = str(temporary)
    con = duckdb.connect(str(database), read_only=read_only, config=config)
    if not _is_locked(con):  # it is if a reader in this process has the file open too
        _without_progress_bar(con)
    return con


@contextmanager
def scratch(threads: int = 0, memory_limit: str | None = None) -> Generator[Connection]:
    """A connection to an empty database in memory, for short work on files and frames.

    To start a database takes 20 ms of CPU time, so those with the same limits share one in this process. Objects must
    be temporary, which only this connection sees; other databases are attached by `attached`.
    """
    con = shared(os.getpid(), threads, memory_limit).cursor()
    try:
        yield con
    finally:
        con.close()


@cache
def shared(process: int, threads: int, memory_limit: str | None) -> Connection:
    """One of each process: a database does not work on in a process that was forked."""
    return connect(threads=threads, memory_limit=memory_limit)


@contextmanager
def transaction(con: Connection) -> Generator[None]:
    """All statements of the block at once, or none where it raises. Each alone would be written through to the disk."""
    con.execute("BEGIN TRANSACTION")
    try:
        yield
    except BaseException:
        con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")


@contextmanager
def attached(con: Connection, path: Path, name: str) -> Generator[None]:
    """Attach the database `path` as `name`, read-only, for the block."""
    con.execute(f"ATTACH {literal(path)} AS {identifier(name)} (READ_ONLY)")
    try:
        yield
    finally:
        con.execute(f"DETACH {identifier(name)}")


def _config(threads: int = 0, memory_limit: str | None = None) -> dict[str, str | bool | int | float | list[str]]:
    """Options of a connection. Within a process, all connections to one file must have the same options."""
    return {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "threads": threads or os.cpu_count() or 1,
        "memory_limit": memory_limit or f"{_half_of_memory_mib()}MiB",
    }


def open_locked(database: Path, memory_limit: str | None = None) -> Connection:
    """A read-only connection that can only access the tables of one file.

    Without external access, DuckDB still allows COPY to the file itself and its logs, so the file system is disabled
    too. That also disables spilling: a query must fit into memory, and may use more of it than a run.
    """
    con = duckdb.connect(str(database), read_only=True, config=_config())
    try:
        if not _is_locked(con):  # a process has one instance of a file, which another reader may have locked
            _without_progress_bar(con)
            memory = memory_limit or f"{_half_of_memory_mib() * 3 // 2}MiB"
            for name, value in (("memory_limit", memory), *LOCKS):
                con.execute(f"SET {identifier(name)} = {literal(value)}")
    except duckdb.Error:
        if not _is_locked(con):  # else another thread locked it first
            con.close()
            raise
    return con


def open_sandbox(memory_limit: str) -> Connection:
    """A connection to an empty database in memory, for expressions of the user's own: one thread, times in UTC.

    It reads what is registered, and neither files nor settings can be reached or changed.
    """
    con = duckdb.connect(config=_config(1, memory_limit))
    _without_progress_bar(con)
    for name, value in (("TimeZone", "UTC"), *LOCKS):
        con.execute(f"SET {identifier(name)} = {literal(value)}")
    return con


def open_for_query(
    folder: Path, temporary: Path, database: Path | None = None, memory_limit: str | None = None, threads: int = 0
) -> Connection:
    """A connection in memory for a SELECT of the user's own on files in `folder`, and on the tables of `database`.

    `database` is attached read-only as `source`. Other files, other databases and settings can't be reached; results
    larger than memory are spilled to `temporary`. Times are in UTC. Check the statement with `statements.check` first:
    it could still write into `folder`.
    """
    con = duckdb.connect(config={**_config(threads, memory_limit), "temp_directory": str(temporary)})
    try:
        _without_progress_bar(con)
        con.execute("SET TimeZone = 'UTC'")
        if database:
            con.execute(f"ATTACH {literal(database)} AS source (READ_ONLY)")
            con.execute("USE source")
        con.execute(f"SET allowed_directories = [{literal(f'{folder}/')}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except duckdb.Error:
        con.close()
        raise
    return con


LOCKS = (
    ("temp_directory", ""),
    ("enable_external_access", "false"),
    ("disabled_filesystems", "LocalFileSystem"),
    ("lock_configuration", "true"),
)
"""Settings of `open_locked`, in order: the file system is disabled once the file is open; the lock is last."""


def _without_progress_bar(con: Connection) -> None:
    """It would be written to stdout, which is for data. In a notebook without ipywidgets it is off, and SET fails."""
    if con.sql("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]:
        con.execute("SET enable_progress_bar = false")


def _is_locked(con: Connection) -> bool:
    return bool(con.sql("SELECT current_setting('lock_configuration')").fetchall()[0][0])


def holder(error: BaseException) -> str | None:
    """The process that has a file open for writing, if an error says so: `process 123 (python3.11)`."""
    held = re.search(r"Conflicting lock is held(?: in (?P<program>.*?))?(?: \(PID (?P<pid>\d+)\))", str(error))
    if held:
        return f"process {held['pid']}" + (f" ({held['program']})" if held["program"] else "")
    return "another process" if "Could not set lock on file" in str(error) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a statement failed because it needs more memory than it may use."""
    return isinstance(error, duckdb.OutOfMemoryException)


def statement_types(con: Connection, text: str) -> list[str]:
    """Types of the statements in a text, by DuckDB's names."""
    return [statement.type.name for statement in con.extract_statements(text)]


def parsed_tree(con: Connection, text: str) -> str:
    """The parsed tree of SELECT statements as JSON; `error` is true for others."""
    return con.sql("SELECT json_serialize_sql($text)", params={"text": text}).fetchall()[0][0]


def text_of_tree(con: Connection, tree: str) -> str:
    """The text of a SELECT that `parsed_tree` has parsed."""
    return con.sql("SELECT json_deserialize_sql($tree::JSON)", params={"tree": tree}).fetchall()[0][0]


def token_starts(con: Connection, text: str) -> list[int]:
    """Start positions, in characters, of the words and symbols of a text, without comments."""
    data = text.encode()
    tokens = [at for at, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return [len(data[:at].decode(errors="ignore")) for at in tokens]


def table_functions(con: Connection) -> set[str]:
    """Names of all table functions of this DuckDB."""
    names = "SELECT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
    return {name.lower() for (name,) in con.sql(names).fetchall()}


def run_sql(con: Connection, name: str, **params: object) -> duckdb.DuckDBPyRelation | None:
    """Run `sql/<name>.sql`, one statement, with `$named` values bound."""
    statement = read_sql(paths.SQL / f"{name}.sql")
    return con.sql(statement, params=params or None)


def stream(rows: duckdb.DuckDBPyRelation, size: int) -> "Iterator[pa.RecordBatch]":  # pyright: ignore[reportUnknownParameterType, reportUnknownMemberType]
    """The rows in batches of `size`, as they are computed; raises DuckDB's errors while iterating."""
    try:
        yield from rows.to_arrow_reader(size)
    except OSError as error:  # Arrow wraps errors of later batches
        raise (duckdb.DataError if _BAD_DATA(str(error)) else duckdb.Error)(str(error)) from None


def read_sql(path: Path) -> str:
    """The text of a SQL file."""
    return path.read_text(encoding="utf-8")


def insert(con: Connection, table: str, frame: "pl.DataFrame") -> None:
    """Append a frame's rows, if it has any, to a table with the same columns."""
    if frame.is_empty():
        return
    con.register("_frame", cast("object", frame.to_arrow()))
    con.execute(f"INSERT INTO {identifier(table)} SELECT * FROM _frame")
    con.unregister("_frame")


def identifier(name: str) -> str:
    """A quoted SQL identifier, from an allow-list of characters."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is not allowed as a name in SQL")
    return f'"{name}"'


def quoted(name: str) -> str:
    """Any name as a quoted identifier, e.g. of files and columns that another version or the user made."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | Path) -> str:
    """A quoted SQL string, for the few places that take no parameters."""
    return "'" + str(text).replace("'", "''") + "'"


def _half_of_memory_mib() -> int:
    return total_memory() // 2**21
