"""The exact reader: every physical line of a text file is kept, or rejected for one reason."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.schemas.reasons import NO_ROWS, Reason
from pipeline.sources.blocks import Block
from pipeline.sources.dialect import BOM, LINE_LIMIT, Layout, quoted, split_quoted, without_marks
from pipeline.sources.doubts import MARK_IN_TEXT
from pipeline.sources.parquet_writer import PartWriter
from pipeline.sources.parsing import Rejected, Row

_LONGEST_RECORD = 1000  # lines
_ROLES = ("user", "item", "rating", "timestamp")
RAW_LIMIT = 500
"""Characters of a rejected line that are stored."""

Record = tuple[int, bytes, list[str] | Reason]
"""First physical line of a record, the bytes of that line, and the record's fields or the reason it is rejected."""


def rescan(path: Path, block: Block, taken: int, layout: Layout, read: Callable[..., Row], part: PartWriter) -> int:
    """Read the lines of a block after line `taken` into `part`.

    Returns the last line that was read; it is after the block if the block's last record continues there. Memory use
    is bounded for any file.
    """
    places = [layout.positions.get(role) for role in _ROLES]
    user_at, item_at = places[0] or 0, places[1] or 0
    rating_at, time_at = places[2], places[3]
    extra = [at for name, at in layout.positions.items() if name not in _ROLES]
    with path.open("rb") as file:
        file.seek(block.start)
        lines = Lines(file, block.first - 1)
        while lines.number < taken:
            lines.take()
        for line, raw, record in _records(lines, layout, block.last):
            if isinstance(record, Reason) and record in NO_ROWS:
                part.ledger[record] += 1
                continue
            if isinstance(record, Reason):
                part.reject(line, None, record, shown(raw, layout.encoding))
                continue
            rating = record[rating_at] if rating_at is not None else ""
            time = record[time_at] if time_at is not None else ""
            try:
                # first all rows of the line, since a line is kept as a whole or rejected
                rows = [read(record[user_at], item, rating, time) for item in exploded(record[item_at], layout.explode)]
                for row in rows:
                    part.keep((*row, *(record[at] or None for at in extra)) if extra else row)
            except Rejected as rejected:
                part.note_look(rejected.looks)
                part.reject(line, rejected.column, rejected.reason, shown(raw, layout.encoding))
        if lines.marks:
            part.doubts[MARK_IN_TEXT] += lines.marks
        return lines.number


def exploded(cell: str, separator: str) -> list[str]:
    """The items of a cell: the cell itself without a separator; a list in brackets is read as its elements."""
    if not separator:
        return [cell]
    inner = cell.strip()
    quotes = " "
    if inner[:1] + inner[-1:] in ("[]", "()", "{}"):
        inner, quotes = inner[1:-1], " '\""
    return [item for part in inner.split(separator) if (item := part.strip(quotes))] or [""]


def shown(raw: bytes, encoding: str) -> str:
    """A rejected line as it is stored: invalid bytes replaced, cut off after RAW_LIMIT characters."""
    return raw[: 4 * RAW_LIMIT].decode(encoding, "replace")[:RAW_LIMIT].replace("\0", "\ufffd")


def records(path: Path, layout: Layout) -> Iterator[Record]:
    """All records after the header; every physical line belongs to exactly one record."""
    with path.open("rb") as file:
        yield from _records(Lines(file), layout)


def _records(lines: "Lines", layout: Layout, last: int | None = None) -> Iterator[Record]:
    """The records that start on the lines up to `last`."""
    quote, encoding, marks = layout.quote, layout.encoding, layout.marks
    comment = layout.comment.encode(encoding)
    yield from _preamble(lines, layout)
    while (last is None or lines.number < last) and (line := lines.take()) is not None:
        reason = Reason.COMMENT if comment and line.startswith(comment) else lines.fault(line)
        if reason:
            yield lines.number, line, reason
            continue
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            yield lines.number, line, Reason.BAD_ENCODING
            continue
        if (quote and quote in text) or (marks.escape and marks.escape in text):
            record, state = split_quoted(text, marks)
            if state == "open":
                number = lines.number
                yield number, line, _continued(lines, record, layout) or Reason.BROKEN_QUOTE
                continue
            if state == "broken":
                yield lines.number, line, Reason.BROKEN_QUOTE
                continue
        else:
            record = text.split(layout.delimiter)
        yield lines.number, line, _whole(record, layout)


