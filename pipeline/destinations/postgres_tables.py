"""Makes the tables and views of a published file in a schema of PostgreSQL, and fills them by COPY."""

from dataclasses import dataclass
from hashlib import sha256

import psycopg

from pipeline.core import paths
from pipeline.core.fault_injection import fault
from pipeline.destinations import copy_text
from pipeline.destinations.errors import NotDelivered
from pipeline.destinations.postgres_session import Session, described, literal, quoted
from pipeline.destinations.published_file import PublishedTable, PublishedView
from pipeline.storage import warehouse

LONGEST = 63
"""Bytes of a name. PostgreSQL cuts longer ones without an error, so two could become one."""
LONGEST_KEY = 2_000
"""Bytes of text in a key. A row of an index must fit into a third of a page, 2,704 bytes."""
VIEWS = paths.SQL / "views"
"""SQL of the views, which both DuckDB and PostgreSQL run."""


@dataclass(frozen=True)
class Filled:
    """A table that was filled; `notes` tell what differs from the published one."""

    rows: int
    notes: list[str]


def fill(session: Session, con: warehouse.Connection, schema: str, table: PublishedTable) -> Filled:
    """Create a table of `schema`, copy its rows, then its key and comments; in one transaction.

    Raises NotDelivered if PostgreSQL has another number of rows than the published file.
    """
    name, names = f"{quoted(schema)}.{quoted(table.name)}", names_in_postgres(table)
    columns = ", ".join(
        f"{quoted(names[column.name])} {copy_text.postgres_type(column.dtype)}{'' if column.nullable else ' NOT NULL'}"
        for column in table.columns
    )
    wanted = con.sql(f"SELECT count(*) FROM {warehouse.quoted(table.name)}").fetchall()[0][0]
    with session.transaction():
        session.run(f"CREATE TABLE {name} ({columns})")
        with session.connection.cursor() as cursor:
            with cursor.copy(f"COPY {name} FROM STDIN (FREEZE)".encode()) as copy:
                for block in copy_text.blocks(con, table):
                    copy.write(block)
                    fault("deliver:mid_copy")
            rows = cursor.rowcount
        if rows != wanted:
            raise NotDelivered(f"PostgreSQL has {rows:,} rows of {table.name}, and {wanted:,} were sent")
        notes = _add_key(session, con, name, table, names)
        if replaced := copy_text.replaced(con, table):
            notes.append(
                f"{table.name}: {replaced:,} texts have U+0000, which PostgreSQL can't store; it is U+2400 there"
            )
        notes += [
            f"{table.name}: the column {old!r} is named {new!r} there" for old, new in names.items() if old != new
        ]
        session.run(f"COMMENT ON TABLE {name} IS {literal(table.doc)}")
        for column in table.columns:
            if column.doc:
                session.run(f"COMMENT ON COLUMN {name}.{quoted(names[column.name])} IS {literal(column.doc)}")
    session.run(f"ANALYZE {name}")
    return Filled(rows, notes)


def names_in_postgres(table: PublishedTable) -> dict[str, str]:
    """Name of each column there: its own, or a shortened one with a hash where it is too long."""
    names: dict[str, str] = {}
    for column in table.columns:
        raw = column.name.replace("\0", copy_text.NUL).encode()
        if len(raw) > LONGEST:
            raw = raw[: LONGEST - 9].decode(errors="ignore").encode() + b"_" + sha256(raw).hexdigest()[:8].encode()
        names[column.name] = raw.decode()
    return names


def _add_key(
    session: Session, con: warehouse.Connection, name: str, table: PublishedTable, names: dict[str, str]
) -> list[str]:
    """The primary key. Where its texts are too long for one: a unique index with a hash of them."""
    if not table.key:
        return []
    types = {column.name: column.dtype for column in table.columns}
    texts = [key for key in table.key if types[key] == "VARCHAR"]
    sizes = " + ".join(f"coalesce(strlen({warehouse.quoted(key)}), 0)" for key in texts) or "0"
    longest = con.sql(f"SELECT coalesce(max({sizes}), 0) FROM {warehouse.quoted(table.name)}").fetchall()[0][0]
    keys = [quoted(names[key]) for key in table.key]
    if longest <= LONGEST_KEY:
        nullable = any(column.nullable for column in table.columns if column.name in table.key)
        index = f"CREATE UNIQUE INDEX ON {name}" if nullable else f"ALTER TABLE {name} ADD PRIMARY KEY"
        session.run(f"{index} ({', '.join(keys)})")
        return []
    parts = [f"md5({part})" if key in texts else part for key, part in zip(table.key, keys, strict=True)]
    session.run(f"CREATE UNIQUE INDEX ON {name} ({', '.join(parts)})")
    return [
        f"{table.name}: its key has texts of up to {longest:,} bytes, too long for a primary key there: it has a "
        "unique index on their MD5 instead"
    ]


def create_view(session: Session, schema: str, view: PublishedView) -> str | None:
    """Create a view with its comments; returns why it could not be created."""
    path = VIEWS / f"{view.name}.sql"
    if not path.is_file():
        return f"the view {view.name} is left out: this version has no SQL for it"
    name = f"{quoted(schema)}.{quoted(view.name)}"
    try:
        with session.transaction():
            session.run(f"SET LOCAL search_path = {quoted(schema)}, pg_catalog")
            session.run(warehouse.read_sql(path))
            session.run(f"COMMENT ON VIEW {name} IS {literal(view.doc)}")
            for column, doc in view.columns.items():
                if doc:
                    session.run(f"COMMENT ON COLUMN {name}.{quoted(column)} IS {literal(doc)}")
    except psycopg.Error as error:
        if session.connection.closed:
            raise
        return f"the view {view.name} is left out: {described(error)}"
    return None
