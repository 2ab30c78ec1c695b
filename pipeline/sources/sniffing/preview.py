"""The first rows of any file as text, and the file's layout."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UnreadableInput
from pipeline.sources import files
from pipeline.sources.dialect import fields
from pipeline.sources.doubts import KEY_TWICE, in_words
from pipeline.sources.extra_columns import is_bytes
from pipeline.sources.file_kinds import START, Kind, kind_of, wide_encoding
from pipeline.sources.json_lines import any_cell, columns_of, finder_of_repeated_keys, kinds_of, parse_object
from pipeline.sources.plain_text import has_returns_only
from pipeline.sources.sniffing.column_roles import NAMES, fits, guessed_names
from pipeline.sources.sniffing.encodings import Guess, guess
from pipeline.sources.sniffing.headers import is_header
from pipeline.sources.sniffing.layouts import TextLayout, layout_of
from pipeline.sources.sniffing.shapes import refuse_adjacency, refuse_lines, refuse_matrix, refuse_prose

FIRST = 2**22  # bytes
_FIRST_OBJECTS = 1000


@dataclass
class Peek:
    """The first rows of a file, as text."""

    names: list[str]
    rows: list[list[str]]
    reading: dict[str, Any] = field(default_factory=dict)
    """Keys of config.dataset.Reading for the file's layout; empty for JSON lines and Parquet files."""
    notes: list[str] = field(default_factory=list)
    """What was guessed about the layout, for a person to check."""
    has_layout: bool = True
    """False for JSON lines and Parquet, which have no delimiter."""
    nested: dict[str, str] = field(default_factory=dict)
    """Columns of a Parquet file that hold lists or structs, to their type."""
    has_names: bool = True
    """False: the names were guessed from the values."""
    kinds: dict[str, set[str]] = field(default_factory=dict)
    """Types of the values of each column of JSON lines, such as text and number."""
    header_end: int = 0
    """Physical lines of a text up to the end of its header, or of its first row."""
    undecoded: dict[str, int] = field(default_factory=dict)
    """Columns of a Parquet file with bytes that are no UTF-8, to the number of such values."""

    def column(self, at: int) -> list[str]:
        """The cells of one column."""
        return [row[at] for row in self.rows]


def peek(path: Path, known: Collection[str] = ()) -> Peek:
    """Preview a file; a first line with one of the names `known` is a header.

    Raises UnreadableInput if the file is empty or of a kind that is not read.
    """
    kind = kind_of(path, path.name)
    if kind == Kind.PARQUET:
        return _parquet(path)
    text = first_text(path)
    return _json_lines(path, text) if kind == Kind.JSON_LINES else _text(path, text, known)


@dataclass
class FirstText:
    """The first lines of a text file, decoded."""

    lines: list[str]
    guess: Guess
    is_whole: bool
    """The lines are all that the file has."""


def first_text(path: Path) -> FirstText:
    """The first FIRST bytes of a text file, up to the end of a line."""
    start = files.first_bytes(path, FIRST)
    is_whole = len(start) < FIRST
    wide = wide_encoding(start)
    returns = has_returns_only(start[:START], wide or "latin-1")
    end = (b"\r" if returns else b"\n") if not wide else b""
    whole = start if is_whole or wide else start[: start.rfind(end) + 1]
    found = guess(whole)
    text = whole.decode(found.encoding, "replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n").replace("\r", "\n") if returns else text
    lines = [line.removesuffix("\r").lstrip("\ufeff") for line in text.split("\n")]
    if lines and (not lines[-1] or not is_whole):
        lines.pop()
    return FirstText(lines, found, is_whole)


def _text(path: Path, text: FirstText, known: Collection[str]) -> Peek:
    filled = sum(bool(line.strip()) for line in text.lines)
    if filled < 2:
        what = "is empty" if not filled else "has one line only: rows are needed next to a header"
        raise UnreadableInput(f"{path.name} {what}; choose another file")
    refuse_lines(path.name, text.lines)
    n_joined = _joined_by_returns(path.name, text.lines)
    layout = layout_of(text.lines, path.name)
    marks, rows, width = layout.marks, layout.records, layout.width
    if not rows:
        return Peek([], [], notes=[text.guess.note] if text.guess.note else [])
    refuse_matrix(path.name, rows)
    names = [" ".join(name.split()) for name in rows[0]]
    repeated = rows[1:].count(rows[0])
    body = [row for row in rows[1:] if len(row) == width]
    header = any(name in known for name in names) or is_header(names, body)
    if not header:
        refuse_adjacency(path.name, rows, marks.delimiter)
    refuse_prose(path.name, rows, layout.is_even)
    notes = [text.guess.note] if text.guess.note else []
    if header and repeated:
        body = [row for row in body if row != rows[0]]
        notes.append(f"the header occurs again in {repeated:,} of the first lines, which are left out as no rows")
    reading: dict[str, Any] = {"delimiter": marks.delimiter, "header": header}
    skip, has_names = layout.skip_lines, True
    if header and width < len(names) and not any(names[width:]):  # delimiters after the last name alone
        names = names[:width]
        header, skip = False, layout.header_end
        reading |= {"header": False, "column_names": names}
    elif header and width == len(names) + 1:
        notes.append(f"the header has {len(names)} names, but the rows have {width} fields; {_SHIFTED}")
        last = all(not row[-1].strip() for row in body)
        names = [*names, f"column_{width}"] if last else ["row", *names]
        header, skip = False, layout.header_end
        reading |= {"header": False, "column_names": names}
    elif header and width != len(names):
        raise UnreadableInput(
            f"{path.name}: the header has {len(names)} names, and most rows have {width} fields: write a name for each "
            "field, or set header = false, skip_lines and column_names in a data set's TOML"
        )
    elif not header:
        body = [row for row in rows if len(row) == width]
        said = _names_of_comment(layout.comments, width)
        has_names, names = bool(said), said or guessed_names(body, width)
        reading["column_names"] = names
    notes += _layout_notes(layout)
    if n_joined:
        notes.append(
            f"{n_joined:,} of the first lines are several lines that end in CR alone, which the night rejects: "
            f"{_ONE_LINE_END}"
        )
    reading |= {"encoding": text.guess.encoding, "quote": marks.quote}
    reading |= {"escape": marks.escape} if marks.escape else {}
    reading |= {"comment": layout.comment} if layout.comment else {}
    reading |= {"skip_lines": skip} if skip else {}
    body = [row for row in body if len(row) == len(names)]
    return Peek(names, body, reading, notes, has_names=has_names, header_end=layout.header_end)


