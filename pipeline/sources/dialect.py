"""The layout of one text file: its delimiter, its header, and the positions of the configured columns."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

from pipeline.config.dataset import Reading, Source
from pipeline.core.errors import UnreadableInput

LINE_LIMIT = 2**20
"""Maximum length of a line, in bytes; longer lines are rejected."""
DELIMITERS = ("::", "\t", ",", ";", "|", " ")
BOM = b"\xef\xbb\xbf"
_HEAD = 100  # lines
_LONGEST_HEADER = 10  # lines


@dataclass(frozen=True)
class Marks:
    """What separates, quotes and escapes the fields of a line."""

    delimiter: str
    quote: str = '"'
    """Empty: nothing is quoted."""
    escape: str = ""
    """Empty: only a doubled quote stands for a quote."""


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
    escape: str = ""
    comment: str = ""
    skip: int = 0
    """Lines before the header or, without one, before the first row: skipped lines, comments and blanks."""
    explode: str = ""
    """Separator of several items in one cell; equal to the delimiter: the last column takes the rest of the line."""
    header_lines: int = 1
    """Lines of the header: 0 without one, more than 1 if a name has a newline in quotes."""

    @property
    def marks(self) -> Marks:
        """What separates its fields."""
        return Marks(self.delimiter, self.quote, self.escape)

    @property
    def first_row(self) -> int:
        """Number of the first physical line that may hold a row."""
        return self.skip + self.header_lines + 1


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
    if len(reading.escape) > 1:
        raise UnreadableInput(f"escape = {reading.escape!r}: set one character, usually a backslash")
    with path.open("rb") as file:
        skip, raw = head(file, reading)
    lines = [decode(line, reading.encoding, "replace") for line in raw]
    if not lines:
        return None
    _check_encodable(reading)
    delimiter = reading.delimiter or sniff_delimiter(lines, reading.quote, list(wanted.values()), name)
    escape = reading.escape if reading.escape != reading.quote else ""  # a doubled quote needs no setting
    marks = Marks(delimiter, reading.quote, escape)
    widths = Counter(len(fields(line, marks)) for line in lines)
    header_lines = 0
    if reading.header:
        header, header_lines = header_of(lines, marks)
        names = [field.strip() for field in header]
    elif reading.column_names:
        names = reading.column_names
    else:
        raise UnreadableInput(f"{name}: header = false, so column_names must list its columns")
    if reading.header and (below := _header_below(lines, marks, wanted, names)):
        raise UnreadableInput(
            f"{name}: the columns {', '.join(wanted.values())} are in line {skip + below + 1}, not in line {skip + 1}; "
            f"set skip_lines = {skip + below} in the data set's TOML"
        )
    positions = {
        role: find_column(column, keys.get(role, role), names, name, reading.header, "user" in wanted)
        for role, column in wanted.items()
    }
    n_fields = len(names)
    explode = reading.explode if isinstance(reading, Source) and "item" in wanted else ""
    if explode == delimiter and positions["item"] != n_fields - 1:
        raise UnreadableInput(f"{name}: where explode is the delimiter, the item column must be the last one")
    if not reading.header and explode != delimiter:  # one of several files may lack trailing columns that are not used
        usual = widths.most_common(1)[0][0]
        n_fields = usual if max(positions.values(), default=-1) < usual <= n_fields else n_fields
    return Layout(
        delimiter, reading.quote, reading.encoding, reading.header, n_fields, positions,
        tuple(names), escape, reading.comment, skip, explode, header_lines,
    )  # fmt: skip


def _header_below(lines: list[str], marks: Marks, wanted: dict[str, str], names: list[str]) -> int:
    """Index of the line below the first that has all wanted columns; 0 if the first one has any, or none has them."""
    if not wanted or set(wanted.values()) & set(names):
        return 0
    rows = ([field.strip() for field in fields(line, marks)] for line in lines[1:21])
    return next((at for at, row in enumerate(rows, start=1) if set(wanted.values()) <= set(row)), 0)


def header_of(lines: list[str], marks: Marks) -> tuple[list[str], int]:
    """The fields of the header and its number of lines; a quote that does not close soon is an ordinary character."""
    for n_lines in range(1, min(len(lines), _LONGEST_HEADER) + 1):
        split, state = split_quoted("\n".join(lines[:n_lines]), marks)
        if state == "whole":
            return split, n_lines
        if state == "broken":
            break
    return lines[0].split(marks.delimiter), 1


def _check_encodable(reading: Reading) -> None:
    try:
        (reading.quote + reading.escape + reading.comment + (reading.delimiter or "")).encode(reading.encoding)
    except UnicodeEncodeError:
        raise UnreadableInput(
            f"delimiter and quote, escape and comment must be characters of {reading.encoding}"
        ) from None


def head(file: BinaryIO, reading: Reading) -> tuple[int, list[bytes]]:
    """The first lines after the preamble, without byte order mark and newlines, and the number of lines before them.

    The preamble is what `skip_lines` and `comment` leave out, and blank lines among comments. Later comments are left
    out, too.
    """
    comment = reading.comment.encode(reading.encoding)
    skip, lines = 0, list[bytes]()
    for number, raw in enumerate(_lines(file)):
        line = without_marks(raw).rstrip(b"\r\n")
        if number == 0 and not without_marks(raw):  # a file with the mark alone is empty
            continue
        is_comment = bool(comment) and (line.startswith(comment) or (not lines and not line.strip()))
        if not lines and (number < reading.skip_lines or is_comment):
            skip = number + 1
        elif not is_comment:
            lines.append(line)
        if len(lines) == _HEAD:
            break
    return skip, lines


def without_marks(line: bytes) -> bytes:
    """A line without the byte order marks at its start: files that were joined have them within."""
    while line.startswith(BOM):
        line = line.removeprefix(BOM)
    return line


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_LIMIT):
        yield line


def decode(line: bytes, encoding: str, errors: str = "strict") -> str:
    """A line's text."""
    return line.decode(encoding, errors)


