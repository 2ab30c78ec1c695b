"""Checks the SQL of readers: only one query is allowed, by its statement type and its parsed tree.

The statement type is not enough: `EXPLAIN ANALYZE COPY …` is an EXPLAIN that writes, `WITH x AS (COPY …) SELECT`
is a SELECT that writes. So the tree is walked, and everything that is not listed here is refused. The connection
is locked as well (`warehouse.open_locked`).
"""

import json
import re
from collections.abc import Collection
from itertools import pairwise
from typing import Any, cast

from pipeline.storage import warehouse

QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
TABLE_REFS = {"BASE_TABLE", "SUBQUERY", "JOIN", "TABLE_FUNCTION", "EXPRESSION_LIST", "EMPTY", "PIVOT", "SHOW_REF"}
TABLE_FUNCTIONS = {
    "duckdb_approx_database_count", "duckdb_columns", "duckdb_constraints", "duckdb_coordinate_systems",
    "duckdb_databases", "duckdb_dependencies", "duckdb_dialects", "duckdb_functions", "duckdb_indexes",
    "duckdb_keywords", "duckdb_memory", "duckdb_optimizers", "duckdb_schemas", "duckdb_sequences", "duckdb_settings",
    "duckdb_table_sample", "duckdb_tables", "duckdb_triggers", "duckdb_types", "duckdb_variables", "duckdb_views",
    "generate_series", "histogram", "histogram_values", "icu_calendar_names", "json_each", "json_tree",
    "pg_timezone_names", "pragma_collations", "pragma_database_size", "pragma_metadata_info", "pragma_platform",
    "pragma_show", "pragma_storage_info", "pragma_table_info", "pragma_user_agent", "pragma_version", "query_table",
    "range", "repeat", "repeat_row", "summary", "test_all_types", "test_vector_types", "unnest",
}  # fmt: skip
"""Table functions that compute, or describe the open database. All others are refused, including new ones."""
FILE_FUNCTIONS = {
    "parquet_scan", "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto",
    "read_parquet",
}  # fmt: skip
"""Table functions that read files, for queries of sources. The connection limits which."""
REFUSED_FUNCTIONS = {"currval", "getenv", "json_serialize_plan", "nextval", "setval", "write_log"}
"""Scalar functions that change something, or plan a statement that was not checked."""
PRAGMAS = {
    "collations", "database_list", "database_size", "functions", "metadata_info", "platform", "show", "show_databases",
    "show_tables", "show_tables_expanded", "storage_info", "table_info", "user_agent", "version",
}  # fmt: skip
"""Pragmas that only describe; the others set or run something."""
QUERY_WORDS = {"describe", "desc", "explain", "from", "pivot", "pivot_longer", "pivot_wider", "select", "show",
               "summarize", "table", "unpivot", "values", "with"}  # fmt: skip
VERBS = {"alter", "analyze", "attach", "call", "checkpoint", "comment", "copy", "create", "deallocate", "delete",
         "detach", "drop", "execute", "export", "force", "import", "insert", "install", "load", "merge", "pragma",
         "prepare", "replace", "reset", "set", "truncate", "update", "upsert", "use", "vacuum"}  # fmt: skip
"""First words of statements that are not queries."""
BEFORE_STATEMENTS = {"", "(", ")", ";", "explain", "analyze", "verbose"}
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\"(?:[^\"]|\"\")*\"")


class NotAQuery(ValueError):
    """A statement that a reader may not run. The message says which and why."""


def check(con: warehouse.Connection, text: str) -> None:
    """Raise NotAQuery unless `text` is one query. DuckDB's error is raised for text that can't be parsed."""
    kinds = warehouse.statement_types(con, text)
    if len(kinds) != 1:
        raise NotAQuery(f"{len(kinds)} statements: write one" if kinds else "there is no statement")
    (kind,) = kinds
    match kind:
        case "SELECT":
            _check_tree(con, text)
        case "EXPLAIN":
            check(con, _explained(con, text))
        case "MULTI":
            _check_words(con, text)
        case "PRAGMA":
            _check_pragma(con, text)
        case _:
            raise _refused(kind.replace("_", " "))


