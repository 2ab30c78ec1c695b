"""Builds the database that a night publishes: every table, the views and all comments, in a file that is not live."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from pipeline.config.run import Run, utcnow
from pipeline.core import paths
from pipeline.core.filesystem import delete
from pipeline.core.memory import total_memory
from pipeline.publishing import item_columns, list_ids
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.sources import attributes
from pipeline.storage import journal, warehouse
from pipeline.storage.generations import OLDEST_READABLE, UNFINISHED

FILLED_LATER = (tables.CHURN, tables.CHECKS, tables.RUNS)
"""Tables whose rows are known only after the others are filled."""
NAMES = {tables.RECOMMENDATIONS_IN: "list", tables.RECOMMENDATIONS_BY: list_ids.BY}
"""Tables with several lists per user, and SQL for the name of a list."""
LEAST = 3 * 2**29
"""Bytes that DuckDB may use without `memory_limit` on machines with more than twice as much; the rest is spilled."""
HEADER_LINE = re.compile(r"-- (\w+): (.*)")


@contextmanager
def building(run: Run) -> Iterator[tuple[Path, warehouse.Connection]]:
    """A new database file in the folder of generations, under a temporary name, and a connection that uses it.

    The file is closed after the block, and deleted where the block raises. The caller holds the data set's lock, so
    files that earlier nights left under such names are deleted.
    """
    path = run.home.generations(run.dataset) / f".{run.run_id}.building"
    path.parent.mkdir(parents=True, exist_ok=True)
    for pattern in UNFINISHED:
        for leftover in path.parent.glob(pattern):
            delete(leftover)
    con = warehouse.connect(
        threads=run.settings.threads,
        memory_limit=run.settings.memory_limit or f"{_default_limit() // 2**20}MiB",
        temporary=path.with_suffix(".tmp"),
    )
    try:
        # without a log: what a killed process leaves is deleted
        attach = f"ATTACH {warehouse.literal(path)} AS night (STORAGE_VERSION '{OLDEST_READABLE}'"
        con.execute(f"{attach}, RECOVERY_MODE no_wal_writes)")
        con.execute("USE night")
        yield path, con
        con.execute("USE memory")
        con.execute("DETACH night")
    except BaseException:
        con.close()
        path.unlink(missing_ok=True)
        raise
    con.close()


def _default_limit() -> int:
    """Bytes for DuckDB: a sixteenth of the memory, at least LEAST, at most half."""
    total = total_memory()
    return min(max(LEAST, total // 16), total // 2)


def fill(con: warehouse.Connection, run: Run, raw: Path, lists: Path) -> None:
    """Create every published table, and fill it from the lake or the journal, but for those FILLED_LATER."""
    generated_at = utcnow()
    journal.update_run(run, generated_at=generated_at.isoformat())
    of_the_night = {"run_id": run.run_id, "generated_at": generated_at}
    _create(con, *(table for table in tables.PUBLISHED if table not in OF_THE_CATALOG))
    for table in tables.PUBLISHED:
        if table in OF_THE_CATALOG:
            OF_THE_CATALOG[table](con, raw, lists)
            continue
        files = (
            lists / f"{table.name}[-.]*parquet" if table is not tables.REJECTED_ROWS else raw / "rejected_rows.parquet"
        )
        if table in FILLED_LATER:
            continue
        if list(files.parent.glob(files.name)):
            own = {name: of_the_night[name] for name in of_the_night if name in table.columns}
            named = [NAMES[table]] if table in NAMES else []
            made = {name: f"${name}" for name in own}
            made[list_ids.COLUMN] = list_ids.expression(run.dataset, run.run_id, *named)
            columns = ", ".join(f"{made[name]} AS {name}" if name in made else f'"{name}"' for name in table.columns)
            order = ", ".join(f'"{name}"' for name in table.key if name not in own) or "1"
            for source in _sources(table, files):
                con.execute(
                    f"INSERT INTO {table.name} SELECT {columns} "
                    f"FROM read_parquet({warehouse.literal(source)}) ORDER BY {order}",
                    own or None,
                )
        else:
            copy_journal(con, run, table)


def _sources(table: Table, files: Path) -> list[Path]:
    """The files to insert one after the other: parts of ascending users, so that only one part is sorted at a time."""
    if table.key[:1] != ("user_id",):
        return [files]
    return sorted(files.parent.glob(files.name), key=lambda path: (len(path.name), path.name))


def _create(con: warehouse.Connection, *new: Table) -> None:
    with warehouse.transaction(con):
        for table in new:
            con.execute(table.ddl)


def _fill_items(con: warehouse.Connection, raw: Path, lists: Path) -> None:
    columns = attributes.read_columns(raw)
    table = item_columns.table_with(columns)
    _create(con, table)
    frame = pl.read_parquet(lists / f"{tables.ITEMS.name}.parquet").select(list(tables.ITEMS.columns))
    added = columns.select("item_id", *list(table.columns)[len(tables.ITEMS.columns) :])
    warehouse.insert(con, table.name, frame.join(added, on="item_id", how="left").sort("item_id"))


def _fill_item_attributes(con: warehouse.Connection, raw: Path, _: Path) -> None:
    _create(con, tables.ITEM_ATTRIBUTES)
    warehouse.insert(con, tables.ITEM_ATTRIBUTES.name, attributes.item_attributes(raw))


def _fill_user_attributes(con: warehouse.Connection, raw: Path, _: Path) -> None:
    _create(con, tables.USER_ATTRIBUTES)
    warehouse.insert(con, tables.USER_ATTRIBUTES.name, attributes.user_attributes(raw))


OF_THE_CATALOG: dict[Table, Callable[[warehouse.Connection, Path, Path], None]] = {
    tables.ITEMS: _fill_items,
    tables.ITEM_ATTRIBUTES: _fill_item_attributes,
    tables.USER_ATTRIBUTES: _fill_user_attributes,
}
"""How tables are filled that have the catalog's columns or the users' attributes, from the raw layer and the lists."""


def copy_journal(con: warehouse.Connection, run: Run, table: Table) -> None:
    """Copy a journal table, with the rows of all nights, into the database."""
    warehouse.insert(con, table.name, journal.read(run.home, run.dataset, table))


def copy_runs(con: warehouse.Connection, run: Run, champion: str, digest: str) -> None:
    """Record champion and logical hash, and copy the journal's nights; this one as published, as it is once live."""
    journal.update_run(run, logical_hash=digest, champion=champion)
    nights = journal.read(run.home, run.dataset, tables.RUNS).with_columns(
        outcome=pl.when(pl.col("run_id") == run.run_id).then(pl.lit("published")).otherwise("outcome"),
        finished_at=pl.when(pl.col("run_id") == run.run_id).then(pl.lit(utcnow())).otherwise("finished_at"),
    )
    warehouse.insert(con, tables.RUNS.name, nights)


