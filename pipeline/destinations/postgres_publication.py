"""Which night is in a schema of PostgreSQL, and what is missing of it."""

from dataclasses import dataclass

from pipeline.destinations.postgres_session import Session, quoted
from pipeline.destinations.published_file import Night, opened, rows_of

PUBLICATION = "nightrecs_publication"
"""One row: whose the schema is, and which night is in it."""
COLUMNS = (
    ("home_id", "text", "Id of the home that the schema belongs to"),
    ("dataset", "text", "Data set that the schema belongs to"),
    ("run_id", "text", "Night whose tables are in the schema"),
    ("night", "timestamp", "When the night began, UTC"),
    ("published_at", "timestamp", "When the tables were copied here, UTC"),
    ("sha256", "text", "SHA-256 of the published file that they were copied from"),
    ("code_version", "text", "Version of nightrecs"),
    ("tables", "text[]", "Tables that nightrecs made in the schema"),
    ("views", "text[]", "Views that nightrecs made in the schema"),
    ("notes", "text[]", "What differs from the published file"),
)
DOC = "Which night is in this schema. A transaction that reads it first keeps that night until it ends"


@dataclass(frozen=True)
class Published:
    """What is in a schema."""

    home_id: str
    dataset: str
    run_id: str
    sha256: str
    tables: list[str]
    views: list[str]


def published_in(session: Session, schema: str) -> Published | None:
    """The row of nightrecs_publication; None if there is no such table."""
    name = f"{quoted(schema)}.{PUBLICATION}"
    if session.value("SELECT to_regclass(%s)", [name]) is None:
        return None
    rows = session.run(f"SELECT home_id, dataset, run_id, sha256, tables, views FROM {name}")
    return Published(*rows[0]) if rows else None


def damage_of(session: Session, schema: str, night: Night) -> list[str]:
    """Missing tables and views, else tables with another number of rows than the published file; empty if none.

    Values that were changed in place are not noticed.
    """
    made = published_in(session, schema)
    if made is None:
        return [f"table {PUBLICATION} is missing or empty"]
    if (made.home_id, made.dataset) != (night.home_id, night.dataset):
        return [f"it belongs to the data set {made.dataset} of the home {made.home_id}"]
    if (made.run_id, made.sha256) != (night.run_id, night.sha256):
        return [f"it has night {made.run_id}"]
    there = {kind: set[str]() for kind in ("table", "view")}
    query = """SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.relname FROM pg_class AS c
               JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind IN ('r', 'v')"""
    for kind, name in session.run(query, [schema]):
        there[kind].add(name)
    with opened(night.path) as con:
        wanted = rows_of(con)
    missing = [f"table {name} is missing" for name in sorted(wanted.keys() - there["table"])]
    missing += [f"view {name} is missing" for name in sorted(set(made.views) - there["view"])]
    if missing:
        return missing
    found = {name: session.value(f"SELECT count(*) FROM {quoted(schema)}.{quoted(name)}") for name in wanted}
    return [
        f"table {name} has {found[name]:,} of {rows:,} rows" for name, rows in wanted.items() if found[name] != rows
    ]