def _joined_by_returns(name: str, lines: list[str]) -> int:
    """How many lines are several whole records, with a CR alone between them: the night reads each as one broken line.

    Raises UnreadableInput if the first one is, since the header would be lost.
    """
    first = next((line for line in lines if line.strip()), "")
    if not any("\r" in line for line in lines):
        return 0
    layout = layout_of([part for line in lines for part in line.split("\r")], name)
    whole = {line for line in lines if "\r" in line and all(
        len(fields(part, layout.marks)) == layout.width > 1 for part in line.split("\r"))}  # fmt: skip
    if first in whole:
        raise UnreadableInput(f"{name}: its first line ends in CR alone, and others in LF: {_ONE_LINE_END}")
    return sum(line in whole for line in lines)


_ONE_LINE_END = "write all line ends alike, e.g. perl -pe 's/\\r\\n?/\\n/g' FILE > out.csv"
_SHIFTED = "names were given to all of them: check column_names"


def _layout_notes(layout: TextLayout) -> list[str]:
    """What was understood of the layout beyond delimiter and quotes."""
    notes: list[str] = []
    if layout.comment:
        notes.append(f"lines that begin with {layout.comment!r} are taken for comments")
    if layout.skip_lines:
        notes.append(f"the columns are in line {layout.skip_lines + 1}: the lines above are skipped")
    if layout.marks.escape:
        notes.append("a backslash before a quote makes it part of the value")
    return notes


def _names_of_comment(comments: list[str], width: int) -> list[str]:
    """Names of the columns from the last comment line of a file without a header; empty if it has none."""
    said = [name for name in re.split(r"[\s,;|]+", comments[-1]) if name] if comments else []
    is_named = len(said) == width and len(set(said)) == width
    return said if is_named and sum(any(fits(name, role) for role in NAMES) for name in said) >= 2 else []


def _json_lines(path: Path, text: FirstText) -> Peek:
    """The first objects of a file of JSON lines; their keys are the columns."""
    if len(text.lines) == 1 and text.is_whole:
        raise UnreadableInput(f"{path.name} is one JSON document: write one object per line, e.g. with jq -c")
    parsed = [parse_object(line) for line in text.lines[:_FIRST_OBJECTS]]
    found = [each for each in parsed if each is not None]
    names = list(columns_of(found))
    notes = [text.guess.note] if text.guess.note else []
    has_repeated_key = finder_of_repeated_keys(names, "utf-8")
    n_repeated = sum(
        has_repeated_key(line.encode()) for line, each in zip(text.lines, parsed, strict=False) if each is not None
    )
    notes += in_words({KEY_TWICE: n_repeated} if n_repeated else {})
    reading = {} if text.guess.encoding == "utf-8" else {"encoding": text.guess.encoding}
    rows = [[any_cell(each, name) for name in names] for each in found]
    return Peek(names, rows, reading, notes, has_layout=False, kinds=kinds_of(found, names))


def _parquet(path: Path) -> Peek:
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(_FIRST_OBJECTS))
    except StopIteration:
        raise UnreadableInput(f"{path} has no rows") from None
    except (OSError, pa.ArrowException) as error:
        raise UnreadableInput(f"{path} is empty, truncated or no Parquet file ({error}): copy it again") from None
    columns = [as_texts(column) for column in batch.columns]
    types = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Peek(
        list(batch.schema.names),
        rows,
        has_layout=False,
        nested={n: str(kind) for n, kind in types.items() if pa.types.is_nested(kind)},
        undecoded={
            name: wrong
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if is_bytes(column.type) and (wrong := sum(_is_no_text(value) for value in column.to_pylist()))
        },
    )


def _is_no_text(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return True
    return False


def as_texts(column: pa.Array) -> list[str]:
    """The values of a Parquet column as the night reads them: times in UTC, nulls as empty texts."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us"), safe=False)
    if is_bytes(column.type):
        return ["" if v is None else v.decode(errors="replace") for v in column.to_pylist()]
    if pa.types.is_floating(column.type):  # NaN is what pandas writes for a missing value
        return ["" if v is None or v != v else str(v) for v in column.to_pylist()]
    if pa.types.is_boolean(column.type):
        return ["" if v is None else str(v).lower() for v in column.to_pylist()]
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):  # times that Python does not have, such as PostgreSQL's infinity
        texts = column.cast(pa.string()).to_pylist()
        values = [None if text and text.startswith("<") else text for text in texts]
    return ["" if v is None else str(v) for v in values]
