"""Reads JSON lines, one object per physical line: every line becomes a row or a rejected line with a reason.

Blocks without doubts are read by `json_arrow`, others line by line, with the same result.

Columns are keys; a key of a nested object has its path, such as `user.id`. Values are read as the text that a CSV would
have: numbers as they are written, `true` and `false`, and null as an empty text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from pipeline.config.dataset import Dataset, Reading
from pipeline.schemas.reasons import Reason
from pipeline.sources import json_arrow
from pipeline.sources.blocks import whole_lines
from pipeline.sources.dialect import find_column
from pipeline.sources.doubts import KEY_TWICE
from pipeline.sources.duckdb_reader import ROLES, FileResult, wanted_columns
from pipeline.sources.extra_columns import keys_of, stored_columns
from pipeline.sources.line_reader import Lines, exploded, shown
from pipeline.sources.parquet_writer import ROW_GROUP, PartWriter, text_schema
from pipeline.sources.parsing import Rejected, row_reader
from pipeline.sources.plain_text import prepare
from pipeline.storage.warehouse import Connection

_AT_ONCE = 8
"""Blocks that are parsed at a time, 4 MB."""
SAMPLED = 1000
"""Lines whose keys are the columns of a file."""
JsonLine = tuple[int, bytes, dict[str, object] | Reason]
"""Number of a physical line, its bytes, and its object or the reason it is rejected."""


def read_json_lines(
    con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool = False
) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read line by line in any case."""
    plain, reading = prepare(path, name, dataset.source, into / ".plain")
    wanted, keys = wanted_columns(dataset), keys_of(dataset)
    check_columns(plain, name, reading, {keys.get(role, f"columns.{role}"): c for role, c in wanted.items()})
    with plain.open("rb") as file:
        first = islice(iter(Lines(file).take, None), SAMPLED)  # of a very long line only the beginning
        shape = None if exact else json_arrow.shape_of(first, dataset)
    with PartWriter(into, name, schema=text_schema(stored_columns(dataset))) as part:
        text = _Text(con, plain, reading, dataset, shape, part)
        for piece in _pieces(plain):
            text.read(piece)
        text.write()
    if text.lines and not text.one_by_one:
        return FileResult(dict(part.ledger), None)
    fault = "as asked" if exact else text.fault or "an empty file"
    read = f"{text.one_by_one:,} of {text.lines:,} lines: {fault}"
    return FileResult(dict(part.ledger), read, dict(part.looks), dict(part.doubts))


@dataclass(frozen=True)
class _Block:
    """Whole lines."""

    text: bytes
    first: int
    """Number of the first line."""
    lines: int
    is_cut: bool
    """Whether the text has only the beginning of a line that is too long."""
    start: int
    """Offset in the file."""


def _pieces(plain: Path) -> Iterator[list[_Block]]:
    """The blocks of a file, some at a time."""
    piece: list[_Block] = []
    line = 1
    with plain.open("rb") as file:
        for start, _, text, is_cut in whole_lines(file):
            lines = text.count(b"\n") + (not text.endswith(b"\n"))
            piece.append(_Block(text, line, lines, is_cut, start))
            line += lines
            if len(piece) == _AT_ONCE:
                yield piece
                piece = []
    yield piece


class _Text:
    """A file of JSON lines that is being read, in order."""

    def __init__(
        self, con: Connection, plain: Path, reading: Reading, dataset: Dataset,
        shape: json_arrow.Shape | None, part: PartWriter,
    ) -> None:  # fmt: skip
        self.con, self.plain, self.reading, self.dataset = con, plain, reading, dataset
        self.shape, self.part = shape, part
        self.lines = self.one_by_one = 0
        self.fault = ""
        """Why lines were read one by one."""
        self._read_row = row_reader(dataset.columns, dataset.feedback.missing_ratings)
        self._rows: list[pa.RecordBatch] = []

    def read(self, piece: Sequence[_Block]) -> None:
        """Read adjacent blocks, and those that have a fault line by line."""
        if not piece:
            return
        if fault := self._read_fast(piece):
            if len(piece) > 1:
                for block in piece:
                    self.read([block])
                return
            self.fault = fault
            self.write()
            self._read_singly(piece[0])
        self.lines += sum(block.lines for block in piece)

    def write(self) -> None:
        """Write the rows that wait to be written in large groups."""
        self.part.extend(self._rows)
        self._rows = []

    def _read_fast(self, piece: Sequence[_Block]) -> str | None:
        """Read blocks by Arrow; returns the fault that makes them unfit."""
        if self.shape is None:
            return "columns with values of several types"
        if any(block.is_cut for block in piece):
            return "a very long line"
        text = piece[0].text if len(piece) == 1 else b"".join(block.text for block in piece)
        if fault := json_arrow.doubts(text, self.reading.encoding):
            return fault
        n_lines = sum(block.lines for block in piece)
        rows, fault = json_arrow.read_rows(self.con, text, n_lines, self.shape, self.dataset)
        self._rows += rows
        if sum(batch.num_rows for batch in self._rows) >= ROW_GROUP:
            self.write()
        return fault

    def _read_singly(self, block: _Block) -> None:
        wanted, stored, source = wanted_columns(self.dataset), stored_columns(self.dataset), self.dataset.source
        others, part = [wanted.get(role) for role in ROLES if role != "item"], self.part
        twice = finder_of_repeated_keys(wanted.values(), self.reading.encoding)
        for line, raw, found in objects(self.plain, self.reading, block.start, block.first, block.lines):
            self.one_by_one += 1
            if isinstance(found, Reason):
                part.reject(line, None, found, shown(raw, self.reading.encoding))
                continue
            try:
                user, rating, time = (cell(found, column) if column else "" for column in others)
                items = items_of(found, wanted["item"], source.explode)
                for number, row in enumerate([self._read_row(user, item, rating, time) for item in items]):
                    part.keep((*row, *(any_cell(found, c) or None for c in stored.values())))
                    if number == 0 and twice(raw):
                        part.doubts[KEY_TWICE] += 1
            except Rejected as rejected:
                part.note_look(rejected.looks)
                part.reject(line, rejected.column, rejected.reason, shown(raw, self.reading.encoding))


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


