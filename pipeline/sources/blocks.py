"""Splits a text file into blocks of whole lines and finds what DuckDB's reader can't be trusted with in each block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.sources.dialect import BOM, LINE_LIMIT, Layout

_SIZE = LINE_LIMIT // 2
_LF = 10
_LEADS = (b"", b" ", b"\t")
"""What may stand before the first name of a header that is repeated within a file."""


@dataclass(frozen=True)
class Block:
    """Consecutive whole lines of a text file."""

    start: int
    """Offset of its first byte."""
    end: int
    """Offset of the byte after its last."""
    first: int
    """Number of its first physical line, counted from 1."""
    lines: int
    crlf: int
    """Lines that end in CR LF."""
    is_ascii: bool
    is_plain: bool
    """No blank, underscore or plus anywhere: then a cast to a number accepts only plain numbers (not `1_0`, `+-1`)."""
    has_quotes: bool
    doubts: frozenset[str]
    """What readers interpret differently or skip silently; with any of them the block is read line by line."""

    @property
    def last(self) -> int:
        """Number of its last physical line."""
        return self.first + self.lines - 1


def survey(path: Path, layout: Layout) -> list[Block]:
    """All blocks of a file, in order."""
    delimiter, quote = (text.encode(layout.encoding) for text in (layout.delimiter, layout.quote))
    blank = [byte for byte in b" \t\v\f_+" if bytes([byte]) not in delimiter]
    blocks: list[Block] = []
    line = 1
    header = b""
    with path.open("rb") as file:
        for start, end, block, is_cut in whole_lines(file):
            doubts = {"a very long line"} if is_cut else set()
            crlf = block.count(b"\r\n") if b"\r" in block else 0
            plain = block.replace(b"\r\n", b"\n") if crlf else block
            text = np.frombuffer(plain, np.uint8)  # (B,)
            ends = text == _LF  # (B,)
            lines = int(np.count_nonzero(ends)) + (not plain.endswith(b"\n"))
            if not block.isascii() and not is_valid(block, layout.encoding):
                doubts.add("invalid encoding")
            if b"\r" in plain:
                doubts.add("a CR within a line")
            if b"\0" in block:
                doubts.add("a NUL byte")
            if plain.startswith(b"\n") or np.any(ends[1:] & ends[:-1]):
                doubts.add("an empty line")
            if plain.endswith(delimiter) or np.any(ends[1:] & (text[:-1] == delimiter[-1])):
                doubts.add("a delimiter at a line's end")
            has_quotes = bool(quote) and quote in block
            if has_quotes and _quotes_are_odd(block, delimiter, quote):
                doubts.add("a quote within a value")
            header = header if blocks else _header_in(plain, layout)
            doubts |= _joined_doubts(plain, header, layout, is_first=not blocks)
            doubts |= _settings_doubts(plain, line, layout)
            is_plain = not any(byte in block for byte in blank)
            blocks.append(
                Block(start, end, line, lines, crlf, block.isascii(), is_plain, has_quotes, frozenset(doubts))
            )
            line += lines
    return blocks


def _header_in(plain: bytes, layout: Layout) -> bytes:
    """The header as it is written in the first block, with LF alone; empty if there is none on one line."""
    lines = plain.split(b"\n", layout.first_row - 1)
    is_there = layout.header and layout.header_lines == 1 and len(lines) == layout.first_row
    return lines[-2] if is_there else b""


def _joined_doubts(plain: bytes, header: bytes, layout: Layout, is_first: bool) -> set[str]:
    """Doubts about a block, with LF alone, of a file that was made of several, each with this header.

    Further headers may be written otherwise, in quotes or with blanks around the names.
    """
    doubts = set[str]()
    if plain.startswith(BOM) or b"\n" + BOM in plain:
        doubts.add("a byte order mark within")
    if not header:
        return doubts
    first, delimiter, quote = (
        text.encode(layout.encoding) for text in (layout.names[0], layout.delimiter, layout.quote)
    )
    names = {first, quote + first + quote}
    starts = {header, *(lead + name + end for lead in _LEADS for name in names for end in (delimiter, b" ", b"\t"))}
    padded = bool(first) and any(2 * blank in plain for blank in (b" ", b"\t"))
    if (
        any((not is_first and plain.startswith(start)) or b"\n" + start in plain for start in starts)
        or (padded and any(blank + name in plain for blank in (b" ", b"\t") for name in names))
    ):  # fmt: skip
        doubts.add("a header within")
    return doubts


def _settings_doubts(plain: bytes, line: int, layout: Layout) -> set[str]:
    """Doubts about a block, with LF alone, that settings such as `escape` raise; `line` is its first line."""
    doubts = set[str]()
    escape, comment = layout.escape.encode(layout.encoding), layout.comment.encode(layout.encoding)
    if escape and escape in plain:
        doubts.add("an escape character")
    if comment and (plain.startswith(comment) or b"\n" + comment in plain):
        doubts.add("a comment line")
    if line < layout.first_row and (layout.skip or layout.header_lines > 1):
        doubts.add("lines before the first row")
    return doubts


def needs_copy(blocks: Sequence[Block], layout: Layout) -> bool:
    """Whether DuckDB needs a copy in UTF-8 with plain newlines: for mixed newlines and Latin-1."""
    crlf, lines = sum(b.crlf for b in blocks), sum(b.lines for b in blocks)
    return 0 < crlf < lines or (layout.encoding == "latin-1" and not all(b.is_ascii for b in blocks))


def copy_as_utf8(path: Path, blocks: Sequence[Block], layout: Layout, into: Path) -> Path:
    """Copy adjacent blocks to `into`, in UTF-8 with plain newlines, line for line."""
    with path.open("rb") as file, into.open("wb") as out:
        file.seek(blocks[0].start)
        for block in blocks:
            text = file.read(block.end - block.start)
            text = text if block.start else text.removeprefix(BOM)
            text = text.replace(b"\r\n", b"\n") if block.crlf else text
            out.write(text if block.is_ascii else text.decode(layout.encoding).encode())
    return into


def whole_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes, bool]]:
    """Start, end and bytes of blocks of whole lines, without byte order mark.

    The flag is true if a line exceeds the limit: then the bytes have only its beginning.
    """
    start = 0
    while block := file.read(_SIZE):
        is_cut = False
        if whole := block.rfind(b"\n") + 1:  # reading the rest again is cheaper than appending to it
            block = block[:whole]
            file.seek(start + whole)
        else:
            block += file.readline(_SIZE)
        while not block.endswith(b"\n") and (rest := file.readline(_SIZE)):
            is_cut = True
            if rest.endswith(b"\n"):
                break
        end = file.tell()
        yield start, end, block if start else block.removeprefix(BOM), is_cut
        start = end


def is_valid(block: bytes, encoding: str) -> bool:
    """Whether the bytes are text of this encoding."""
    try:
        block.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _quotes_are_odd(block: bytes, delimiter: bytes, quote: bytes) -> bool:
    """Whether quotes are used for anything but to enclose whole fields."""
    if len(delimiter) != 1 or len(quote) != 1:
        return True
    text = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    at = np.flatnonzero(text == quote[0])
    before, after = text[at[0::2] - 1], text[at[1::2] + 1]
    opens = (before == delimiter[0]) | (before == ord("\n"))
    closes = (after == delimiter[0]) | (after == ord("\n")) | (after == ord("\r"))
    return bool(len(at) % 2 or not opens.all() or not closes.all())
