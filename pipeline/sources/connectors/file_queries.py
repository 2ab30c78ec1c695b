"""Queries on files in the data set's folder, and on the tables of a DuckDB file: DuckDB's SQL, read-only.

The statement is one SELECT, checked by its parsed tree, on a connection that reaches the folder and nothing else.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipeline.core.errors import UnreadableInput
from pipeline.sources.connectors import query_results
from pipeline.sources.connectors.problems import Where, shortened
from pipeline.storage import statements, warehouse
from pipeline.storage.warehouse import Connection

_FILE = re.compile(r"\.(csv|tsv|txt|parquet|json|jsonl|ndjson)(\.(gz|zst))?$", re.IGNORECASE).search
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://").match
_OUTSIDE = re.compile(r"Cannot access (?:file|directory) \"([^\"]*)\"").search
LIMITED = 10_000
"""Rows that `init` looks at."""


@dataclass(frozen=True)
class Limits:
    """What a query may use of the machine."""

    temporary: Path
    """Folder for results that do not fit into memory."""
    memory_limit: str | None = None
    threads: int = 0
    rows: int | None = None
    """Only so many rows, for a look at them. Names are those of the query, which a subquery would change."""


def write(query: str, folder: Path, database: str | None, path: Path, where: Where, limits: Limits) -> int:
    """Write the result of the query to `path`; returns its number of rows. Relative paths are below `folder`.

    Raises UnreadableInput if the query is refused or fails, or if the database can't be opened.
    """
    folder = folder.resolve()
    con = _opened(folder, database, where, limits)
    try:
        statement = _statement(con, query, folder, where)
        query_results.check_names(con.sql(statement).columns, where)
        some = statement if limits.rows is None else f"SELECT * FROM ({statement}) AS q LIMIT {limits.rows}"
        return query_results.write(con, some, path)
    except statements.NotAQuery as refused:
        raise where.unreadable("query", f"it was refused: {refused}") from None
    except warehouse.DatabaseError as error:
        raise _explained(error, folder, where) from None
    finally:
        con.close()


def _opened(folder: Path, database: str | None, where: Where, limits: Limits) -> Connection:
    file = folder / Path(database).expanduser() if database else None
    if file and not file.is_file():
        raise where.unreadable("database", f"there is no file {file}; the path is relative to {folder}")
    try:
        return warehouse.open_for_query(folder, limits.temporary, file, limits.memory_limit, limits.threads)
    except warehouse.DatabaseError as error:
        if who := warehouse.holder(error):
            held = f"{file} is held by {who}, which opened it for writing: close it there, or query a copy"
            raise where.unreadable("database", held) from None
        what = f"{file} can't be opened as a DuckDB database" if file else "DuckDB can't be started"
        raise where.unreadable("database" if file else "query", f"{what}: {shortened(str(error))}") from None


def _statement(con: Connection, query: str, folder: Path, where: Where) -> str:
    """The checked query, with paths made absolute: DuckDB looks up relative ones in the current folder."""
    tree = statements.check_source(con, query)
    if _absolute(tree, folder, where):
        return warehouse.text_of_tree(con, json.dumps(tree))
    return query_results.trimmed(query)


def _absolute(node: Any, folder: Path, where: Where) -> bool:
    """Make the paths of a parsed query absolute, in place. Whether one was relative."""
    if isinstance(node, list):
        return any([_absolute(each, folder, where) for each in cast("list[Any]", node)])
    if not isinstance(node, dict):
        return False
    node, changed = cast("dict[str, Any]", node), False
    if node.get("type") == "BASE_TABLE" and _FILE(name := str(node.get("table_name", ""))):
        if (full := _path(name, folder, where)) != name:
            node["table_name"], changed = full, True
            node["qualified_name"] = {"path": [full]}
    elif node.get("type") == "TABLE_FUNCTION":
        function = node["function"]
        if str(function["function_name"]).lower() in statements.FILE_FUNCTIONS:
            changed = _absolute_texts(function["arguments"][:1], folder, where)
    return any([changed, *[_absolute(each, folder, where) for each in node.values()]])


def _absolute_texts(node: Any, folder: Path, where: Where) -> bool:
    """The same for every text in the first argument of a function: a path, or a list of paths."""
    if isinstance(node, list):
        return any([_absolute_texts(each, folder, where) for each in cast("list[Any]", node)])
    if not isinstance(node, dict):
        return False
    node = cast("dict[str, Any]", node)
    if node.get("kind") == "STRING" and (full := _path(name := str(node["text"]), folder, where)) != name:
        node["text"] = full
        return True
    return any([_absolute_texts(each, folder, where) for each in node.values()])


def _path(name: str, folder: Path, where: Where) -> str:
    if _REMOTE(name):
        raise where.unreadable("query", f"a query reads files of this machine, not {name}: name that under files")
    return name if name.startswith("/") else str(folder / name)


def _explained(error: Exception, folder: Path, where: Where) -> UnreadableInput:
    """The error of a failed query, in terms of the data set."""
    if outside := _OUTSIDE(str(error)):
        advice = f"only files below the data set's folder {folder} can be read; name another folder with --data"
        return where.unreadable("query", f"{outside[1]} can't be read: {advice}")
    if warehouse.is_out_of_memory(error):
        return where.unreadable("query", "it needs more memory than memory_limit: raise it, or select less")
    return where.unreadable("query", f"it failed: {shortened(str(error))}")