def check_source(con: warehouse.Connection, text: str) -> dict[str, Any]:
    """Raise NotAQuery unless `text` is one SELECT, which may read files; returns its parsed tree."""
    kinds = warehouse.statement_types(con, text)
    if len(kinds) != 1:
        raise NotAQuery(f"{len(kinds)} statements: write one" if kinds else "there is no statement")
    if kinds[0] != "SELECT":
        raise NotAQuery(f"{kinds[0].replace('_', ' ')} is not allowed here: only a SELECT is")
    try:
        return _check_tree(con, text, TABLE_FUNCTIONS | FILE_FUNCTIONS)
    except NotAQuery as refused:  # what readers may query is something else
        raise NotAQuery(str(refused).replace("queries of the published tables are", "reading files is")) from None


def _refused(what: str) -> NotAQuery:
    return NotAQuery(f"{what} is not allowed here: only queries of the published tables are")


def _check_tree(con: warehouse.Connection, text: str, functions: Collection[str] = TABLE_FUNCTIONS) -> dict[str, Any]:
    """Walk the parsed tree of a SELECT, which may call the table functions `functions`, and return it."""
    try:
        parsed = json.loads(warehouse.parsed_tree(con, text))
    except RecursionError:
        raise NotAQuery("it is nested too deeply to be examined") from None
    if parsed.get("error"):
        raise NotAQuery(f"it can't be examined: {parsed.get('error_message')}")
    waiting: list[Any] = list(parsed["statements"])
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            node = cast("dict[str, Any]", node)
            _check_node(node, functions)
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return parsed


def _check_node(node: dict[str, Any], functions: Collection[str]) -> None:
    kind = node.get("type")
    if "class" in node:  # an expression; its type is an operator
        name = str(node.get("function_name") or "").lower()
        if name in REFUSED_FUNCTIONS:
            raise _refused(f"{name}()")
    elif "cte_map" in node:
        if kind not in QUERY_NODES:
            raise _refused(str(kind).removesuffix("_QUERY_NODE").replace("_", " "))
    elif "alias" in node and isinstance(kind, str):
        if kind not in TABLE_REFS:
            raise _refused(f"a table reference of type {kind}")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name") or "").lower()
            if name not in functions:
                raise _refused(f"the table function {name}()")


def _explained(con: warehouse.Connection, text: str) -> str:
    """The statement inside an EXPLAIN: the longest suffix of the text that is a statement."""
    for start in warehouse.token_starts(con, text)[1:]:
        try:
            if warehouse.statement_types(con, text[start:]):
                return text[start:]
        except warehouse.DatabaseError:
            continue
    raise NotAQuery("it can't be examined")


def _check_words(con: warehouse.Connection, text: str) -> None:
    """Check the words of a PIVOT whose columns depend on the data, for which DuckDB gives no tree.

    Statements are at the start, after a parenthesis or after EXPLAIN; functions are before a parenthesis.
    """
    words = _words(con, text)
    unsafe = {name for name in warehouse.table_functions(con) if name not in TABLE_FUNCTIONS} | REFUSED_FUNCTIONS
    if words[0][0] not in {*QUERY_WORDS, "("}:
        raise _refused(words[0][0].upper())
    for (before, _), (word, quoted) in zip([("", False), *words], words, strict=False):
        begins = before in BEFORE_STATEMENTS and (before, word) != ("explain", "analyze")
        if begins and word in VERBS and not quoted:
            raise _refused(word.upper())
    for (word, _), (after, _) in pairwise(words):
        if after == "(" and word in unsafe:
            raise _refused(f"{word}()")


def _check_pragma(con: warehouse.Connection, text: str) -> None:
    words = _words(con, text)
    name = words[1][0] if len(words) > 1 else ""
    if name not in PRAGMAS or any(word == "=" for word, _ in words):
        raise _refused(f"PRAGMA {name}")


def _words(con: warehouse.Connection, text: str) -> list[tuple[str, bool]]:
    """Words and symbols without comments, in lower case, and whether they were quoted."""
    starts = warehouse.token_starts(con, text)
    found: list[tuple[str, bool]] = []
    for start in starts:
        word = WORD.match(text, start)
        raw = word[0] if word else text[start : start + 1]
        quoted = raw.startswith('"')
        found.append(((raw[1:-1].replace('""', '"') if quoted else raw).lower(), quoted))
    return found
