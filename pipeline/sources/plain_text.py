"""A text file as the readers expect it: unpacked, in UTF-8 or Latin-1, with lines that end in LF or CR LF."""

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.config.dataset import IN_PLACE, Reading
from pipeline.core.errors import UnreadableInput
from pipeline.sources import files
from pipeline.sources.file_kinds import START, wide_encoding

_BLOCK = 2**19  # bytes
_INVALID = "\udc00"
"""Stands for bytes that an encoding does not decode; it encodes to bytes that are no UTF-8, so that the line is
rejected for its encoding."""


def prepare(path: Path, name: str, reading: Reading, into: Path) -> tuple[Path, Reading]:
    """The plain text of a file, and how to read it: the file itself, or a copy `into` with the same lines.

    The copy is in UTF-8, whatever `reading.encoding` is, and CR alone becomes LF. Memory is bounded.
    """
    plain = files.unpack(path, into)
    with plain.open("rb") as file:
        start = file.read(START)
    encoding = reading.encoding
    if start.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        encoding = wide_encoding(start) or encoding
    returns = has_returns_only(start, encoding)
    if encoding in IN_PLACE and not returns:
        return plain, reading
    aside = into.with_name(f"{into.name}.utf-8")
    try:
        with plain.open("rb") as file, aside.open("wb") as out:
            for text in _decoded(file, encoding):
                out.write(
                    (text.replace("\r\n", "\n").replace("\r", "\n") if returns else text).encode(errors="surrogatepass")
                )
        os.replace(aside, into)
    except UnicodeError as error:
        raise UnreadableInput(f"{name} can't be decoded as {encoding} ({error}): set encoding to the file's") from None
    finally:
        aside.unlink(missing_ok=True)
    return into, reading.model_copy(update={"encoding": "utf-8"})


def has_returns_only(start: bytes, encoding: str) -> bool:
    """Whether the lines of a text end in CR alone, as in old exports for the Macintosh."""
    text = start.decode(encoding, "replace") if wide_encoding(start) else start.decode("latin-1")
    return "\r" in text.rstrip("\r") and "\n" not in text


def _decoded(file: BinaryIO, encoding: str) -> Iterator[str]:
    """A file's text in blocks; a CR LF is never divided."""
    decoder = codecs.getincrementaldecoder(encoding)(_REPLACE)
    held = ""
    while block := file.read(_BLOCK):
        text = held + decoder.decode(block)
        held = "\r" if text.endswith("\r") else ""
        yield text.removesuffix(held)
    yield held + decoder.decode(b"", final=True)


def _marked(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _INVALID, error.end


_REPLACE = "nightrecs-invalid"
codecs.register_error(_REPLACE, _marked)
