"""Documents of orders and sessions in JSON lines: the items are in a list of objects, so a line has several."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import cast

from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.availability import quoted
from pipeline.sources.sniffing.cells import filled, mostly
from pipeline.sources.sniffing.column_roles import fits
from pipeline.sources.sniffing.preview import Peek

_RESERVED = frozenset(["case", "cast", "column", "default", "end", "from", "group", "order", "select", "table", "user"])
"""Usual keys of documents that SQL reads otherwise."""


def refuse_documents(name: str, table: Peek, roles: Mapping[str, int]) -> None:
    """Raise UnreadableInput if the items are in a list of objects, with the query that gives each a row of its own.

    They are there if the list was taken for the item, or if its objects have a key named after items while no column
    outside the lists is.
    """
    item = roles.get("item", -1)
    if item >= 0 and fits(table.names[item], "item"):
        return
    for at, column in enumerate(table.names):
        cells = [cell for cell in filled(table.column(at)) if cell != "[]"]
        if table.kinds.get(column) != {"list"} or not mostly(cell.startswith("[{") for cell in cells):
            continue
        keys = _keys(cells)
        if keys and (at == item or any(fits(key, "item") for key in keys)):
            raise UnreadableInput(
                f"{name}: {column!r} is a list of objects, so a line has several items, and one line per user and item "
                f"is needed. Let a query write them, in the file's folder: nightrecs init . --query "
                f"{_as_argument(_query(name, table, roles, at, keys))}"
            )


def _query(name: str, table: Peek, roles: Mapping[str, int], at: int, keys: list[str]) -> str:
    """A SELECT with a row for each object in the lists of column `at`."""
    objects = f"unnest({_path(table.names[at])})"
    item = next((key for key in keys if fits(key, "item")), keys[0])
    time = next((key for key in keys if times.is_time_name(key)), "")
    user = _path(table.names[roles["user"]]) if "user" in roles and roles["user"] != at else "USER"
    selected = [f"{user} as user_id", f"{objects}.{_path(item)} as item_id"]
    if "timestamp" in roles:
        selected.append(f"{_path(table.names[roles['timestamp']])} as timestamp")
    elif time:
        selected.append(f"{objects}.{_path(time)} as timestamp")
    file = name.replace("'", "''")
    return f"select {', '.join(selected)} from '{file}'"


def _path(name: str) -> str:
    """A column's path in SQL; each key of it is quoted where it has to be."""
    return ".".join(quoted(key) if key.lower() not in _RESERVED else f'"{key}"' for key in name.split("."))


def _as_argument(query: str) -> str:
    """A query as an argument on a command line."""
    return f'"{query}"' if not re.search(r'["$`\\!]', query) else shlex.quote(query)


def _keys(cells: list[str]) -> list[str]:
    """Keys of the objects in the first lists, in order."""
    found: dict[str, None] = {}
    for cell in cells[:100]:
        for each in cast("list[object]", json.loads(cell)):
            found |= dict.fromkeys(cast("dict[str, object]", each) if isinstance(each, dict) else ())
    return list(found)
