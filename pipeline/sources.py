"""Source files as bytes: finding, hashing, unpacking; and what a look at every byte of a text tells."""

import glob
import gzip
import io
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa

from pipeline import lake
from pipeline.contracts import UnreadableInput
from pipeline.layout import BOM, LINE_LIMIT, Layout

_BLOCK = LINE_LIMIT // 2
_LF, _CR = 10, 13


def find_files(folder: Path, patterns: list[str]) -> list[str]:
    """Sorted names, relative to `folder`, of the files that match; a pattern without a match is an error."""
    names: set[str] = set()
    for pattern in patterns:
        matches = {m for m in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / m).is_file()}
        if not matches:
            raise UnreadableInput(
                f"no file matches {pattern!r} in {folder}: put it there, or name its folder with --data"
            )
        names |= matches
    return sorted(names)


def fingerprint(path: Path) -> str:
    """SHA-256 of the content as it is stored, compressed or not."""
    try:
        return lake.sha256(path)
    except OSError as error:
        raise UnreadableInput(f"{path} can't be read: {error.strerror or error}; check its permissions") from None


def unpack(path: Path, into: Path) -> Path:
    """The file itself, or, of a .gz or .zst, its plain copy `into`."""
    if path.suffix not in (".gz", ".zst"):
        return path
    try:
        with _decompressed(path) as packed, into.open("wb") as plain:
            while block := _read(packed, path):
                plain.write(block)
    except UnreadableInput:
        into.unlink(missing_ok=True)
        raise
    return into


def first_bytes(path: Path, n: int) -> bytes:
    """The beginning of a file's plain content."""
    taken = b""
    with _decompressed(path) if path.suffix in (".gz", ".zst") else path.open("rb") as file:
        while len(taken) < n and (block := _read(file, path)):
            taken += block
    return taken


def _decompressed(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _BLOCK))  # type: ignore


def _read(packed: BinaryIO, path: Path) -> bytes:
    try:
        return packed.read(_BLOCK)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableInput(f"{path} is cut off or broken ({error}): copy it again") from None


@dataclass
class Survey:
    """What the bytes of a text say about how far a fast reader can be trusted with it."""

    lines: int = 0
    """Physical lines; the end of the file is none."""
    crlf: int = 0
    """How many of them end in CR LF."""
    is_ascii: bool = True
    is_plain: bool = True
    """No blank, underscore or plus anywhere: what casts to a number is written as one (`1_0`, `+-1` cast too)."""
    doubts: set[str] = field(default_factory=set)
    """What readers take differently or in silence; any of them means reading line by line."""

    def needs_copy(self, layout: Layout) -> bool:
        """Mixed newlines or Latin-1: fit for the fast reader once copied to UTF-8 with plain newlines."""
        return 0 < self.crlf < self.lines or (layout.encoding == "latin-1" and not self.is_ascii)


def survey(path: Path, layout: Layout) -> Survey:
    """Look at every byte once, in blocks of whole lines."""
    found = Survey()
    delimiter, quote = (text.encode(layout.encoding) for text in (layout.delimiter, layout.quote))
    blank = [byte for byte in b" \t\v\f_+" if bytes([byte]) not in delimiter]
    with path.open("rb") as file:
        for block in _blocks(file, found.doubts):
            text = np.frombuffer(b"\n\n" + block, np.uint8)
            ends = np.flatnonzero(text[2:] == _LF) + 2
            last = text[ends - 1]
            crlf = int(np.count_nonzero(last == _CR)) if b"\r" in block else 0
            if crlf:
                last = np.where(last == _CR, text[ends - 2], last)
            found.lines += len(ends) + (not block.endswith(b"\n"))
            found.crlf += crlf
            found.is_plain = found.is_plain and not any(byte in block for byte in blank)
            if not block.isascii():
                found.is_ascii = False
                if not _is_valid(block, layout.encoding):
                    found.doubts.add("invalid encoding")
            if block.count(b"\r") != crlf:
                found.doubts.add("a CR within a line")
            if b"\0" in block:
                found.doubts.add("a NUL byte")
            if np.any(last == _LF):
                found.doubts.add("an empty line")
            if np.any(last == delimiter[-1]) or block.endswith(delimiter):
                found.doubts.add("a delimiter at a line's end")
            if quote and quote in block and _quotes_are_odd(block, delimiter, quote):
                found.doubts.add("a quote within a value")
    return found


def copy_as_utf8(path: Path, layout: Layout, into: Path) -> Path:
    """A copy in UTF-8 with plain newlines, line for line."""
    with path.open("rb") as file, into.open("wb") as out:
        for block in _blocks(file, set()):
            block = block.replace(b"\r\n", b"\n")
            out.write(block.decode("latin-1").encode() if layout.encoding == "latin-1" else block)
    return into


def _blocks(file: BinaryIO, doubts: set[str]):
    """Blocks that end where a line ends, without byte order mark; a line beyond the limit is cut and doubted."""
    first = True
    while block := file.read(_BLOCK):
        tail = file.readline(_BLOCK)
        if len(tail) == _BLOCK and not tail.endswith(b"\n"):
            doubts.add("a very long line")
        yield (block + tail).removeprefix(BOM) if first else block + tail
        first = False


def _is_valid(block: bytes, encoding: str) -> bool:
    try:
        block.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _quotes_are_odd(block: bytes, delimiter: bytes, quote: bytes) -> bool:
    """Whether quotes do anything but open a field where it starts and close it where it ends, in turn."""
    if len(delimiter) != 1 or len(quote) != 1:
        return True
    text = np.frombuffer(b"\n" + block + b"\n", np.uint8)
    at = np.flatnonzero(text == quote[0])
    before, after = text[at[0::2] - 1], text[at[1::2] + 1]
    opens = (before == delimiter[0]) | (before == ord("\n"))
    closes = (after == delimiter[0]) | (after == ord("\n")) | (after == ord("\r"))
    return bool(len(at) % 2 or not opens.all() or not closes.all())


def remove(folder: Path) -> None:
    """Remove a folder of temporary copies."""
    shutil.rmtree(folder, ignore_errors=True)
