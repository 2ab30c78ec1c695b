"""Reads published files: read-only, restricted to queries, and never blocked by a writer.

While another process has the live file open for writing, or its log is next to it, the generation of the same run
is read instead.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.core.console import log
from pipeline.core.errors import Held, UnreadableInput
from pipeline.core.paths import Home
from pipeline.storage import checksums, statements, warehouse

if TYPE_CHECKING:
    import polars as pl  # imported where it is used: it costs more than duckdb itself

MEMORY_LIMIT = "NIGHTRECS_MEMORY_LIMIT"
PLAIN_TYPES = {
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP",
}  # fmt: skip
"""Types whose values are the same from DuckDB and from Polars."""


def open_file(path: Path) -> warehouse.Connection:
    """Open a published file.

    Raises Held with the process that has it open for writing, and UnreadableInput for a bad memory limit or if this
    process has the file open with other options.
    """
    limit = os.environ.get(MEMORY_LIMIT)
    try:
        return warehouse.open_locked(path, limit)
    except warehouse.DatabaseError as error:
        if who := warehouse.holder(error):
            raise Held(
                f"{path} is held by {who}, which opened it for writing. Close it there, or open it read-only: "
                "DuckDB lets one process write or many read"
            ) from None
        if "different configuration" in str(error):  # DuckDB's rule for connections of one process
            raise UnreadableInput(
                f"this process has {path} open already, with other options: close that connection"
            ) from None
        if limit and "memory" in str(error).lower():
            raise UnreadableInput(f"{MEMORY_LIMIT}={limit!r}: {str(error).splitlines()[0]}") from None
        raise


def open_live(home: Home, dataset: str) -> warehouse.Connection:
    """Open the live tables of a data set, or their generation if the live file is not as it was published.

    That is the case while a process writes to it, if a log is next to it, or if it was changed. Without a generation,
    raises Held, or UnreadableInput if the file can't be read.
    """
    live, generation = home.live(dataset), generation_of_live(home, dataset)
    trouble = None
    if logs := checksums.logs(live):
        trouble = f"{logs[0].name} is next to {live.name}: it was opened for writing"
    elif checksums.live_entry(home, dataset) is None:
        trouble = checksums.live_trouble(home, dataset)
    if trouble is None or generation is None:
        try:
            return open_file(live)
        except Held as held:
            if generation is None:
                raise
            trouble = str(held).partition(". ")[0]
        except warehouse.DatabaseError as error:
            if generation is None:
                raise UnreadableInput(
                    f"{live} can't be read: {str(error).splitlines()[0]}; `nightrecs status {dataset}` shows more"
                ) from None
            trouble = f"{live.name} can't be read ({str(error).splitlines()[0]})"
    log.info(f"{trouble}; reading generation {generation.stem}, the same night")
    return open_file(generation)


def generation_of_live(home: Home, dataset: str) -> Path | None:
    """The generation that the live file is a copy of, found without opening either file; None if unknown.

    In homes of earlier versions both are one file, so the generation doesn't help while it is being written.
    """
    live = home.live(dataset)
    entry = checksums.live_entry(home, dataset)
    run_id = entry.run_id if entry else checksums.last_live(home, dataset)
    generation = home.generation(dataset, run_id) if run_id else None
    if generation is None or not generation.exists() or not live.exists() or generation.samefile(live):
        return None
    return None if checksums.logs(generation) else generation


def ask(con: warehouse.Connection, text: str, params: Mapping[str, object] | None = None) -> "pl.DataFrame":
    """The rows of one query. Raises UnreadableInput if the statement is refused or fails."""
    import polars as pl

    with _explained(con):
        relation = _relation(con, text, params)
        try:
            return pl.DataFrame() if relation is None else relation.pl()
        except pl.exceptions.PolarsError as error:  # e.g. an interval, which Polars has no type for
            raise UnreadableInput(f"a column can't be shown, cast it to text: {error}") from None


def records(con: warehouse.Connection, text: str, params: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
    """The rows of one query as dicts, as `ask` has them; polars is imported only where a type needs it."""
    with _explained(con):
        relation = _relation(con, text, params)
        names = [] if relation is None else relation.columns
        if relation is not None and len(set(names)) == len(names) and {*map(str, relation.types)} <= PLAIN_TYPES:
            return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]
    return ask(con, text, params).to_dicts()


def _relation(con: warehouse.Connection, text: str, params: Mapping[str, object] | None) -> warehouse.Relation | None:
    """The result of a checked query; None if the statement has none."""
    statements.check(con, text)
    return cast("warehouse.Relation | None", con.sql(text, params=dict(params) if params else None))


@contextmanager
def _explained(con: warehouse.Connection) -> Generator[None]:
    """Raise UnreadableInput for a statement that is refused or fails."""
    try:
        yield
    except statements.NotAQuery as refused:
        raise UnreadableInput(f"the query was refused: {refused}") from None
    except warehouse.DatabaseError as error:
        if warehouse.is_out_of_memory(error):
            limit = con.sql("SELECT current_setting('memory_limit')").fetchall()[0][0]
            raise UnreadableInput(
                f"the query needs more memory than {limit}, and readers do not spill to disk. Ask for fewer rows or "
                f"columns, raise {MEMORY_LIMIT} (such as 16GB), or query the file with a DuckDB client, read-only"
            ) from None
        raise UnreadableInput(f"the query failed: {error}") from None
