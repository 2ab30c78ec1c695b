"""Source files as bytes: finding, hashing, unpacking."""

import glob
import gzip
import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import sha256

_BLOCK = 2**19  # bytes
BOMB_RATIO, BOMB_BYTES = 100, 2**30
"""A packed file that becomes both so many times larger and so large is taken for a decompression bomb."""


def find_files(folder: Path, patterns: list[str]) -> list[str]:
    """Sorted names, relative to `folder`, of the files that match; a pattern without a match is an error.

    A file that several names lead to by symbolic links is there once: under its own name, else that with the fewest
    parts.
    """
    root = folder.resolve()
    names: dict[Path, str] = {}
    for pattern in patterns:
        matches = [m for m in _matching(folder, pattern) if (folder / m).is_file()]
        if not matches:
            raise UnreadableInput(
                f"no file matches {pattern!r} in {folder}: put it there, or name its folder with --data"
            )
        for name in matches:
            real = (folder / name).resolve()
            names[real] = min(names.get(real, name), name, key=partial(_preference, root, real))
    return sorted(names.values())


def _preference(root: Path, real: Path, name: str) -> tuple[bool, int, str]:
    return root / name != real, len(Path(name).parts), name


def _matching(folder: Path, pattern: str) -> Iterator[str]:
    """Names that match a glob. `**` goes into each folder once, wherever links lead: a link to a folder above it is a
    loop, of which glob itself follows 40 rounds."""
    before, recursive, after = _split_recursive(pattern)
    if not recursive:
        yield from glob.glob(pattern, root_dir=folder)
        return
    seen: set[Path] = set()
    waiting, links = sorted(glob.glob(before, root_dir=folder)) if before else [""], []
    while waiting or links:
        at = waiting.pop(0) if waiting else links.pop(0)  # a folder by its own name before links to it
        place = folder / at
        if not place.is_dir() or (real := place.resolve()) in seen:
            continue
        seen.add(real)
        yield from (os.path.join(at, name) for name in _matching(place, after))
        with suppress(OSError):
            for name in sorted(os.listdir(place)):
                if not name.startswith("."):
                    (links if (place / name).is_symlink() else waiting).append(os.path.join(at, name))


def _split_recursive(pattern: str) -> tuple[str, bool, str]:
    """A pattern before its first `**`, whether it has one, and after it."""
    parts = pattern.split("/")
    if "**" not in parts:
        return pattern, False, ""
    at = parts.index("**")
    return "/".join(parts[:at]) or ("/" if pattern.startswith("/") else ""), True, "/".join(parts[at + 1 :]) or "*"


def fingerprint(path: Path) -> str:
    """SHA-256 of the content as it is stored, compressed or not."""
    try:
        return sha256(path)
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
