"""Reads JSON lines, one object per physical line: every line becomes a row or a rejected line with a reason.

Columns are keys; a key of a nested object has its path, such as `user.id`. Values are read as the text that a CSV would
have: numbers as they are written, `true` and `false`, and null as an empty text.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn

from pipeline.config.dataset import Dataset, Reading
from pipeline.schemas.reasons import Reason
from pipeline.sources.dialect import find_column
from pipeline.sources.duckdb_reader import ROLES, FileResult, wanted_columns
from pipeline.sources.extra_columns import keys_of, stored_columns
from pipeline.sources.line_reader import Lines, exploded, shown
from pipeline.sources.parquet_writer import PartWriter, text_schema
from pipeline.sources.parsing import Rejected, row_reader
from pipeline.sources.plain_text import prepare

SAMPLED = 1000
"""Lines whose keys are the columns of a file."""
JsonLine = tuple[int, bytes, dict[str, object] | Reason]
"""Number of a physical line, its bytes, and its object or the reason it is rejected."""


def read_json_lines(path: Path, name: str, dataset: Dataset, into: Path) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`."""
    plain, reading = prepare(path, name, dataset.source, into / ".plain")
    wanted, keys = wanted_columns(dataset), keys_of(dataset)
    check_columns(plain, name, reading, {keys.get(role, f"columns.{role}"): c for role, c in wanted.items()})
    read = row_reader(dataset.columns, dataset.feedback.missing_ratings)
    others = [wanted.get(role) for role in ROLES if role != "item"]
    stored = stored_columns(dataset)
    with PartWriter(into, name, schema=text_schema(stored)) as part:
        for line, raw, found in objects(plain, reading):
            if isinstance(found, Reason):
                part.reject(line, None, found, shown(raw, reading.encoding))
                continue
            try:
                for item in items_of(found, dataset.columns.item, dataset.source.explode):
                    user, rating, time = (cell(found, column) if column else "" for column in others)
                    part.keep((*read(user, item, rating, time), *(any_cell(found, c) or None for c in stored.values())))
            except Rejected as rejected:
                part.note_look(rejected.looks)
                part.reject(line, rejected.column, rejected.reason, shown(raw, reading.encoding))
    return FileResult(dict(part.ledger), "JSON lines", dict(part.looks))


def check_columns(plain: Path, name: str, reading: Reading, wanted: dict[str, str]) -> list[str]:
    """The columns of the first lines; `wanted` maps settings' keys to columns that must be there.

    Raises UnreadableInput if one is not.
    """
    names = list(columns_of(found for _, _, found in islice(objects(plain, reading), SAMPLED)))
    for key, column in wanted.items():
        find_column(column, key, names, name)
    return names


def columns_of(found: Iterable[dict[str, object] | Reason]) -> dict[str, None]:
    """The columns of objects, in the order of their first appearance."""
    return {column: None for each in found if not isinstance(each, Reason) for column in _paths(each)}


def objects(plain: Path, reading: Reading) -> Iterator[JsonLine]:
    """Every physical line of an unpacked file as an object, or with the reason it is none."""
    with plain.open("rb") as file:
        lines = Lines(file)
        while (raw := lines.take()) is not None:
            yield lines.number, raw, _parsed(raw, reading.encoding)


def cell(found: dict[str, object], column: str) -> str:
    """The text of a column. Raises Rejected for a list or an object: it is no single value."""
    value: object = found.get(column)
    if value is None and "." in column:
        value = found
        for key in column.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    raise Rejected(Reason.NESTED_VALUE, column)


def items_of(found: dict[str, object], column: str, separator: str) -> list[str]:
    """The item of an object; with `separator`, its items, which may be a list of texts and numbers."""
    value = found.get(column)
    if separator and isinstance(value, list):
        return [cell({column: each}, column) for each in value] or [""]
    return exploded(cell(found, column), separator)


def any_cell(found: dict[str, object], column: str) -> str:
    """The text of a column; lists and objects as JSON."""
    try:
        return cell(found, column)
    except Rejected:
        return json.dumps(found.get(column), ensure_ascii=False)


def parse_object(line: str) -> dict[str, object] | None:
    """The object of a line; None if it is none."""
    found = _parsed(line.encode(), "utf-8")
    return None if isinstance(found, Reason) else found


class _NoNumber(ValueError):
    """NaN or Infinity, which are no JSON."""


def _no_number(text: str) -> NoReturn:
    raise _NoNumber(text)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may be half of a surrogate pair."""
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_number)


def _parsed(raw: bytes, encoding: str) -> dict[str, object] | Reason:
    if reason := Lines.fault(raw):
        return reason
    try:
        text = raw.decode(encoding)
        found = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()  # half of a pair, which no file can store
    except UnicodeError:
        return Reason.BAD_ENCODING
    except (ValueError, RecursionError):
        return Reason.BAD_JSON
    if not isinstance(found, dict):
        return Reason.BAD_JSON
    return found


def _paths(found: dict[str, object], before: str = "") -> Iterator[str]:
    for key, value in found.items():
        if isinstance(value, dict) and value:
            yield from _paths(value, f"{before}{key}.")
        else:
            yield before + key
