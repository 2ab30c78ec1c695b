"""Source files as bytes: finding, hashing, unpacking."""

import glob
import gzip
import io
import shutil
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline import lake
from pipeline.contracts import UnreadableInput

_BLOCK = 2**19  # bytes
BOMB_RATIO, BOMB_BYTES = 100, 2**30
"""A packed file that becomes both so many times larger and so large is taken for a decompression bomb."""


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
        limit = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        with _decompressed(path) as packed, into.open("wb") as plain:
            while block := _read(packed, path):
                plain.write(block)
                if plain.tell() > limit:
                    raise UnreadableInput(
                        f"{path} unpacks to more than {BOMB_RATIO} times its size, as no real source does; if it is "
                        "one, unpack it yourself"
                    )
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


def remove(folder: Path) -> None:
    """Remove a folder of temporary copies."""
    shutil.rmtree(folder, ignore_errors=True)