def fields(text: str, marks: Marks) -> list[str]:
    """Split one line; a quote that is not closed, or not at the border of a field, is an ordinary character."""
    split, state = split_quoted(text, marks)
    return split if state == "whole" else text.split(marks.delimiter)


def split_quoted(text: str, marks: Marks) -> tuple[list[str], Literal["whole", "open", "broken"]]:
    """Fields of a line and its state: `open` if the last field is not closed, `broken` if text follows a closing quote.

    A field is quoted if it starts with the quote; inside it, a doubled quote stands for one. Elsewhere quotes are
    ordinary characters. An escape before a quote, a delimiter or an escape makes it an ordinary character.
    """
    delimiter, quote, escape = marks.delimiter, marks.quote, marks.escape
    is_escaped = bool(escape) and escape in text
    if not is_escaped and (not quote or quote not in text):
        return text.split(delimiter), "whole"
    out: list[str] = []
    start = 0
    while True:
        if quote and text.startswith(quote, start):
            value, end = quoted(text, start + 1, marks)
            out.append(value)
            if end < 0:
                return out, "open"
            if end < len(text) and not text.startswith(delimiter, end):
                return out, "broken"
        elif is_escaped:
            value, end = _unquoted(text, start, marks)
            out.append(value)
        else:
            end = text.find(delimiter, start)
            end = len(text) if end < 0 else end
            out.append(text[start:end])
        if end == len(text):
            return out, "whole"
        start = end + len(delimiter)


def quoted(text: str, start: int, marks: Marks) -> tuple[str, int]:
    """The quoted value that starts at `start`, and the index where the field ends; -1 if it is not closed."""
    quote, escape = marks.quote, marks.escape
    value = ""
    while True:
        close = text.find(quote, start)
        at = text.find(escape, start) if escape else -1
        if at >= 0 and (at < close or close < 0):
            after = text[at + 1 : at + 2]
            plain = after if after in (quote, escape) else ""
            value += text[start:at] + (plain or escape)
            start = at + 1 + len(plain)
            continue
        if close < 0:
            return value + text[start:], -1
        value += text[start:close]
        if not text.startswith(quote, close + 1):
            return value, close + 1
        value += quote
        start = close + 2


def _unquoted(text: str, start: int, marks: Marks) -> tuple[str, int]:
    """The unquoted value that starts at `start`, with its escapes resolved, and the index where it ends."""
    value = ""
    while True:
        end = text.find(marks.delimiter, start)
        end = len(text) if end < 0 else end
        at = text.find(marks.escape, start, end)
        if at < 0:
            return value + text[start:end], end
        after = at + len(marks.escape)
        plain = next((m for m in (marks.delimiter, marks.quote, marks.escape) if m and text.startswith(m, after)), "")
        value += text[start:at] + (plain or marks.escape)
        start = after + len(plain)


def sniff_delimiter(lines: list[str], quote: str, names: list[str], name: str) -> str:
    """The delimiter that finds most of `names` in the first line, then gives most lines the same number of fields,
    then gives most fields."""

    def quality(delimiter: str) -> tuple[int, float, int, int]:
        split = [fields(line, Marks(delimiter, quote)) for line in lines if line]
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
