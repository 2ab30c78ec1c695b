"""Reads and appends to the small state files of a home. Damaged ones are tolerated where a command can do without them.

A file that is empty, torn, of another type, not UTF-8, a folder or not readable is reported once and then treated as
missing. The holder of the data set's lock may set it aside.
"""

import datetime as dt
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, overload

import polars as pl

from pipeline.core.console import log_once
from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import set_aside
from pipeline.schemas.table import BIG, BOOL, FLOAT, INT, TIME, Table

INT_LIMITS = {INT: 2**31, BIG: 2**63}


class Damaged(UnreadableInput):
    """A state file that can't be used. The message names the file and the reason."""

    def __init__(self, path: Path, why: str, advice: str = ""):
        super().__init__(f"{path} is damaged: {why}" + (f"; {advice}" if advice else ""))
        self.path, self.why = path, why


@overload
def load(path: Path, kind: type[dict[Any, Any]], advice: str = "") -> dict[str, Any]: ...
@overload
def load(path: Path, kind: type[list[Any]], advice: str = "") -> list[Any]: ...
def load(path: Path, kind: type[Any], advice: str = "") -> Any:
    """The JSON value in a file. Raises FileNotFoundError if it is missing, Damaged if it is not a JSON `kind`."""
    text = _text(path, "strict", advice)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(path, "it is empty" if not text.strip() else f"it is not JSON ({error})", advice) from None
    if not isinstance(value, kind):
        raise Damaged(path, f"it holds a JSON {type(value).__name__}, not a {kind.__name__}", advice)
    return value


@overload
def read(path: Path, kind: type[dict[Any, Any]]) -> dict[str, Any] | None: ...
@overload
def read(path: Path, kind: type[list[Any]]) -> list[Any] | None: ...
def read(path: Path, kind: type[Any]) -> Any:
    """Like `load`, but None if the file is missing or damaged; damage is logged once."""
    try:
        return load(path, kind)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        skip(path, damage.why)
        return None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; empty if it is missing. Bytes that are not UTF-8 become `�`."""
    try:
        return _text(path, "replace").splitlines()
    except FileNotFoundError:
        return []
    except Damaged as damage:
        skip(path, damage.why)
        return []


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one per line.

    A line torn by a full disk or a kill is skipped silently. If no line is an object, the file is reported as damaged.
    """
    lines = [line for line in read_lines(path) if line.strip()]
    found = [record for record in map(_object, lines) if record is not None]
    if lines and not found:
        skip(path, "none of its lines is a JSON object")
    yield from found


def append_records(path: Path, records: Iterable[Mapping[str, object]], sync: bool = True) -> None:
    """Append JSON objects, one per line, to a file that `read_records` reads; by default flushed to disk."""
    with path.open("a") as file:
        if file.tell():
            file.write("\n")  # a torn last line must not take the next one with it
        for record in records:
            file.write(json.dumps(record, default=str) + "\n")
        if sync:
            file.flush()
            os.fsync(file.fileno())


def fits(table: Table, record: Mapping[str, object]) -> dict[str, object] | None:
    """The record's values for the columns of a table, with times parsed; None if one is missing or of another type."""
    row: dict[str, object] = {}
    try:
        for name, nullable, read_value in _columns_of(table):
            value = record.get(name)
            if value is None and not nullable:
                return None
            row[name] = None if value is None else read_value(value)
    except (TypeError, ValueError):
        return None
    return row


def mend(path: Path, trouble_of: Callable[[dict[str, Any]], str | None] | None = None) -> None:
    """Set the file of a JSON object aside, with a warning, if it is damaged or `trouble_of(content)` returns a reason.

    A file without read permission stays.
    """
    try:
        content = load(path, dict)
        if trouble_of and (trouble := trouble_of(content)):
            raise Damaged(path, trouble)
    except FileNotFoundError:
        return
    except Damaged as damage:
        allowed = path.is_dir() or os.access(path, os.R_OK)
        aside = set_aside(path) if allowed else None
        if aside:
            log_once(f"{damage}; it is set aside as {aside.name}")
        else:
            skip(path, damage.why)


def skip(path: Path, why: str) -> None:
    """Log once that a file is left out."""
    log_once(f"{path} is damaged and left out: {why}")


def _text(path: Path, errors: str, advice: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except UnicodeDecodeError as error:
        raise Damaged(path, f"it is not UTF-8 (byte {error.start})", advice) from None
    except OSError as error:
        raise Damaged(path, f"it can't be read ({error.strerror or error})", advice) from None


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


@lru_cache(maxsize=64)
def _columns_of(table: Table) -> tuple[tuple[str, bool, Callable[[object], object]], ...]:
    """Name, whether it may be null, and reader of each column: comparing types of Polars for each value is slow."""
    return tuple((name, column.nullable, _reader_of(column.dtype)) for name, column in table.columns.items())


def _reader_of(dtype: pl.DataType | type[pl.DataType]) -> Callable[[object], object]:
    """A function that returns a value of JSON as one of this type, and raises TypeError or ValueError for others."""
    if dtype in (INT, BIG):
        limit = INT_LIMITS[dtype]
        return lambda value: _checked(value, type(value) is int and -limit <= value < limit)
    if dtype == TIME:
        return _time
    if dtype == BOOL:
        return lambda value: _checked(value, isinstance(value, bool))
    if dtype == FLOAT:
        return lambda value: _checked(value, isinstance(value, int | float) and not isinstance(value, bool))
    return lambda value: _checked(value, isinstance(value, str))


def _checked(value: object, fits: bool) -> object:
    if not fits:
        raise TypeError(value)
    return value


def _time(value: object) -> dt.datetime:
    if not isinstance(value, str) or (time := dt.datetime.fromisoformat(value)).tzinfo:
        raise TypeError(value)
    return time
