"""Reads a journal table of many runs into a frame; a home has hundreds of runs, and a night copies all their rows."""

import datetime as dt
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any

import polars as pl

from pipeline.core.console import log_once
from pipeline.schemas.table import BIG, BOOL, FLOAT, INT, TIME, Table
from pipeline.storage import state_files

SETTLED = 2.0
"""Seconds after which a file is not changed again without another time of change, however coarse the clock is."""

Columns = dict[str, list[Any]]


def frame_of(table: Table, files: Iterable[Path]) -> pl.DataFrame:
    """The records of JSON-lines files that match the schema. The others are counted and left out.

    For records with the same key the last one counts.
    """
    columns: Columns = {name: [] for name in table.columns}
    wrong = 0
    for file in files:
        records = _records(file)
        found = _columns(table, records)
        if found is None:
            rows = [row for record in records if (row := state_files.fits(table, record)) is not None]
            wrong += len(records) - len(rows)
            found = {name: [row[name] for row in rows] for name in columns}
        for name, values in found.items():
            columns[name] += values
    if wrong:
        log_once(f"{wrong} records of the journal's {table.name} are damaged and left out")
    frame = pl.DataFrame(columns, schema=table.schema)
    return table.check(frame.unique(table.key, keep="last", maintain_order=True), unique=False)


def signature(path: Path) -> tuple[int, int, int, int] | None:
    """What tells whether a file has changed since; None where it can't be read, or may change without another one.

    The file is opened: on a network file system that asks the server.
    """
    try:
        with path.open("rb") as file:
            at = os.fstat(file.fileno())
    except OSError:
        return None
    if time.time() - max(at.st_mtime, at.st_ctime) < SETTLED:
        return None
    return at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns


def _records(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line: all at once, or line by line where one is torn or of another kind."""
    from pydantic_core import from_json  # several times as fast as json; most commands read no tables

    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        whole = all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines)
        found: list[Any] = from_json(b"[" + b",".join(lines) + b"]") if whole else []
        if len(found) == len(lines) and set(map(type, found)) <= {dict}:
            return found
    except (OSError, ValueError):
        pass  # the slower way says what is wrong
    return list(state_files.read_records(path))


def _columns(table: Table, records: list[dict[str, Any]]) -> Columns | None:
    """The records by column, as `state_files.fits` reads each; None where one of them does not fit."""
    columns: Columns = {}
    for name, column in table.columns.items():
        values = [record.get(name) for record in records]
        kinds = set(map(type, values))
        if NoneType in kinds and not column.nullable:
            return None
        found = _read(values, kinds - {NoneType}, column.dtype)
        if found is None:
            return None
        columns[name] = found
    return columns


def _read(values: list[Any], kinds: set[type], dtype: pl.DataType | type[pl.DataType]) -> list[Any] | None:
    """Values of JSON of these kinds as those of a type; None where one is not of it."""
    if dtype in (INT, BIG):
        limit = state_files.INT_LIMITS[dtype]
        fits = kinds <= {int} and all(value is None or -limit <= value < limit for value in values)
        return values if fits else None
    if dtype == FLOAT:
        if not kinds <= {int, float}:
            return None
        return [None if value is None else float(value) for value in values] if int in kinds else values
    if dtype == BOOL:
        return values if kinds <= {bool} else None
    if not kinds <= {str}:
        return None
    return _times(values) if dtype == TIME else values


def _times(texts: list[str | None]) -> list[dt.datetime | None] | None:
    try:
        times = [None if text is None else dt.datetime.fromisoformat(text) for text in texts]
    except ValueError:
        return None
    return None if any(at and at.tzinfo for at in times) else times
