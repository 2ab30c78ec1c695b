"""What a destination gets: the published file of the live night, with its tables, keys and comments."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.code_version import code_version
from pipeline.core.paths import Home
from pipeline.core.run_ids import moment_of
from pipeline.schemas import tables
from pipeline.storage import checksums, home_identity, journal, reader, warehouse
from pipeline.storage.generations import live_run_id

WORK = ".deliver"
"""Folder with the temporary files of a copy, among the generations."""
KEYS = {table.name: table.key for table in tables.PUBLISHED}


@dataclass(frozen=True)
class Night:
    """The live night of a data set. A destination is up to date if it has this run id and this checksum."""

    home_id: str
    dataset: str
    run_id: str
    started_at: str
    """ISO 8601, UTC."""
    sha256: str
    """Of the published file: `forget` rebuilds the file of a night."""
    path: Path
    work: Path
    """Folder for temporary files."""
    code_version: str


@dataclass(frozen=True)
class PublishedColumn:
    """A column of a published table."""

    name: str
    dtype: str
    """DuckDB's name of the type."""
    doc: str
    nullable: bool


@dataclass(frozen=True)
class PublishedTable:
    """A table of a published file."""

    name: str
    doc: str
    columns: tuple[PublishedColumn, ...]
    key: tuple[str, ...]
    """Columns that identify a row; empty if the table has no key."""


@dataclass(frozen=True)
class PublishedView:
    """A view of a published file."""

    name: str
    doc: str
    columns: dict[str, str]
    """Comment by column."""


def live_night(home: Home, dataset: str) -> Night | None:
    """The live night; None before the first publish, or if the live file is not as it was published."""
    entry, identity = checksums.live_entry(home, dataset), home_identity.read(home)
    if entry is None or identity is None or live_run_id(home, dataset) != entry.run_id:
        return None
    record = journal.find_run(home, dataset, entry.run_id) or {}
    moment = moment_of(entry.run_id)
    started = record.get("started_at") or (moment.isoformat() if moment else "")
    about = (identity.id, dataset, entry.run_id, str(started), entry.sha256)
    return Night(*about, home.live(dataset), home.generations(dataset) / WORK, code_version())


@contextmanager
def opened(path: Path) -> Generator[warehouse.Connection]:
    """A read-only connection to a published file; closed after the block."""
    con = reader.open_file(path)
    try:
        yield con
    finally:
        con.close()


_IN_FILE = "database_name = current_database() AND NOT internal"


def tables_of(con: warehouse.Connection) -> list[PublishedTable]:
    """The tables of a published file, by name."""
    query = f"""SELECT table_name, column_name, data_type, coalesce(comment, ''), is_nullable FROM duckdb_columns()
                WHERE {_IN_FILE} ORDER BY table_name, column_index"""
    columns: dict[str, list[PublishedColumn]] = {}
    for table, *column in con.sql(query).fetchall():
        columns.setdefault(table, []).append(PublishedColumn(*column))
    found = con.sql(f"SELECT table_name, coalesce(comment, '') FROM duckdb_tables() WHERE {_IN_FILE}").fetchall()
    made: list[PublishedTable] = []
    for name, doc in sorted(found):
        there = {column.name for column in columns[name]}
        key = KEYS.get(name, ())
        made.append(PublishedTable(name, doc, tuple(columns[name]), key if there >= set(key) else ()))
    return made


def rows_of(con: warehouse.Connection) -> dict[str, int]:
    """Number of rows of each table of a published file, by name."""
    names = con.sql(f"SELECT table_name FROM duckdb_tables() WHERE {_IN_FILE} ORDER BY table_name").fetchall()
    counts = [f"(SELECT count(*) FROM {warehouse.quoted(name)})" for (name,) in names]
    found = con.sql(f"SELECT {', '.join(counts)}").fetchall()[0] if counts else ()
    return {name: rows for (name,), rows in zip(names, found, strict=True)}


def views_of(con: warehouse.Connection) -> list[PublishedView]:
    """The views of a published file, by name."""
    query = """SELECT view_name, coalesce(v.comment, ''), map(list(column_name), list(coalesce(c.comment, '')))
                FROM duckdb_views() AS v JOIN duckdb_columns() AS c ON c.table_oid = v.view_oid
                AND c.database_oid = v.database_oid
                WHERE v.database_name = current_database() AND NOT v.internal GROUP BY ALL ORDER BY view_name"""
    return [PublishedView(*row) for row in con.sql(query).fetchall()]