def _preamble(lines: "Lines", layout: Layout) -> Iterator[Record]:
    """Take the lines before the first row; those before the header are counted."""
    while lines.number < layout.skip and (line := lines.take()) is not None:
        yield lines.number, line, Reason.COMMENT
    while lines.number < layout.first_row - 1 and lines.take() is not None:
        pass  # the header


def _whole(record: list[str], layout: Layout) -> list[str] | Reason:
    """The record if it has the right number of fields, else the reason to reject it."""
    n_fields = layout.n_fields
    if layout.header and record[0].strip() == layout.names[0] and [cell.strip() for cell in record] == [*layout.names]:
        return Reason.REPEATED_HEADER
    if layout.explode == layout.delimiter and len(record) > n_fields:
        record = [*record[: n_fields - 1], layout.delimiter.join(record[n_fields - 1 :])]
    if len(record) == n_fields:
        return record
    return Reason.TOO_FEW_FIELDS if len(record) < n_fields else Reason.TOO_MANY_FIELDS


def _continued(lines: "Lines", record: list[str], layout: Layout) -> list[str] | None:
    """The fields of a record that spans lines, if its quote closes soon and it has the right number of fields.

    Otherwise None: the quote is taken for a mistake, only the first line is rejected, and the others are read again.
    """
    taken: list[bytes] = []
    size = 0
    while len(taken) < _LONGEST_RECORD and size < LINE_LIMIT and (line := lines.take()) is not None:
        taken.append(line)
        size += len(line)
        if lines.fault(line) not in (None, Reason.EMPTY_LINE):
            break
        try:
            text = line.decode(layout.encoding)
        except UnicodeDecodeError:
            break
        value, end = quoted(text, 0, layout.marks)
        record[-1] += "\n" + value
        if end < 0:
            continue
        if end < len(text):
            if not text.startswith(layout.delimiter, end):
                break
            more, state = split_quoted(text[end + len(layout.delimiter) :], layout.marks)
            record += more
            if state == "open":
                continue
            if state == "broken":
                break
        if len(record) == layout.n_fields:
            return record
        break
    lines.give_back(taken)
    return None


class Lines:
    """Physical lines without their newline, counted from 1; lines can be given back. `number` is the last one taken."""

    def __init__(self, file: BinaryIO, number: int = 0) -> None:
        self.number = number
        self.marks = 0
        """Lines that had a byte order mark where none belongs."""
        self._file = file
        self._waiting: deque[bytes] = deque()

    def take(self) -> bytes | None:
        """The next line, None at the end; a line over LINE_LIMIT is cut off, but still longer than the limit."""
        if self._waiting:
            self.number += 1
            return self._waiting.popleft()
        line = self._file.readline(LINE_LIMIT + 2)
        if not line:
            return None
        if line.startswith(BOM):
            plain = without_marks(line)
            self.marks += self.number > 0 or len(line) - len(plain) > len(BOM)
            line = plain
        self.number += 1
        if line.endswith(b"\n"):
            return line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if len(line) > LINE_LIMIT:
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._file.readline(LINE_LIMIT)
        return line.removesuffix(b"\r")

    def give_back(self, taken: list[bytes]) -> None:
        """Return lines, so that they are taken again."""
        self._waiting.extendleft(reversed(taken))
        self.number -= len(taken)

    @staticmethod
    def fault(line: bytes) -> Reason | None:
        """The reason to reject a line before it is decoded or split; None if there is none."""
        if not line:
            return Reason.EMPTY_LINE
        if len(line) > LINE_LIMIT:
            return Reason.LINE_TOO_LONG
        return Reason.BAD_ENCODING if b"\0" in line else None