def objects(
    plain: Path, reading: Reading, start: int = 0, first: int = 1, n_lines: int | None = None
) -> Iterator[JsonLine]:
    """Every physical line of an unpacked file as an object, or with the reason it is none.

    From the offset `start` on, where line `first` begins, and so many lines; None: all.
    """
    with plain.open("rb") as file:
        file.seek(start)
        lines = Lines(file, first - 1)
        end = None if n_lines is None else first - 1 + n_lines
        while (end is None or lines.number < end) and (raw := lines.take()) is not None:
            yield lines.number, raw, _parsed(raw, reading.encoding)


def cell(found: dict[str, object], column: str) -> str:
    """The text of a column. Raises Rejected for a list or an object: it is no single value."""
    value = _value(found, column)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    raise Rejected(Reason.NESTED_VALUE, column)


def _value(found: dict[str, object], column: str) -> object:
    """The value of a key, else the one that its path has."""
    value: object = found.get(column)
    if value is None and "." in column:
        value = found
        for key in column.split("."):
            value = value.get(key) if isinstance(value, dict) else None
    return value


def items_of(found: dict[str, object], column: str, separator: str) -> list[str]:
    """The item of an object; with `separator`, its items, which may be a list of texts and numbers."""
    value = _value(found, column)
    if separator and isinstance(value, list):
        return [cell({column: each}, column) for each in value] or [""]
    return exploded(cell(found, column), separator)


def any_cell(found: dict[str, object], column: str) -> str:
    """The text of a column; lists and objects as JSON."""
    try:
        return cell(found, column)
    except Rejected:
        return json.dumps(_value(found, column), ensure_ascii=False)


def kinds_of(found: Sequence[dict[str, object]], names: Iterable[str]) -> dict[str, set[str]]:
    """Types of the values of each column, without null: text, whole number, number, flag, list or object."""
    kinds: dict[str, set[str]] = {}
    for name in names:
        values = (_value(each, name) for each in found)
        kinds[name] = {_kind(value) for value in values if value is not None}
    return kinds


def _kind(value: object) -> str:
    if isinstance(value, _Number):
        return "whole number" if value.lstrip("-").isdigit() else "number"
    if isinstance(value, str):
        return "text"
    return "flag" if isinstance(value, bool) else "list" if isinstance(value, list) else "object"


def parse_object(line: str) -> dict[str, object] | None:
    """The object of a line; None if it is none."""
    found = _parsed(line.encode(), "utf-8")
    return None if isinstance(found, Reason) else found


def finder_of_repeated_keys(columns: Iterable[str], encoding: str) -> Callable[[bytes], bool]:
    """A function that tells whether a line of JSON has a key of these columns twice in one object."""
    keys = frozenset(part for column in columns for part in (column, *column.split(".")))
    written = [json.dumps(key, ensure_ascii=False).encode(encoding, "replace") for key in keys]

    def has_repeated_key(raw: bytes) -> bool:
        if b"\\u" not in raw and all(raw.count(key) < 2 for key in written):
            return False
        is_repeated = False

        def pairs(found: list[tuple[str, object]]) -> None:
            nonlocal is_repeated
            names = [name for name, _ in found if name in keys]
            is_repeated = is_repeated or len(set(names)) < len(names)

        json.loads(raw.decode(encoding), object_pairs_hook=pairs, parse_int=str, parse_float=str)
        return is_repeated

    return has_repeated_key


class _NoNumber(ValueError):
    """NaN or Infinity, which are no JSON."""


def _no_number(text: str) -> NoReturn:
    raise _NoNumber(text)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may be half of a surrogate pair."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_no_number)


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
