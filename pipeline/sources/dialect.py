"""The layout of one text file: its delimiter, its header, and the positions of the configured columns."""

import difflib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

from pipeline.config.dataset import Reading
from pipeline.core.errors import UnreadableInput

LINE_LIMIT = 2**20
"""Maximum length of a line, in bytes; longer lines are rejected."""
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
BOM = b"\xef\xbb\xbf"
_HEAD = 100  # lines


@dataclass(frozen=True)
class Layout:
    """How to split the lines of one file, and where the columns are."""

    delimiter: str
    quote: str
    encoding: str
    header: bool
    n_fields: int
    positions: dict[str, int]
    """Role (user, item, …) to the 0-based index of its field."""
    names: tuple[str, ...] = ()
    """All columns, in order."""


def read_layout(
    path: Path, name: str, reading: Reading, wanted: dict[str, str], keys: Mapping[str, str] = MappingProxyType({})
) -> Layout | None:
    """The layout of an uncompressed text file; None if it is empty. `wanted` maps settings' keys to column names.

    `keys`: the settings' keys of columns that `wanted` has under another name.
    """
    if len(reading.quote) > 1:
        raise UnreadableInput(
            f"quote = {reading.quote!r}: set one character, or an empty text if the file has no quotes"
        )
    with path.open("rb") as file:
        lines = [decode(line, reading.encoding, "replace") for line in head(file, name)]
    if not lines:
        return None
    _check_encodable(reading)
    delimiter = reading.delimiter or sniff_delimiter(lines, reading.quote, list(wanted.values()), name)
    widths = Counter(len(fields(line, delimiter, reading.quote)) for line in lines)
    if reading.header:
        names = [field.strip() for field in fields(lines[0], delimiter, reading.quote)]
    elif reading.column_names:
        names = reading.column_names
    else:
        raise UnreadableInput(f"{name}: header = false, so column_names must list its columns")
    positions = {
        role: find_column(column, keys.get(role, role), names, name, reading.header, "user" in wanted)
        for role, column in wanted.items()
    }
    n_fields = len(names)
    if not reading.header:  # one of several files may lack trailing columns that are not used
        usual = widths.most_common(1)[0][0]
        n_fields = usual if max(positions.values()) < usual <= n_fields else n_fields
    return Layout(delimiter, reading.quote, reading.encoding, reading.header, n_fields, positions, tuple(names))


def _check_encodable(reading: Reading) -> None:
    try:
        (reading.quote + (reading.delimiter or "")).encode(reading.encoding)
    except UnicodeEncodeError:
        raise UnreadableInput(f"delimiter and quote must be characters of {reading.encoding}") from None


def head(file: BinaryIO, name: str) -> list[bytes]:
    """The first lines, without byte order mark and newlines."""
    raw = list(islice(_lines(file), _HEAD))
    lines = [line.rstrip(b"\r\n") for line in raw if raw != [BOM]]  # a file with the mark alone is empty
    if lines and lines[0].startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableInput(f"{name} is UTF-16: convert it to UTF-8, e.g. with iconv -f utf-16 -t utf-8")
    return [lines[0].removeprefix(BOM), *lines[1:]] if lines else []


def _lines(file: BinaryIO):
    while line := file.readline(LINE_LIMIT):
        yield line


def decode(line: bytes, encoding: str, errors: str = "strict") -> str:
    """A line's text."""
    return line.decode(encoding, errors)


def fields(text: str, delimiter: str, quote: str) -> list[str]:
    """Split one line; a quote that is not closed, or not at the border of a field, is an ordinary character."""
    split, state = split_quoted(text, delimiter, quote)
    return split if state == "whole" else text.split(delimiter)


def split_quoted(text: str, delimiter: str, quote: str) -> tuple[list[str], Literal["whole", "open", "broken"]]:
    """Fields of a line and its state: `open` if the last field is not closed, `broken` if text follows a closing quote.

    A field is quoted if it starts with the quote; inside it, a doubled quote stands for one. Elsewhere quotes are
    ordinary characters.
    """
    if not quote or quote not in text:
        return text.split(delimiter), "whole"
    out: list[str] = []
    start = 0
    while True:
        if text.startswith(quote, start):
            value, end = quoted(text, start + 1, quote)
            out.append(value)
            if end < 0:
                return out, "open"
            if end < len(text) and not text.startswith(delimiter, end):
                return out, "broken"
        else:
            end = text.find(delimiter, start)
            end = len(text) if end < 0 else end
            out.append(text[start:end])
        if end == len(text):
            return out, "whole"
        start = end + len(delimiter)


def quoted(text: str, start: int, quote: str) -> tuple[str, int]:
    """The quoted value that starts at `start`, and the index where the field ends; -1 if it is not closed."""
    value = ""
    while True:
        close = text.find(quote, start)
        if close < 0:
            return value + text[start:], -1
        value += text[start:close]
        if not text.startswith(quote, close + 1):
            return value, close + 1
        value += quote
        start = close + 2


def sniff_delimiter(lines: list[str], quote: str, names: list[str], name: str) -> str:
    """The delimiter that finds most of `names` in the first line, then gives most lines the same number of fields,
    then gives most fields."""

    def quality(delimiter: str) -> tuple[int, float, int, int]:
        split = [fields(line, delimiter, quote) for line in lines if line]
        widths = Counter(len(line) for line in split if len(line) > 1)
        if not widths:
            return 0, 0.0, 0, 0
        width, n_equal = widths.most_common(1)[0]
        found = len(set(names) & {field.strip() for field in split[0]})
        return found, n_equal / len(split), width, -DELIMITERS.index(delimiter)

    best = max(DELIMITERS, key=quality)
    if quality(best)[1] == 0:
        raise UnreadableInput(f"{name}: no known delimiter splits its lines; set delimiter in the data set's TOML")
    return best


def find_column(
    column: str, key: str, names: list[str], name: str, header: bool = True, may_be_data: bool = False
) -> int:
    """Index of a column by its exact name; `key` is the setting that names it, `name` is the file.

    `may_be_data`: the header may be a line of interactions, so its fields go into the error's ids, not its message.
    """
    if names.count(column) == 1:
        return names.index(column)
    if column in names:
        raise UnreadableInput(f"{name}: two columns are named {column!r} ({key}); rename one of them")
    close = difflib.get_close_matches(column, names, n=1, cutoff=0.4)
    apart = header and may_be_data
    ids = {"nearest": close, "first line": [n[:40] for n in names[:30]]} if apart else {}
    shown = "" if apart else ", which has: " + ", ".join(repr(n[:40]) for n in names[:30])
    nearest = f"; the closest is {close[0]!r}" if close and not apart else ""
    where = "the header" if header else "column_names"
    raise UnreadableInput(
        f"{name}: no column {column!r} ({key}) in {where}{shown}{nearest}. Correct {key} in the data set's TOML; "
        "if the file has no header, set header = false and column_names.",
        ids,
    )