def create_views(con: warehouse.Connection) -> None:
    """Create every view of `sql/views`, which read tables alone."""
    comments = _table_comments(con)
    with warehouse.transaction(con):
        for path in sorted((paths.SQL / "views").glob("*.sql")):
            create_view(con, path, comments)


Comments = Mapping[str, Mapping[str, str]]
"""Comments by table and column."""


def create_view(con: warehouse.Connection, path: Path, comments: Comments | None = None) -> None:
    """Create the view of a file in `sql/views`, with comments.

    In the file's header, `-- reads:` names its tables, lines `-- column: meaning` describe columns, and the other
    lines are the view's comment. A column without such a line has the comment of the column with the same name in
    the first of these tables that has one.
    """
    text, view = warehouse.read_sql(path), warehouse.identifier(path.stem)
    header = [line for line in text.splitlines() if line.startswith("-- ")]
    declared = {found[1]: found[2] for line in header if (found := HEADER_LINE.fullmatch(line))}
    about = " ".join(line.removeprefix("-- ") for line in header if not HEADER_LINE.fullmatch(line))
    comments = _table_comments(con) if comments is None else comments
    of_columns: dict[str, str] = {}
    for table in reversed(declared.pop("reads", "").split(", ")):
        of_columns |= comments.get(table, {})
    of_columns |= declared
    con.execute(text)
    comments_of_view = [f"COMMENT ON VIEW {view} IS {warehouse.literal(about)}"]
    for column in con.sql(f"FROM {view}").columns:
        if column in of_columns:
            name = f"{view}.{warehouse.identifier(column)}"
            comments_of_view.append(f"COMMENT ON COLUMN {name} IS {warehouse.literal(of_columns[column])}")
    con.execute(";\n".join(comments_of_view))


def _table_comments(con: warehouse.Connection) -> Comments:
    found: dict[str, dict[str, str]] = {}
    query = """SELECT table_name, column_name, comment FROM duckdb_columns()
               WHERE database_name = current_database() AND comment IS NOT NULL"""
    for table, column, comment in con.execute(query).fetchall():
        found.setdefault(table, {})[column] = comment
    return found
