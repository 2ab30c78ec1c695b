"""Source files as bytes: finding, hashing, decompressing."""

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
"""A compressed file is refused as a decompression bomb if it grows by more than both this ratio and this size."""


def find_files(folder: Path, patterns: list[str]) -> list[str]:
    """Sorted names, relative to `folder`, of the files that match. Raises UnreadableInput if a pattern has no match.

    A file that is reachable by several names through symbolic links is listed once: by its own name, else by the one
    with the fewest parts.
    """
    root = folder.resolve()
    names: dict[Path, str] = {}
    for pattern in patterns:
        matches = [m for m in _matching(folder, pattern) if (folder / m).is_file()]
        if not matches:
            raise UnreadableInput(
                f"no file matches {pattern!r} in {folder}: put the file there, or name its folder with --data"
            )
        for name in matches:
            real = (folder / name).resolve()
            names[real] = min(names.get(real, name), name, key=partial(_preference, root, real))
    return sorted(names.values())


def _preference(root: Path, real: Path, name: str) -> tuple[bool, int, str]:
    return root / name != real, len(Path(name).parts), name


def _matching(folder: Path, pattern: str) -> Iterator[str]:
    """Names that match a glob. `**` enters each folder once: glob itself follows a link to a parent folder 40 times."""
    before, recursive, after = _split_recursive(pattern)
    if not recursive:
        yield from glob.glob(pattern, root_dir=folder)
        return
    seen: set[Path] = set()
    waiting, links = sorted(glob.glob(before, root_dir=folder)) if before else [""], []
    while waiting or links:
        at = waiting.pop(0) if waiting else links.pop(0)  # a folder's own name before links to it
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
    """The pattern before its first `**`, whether it has one, and the pattern after it."""
    parts = pattern.split("/")
    if "**" not in parts:
        return pattern, False, ""
    at = parts.index("**")
    return "/".join(parts[:at]) or ("/" if pattern.startswith("/") else ""), True, "/".join(parts[at + 1 :]) or "*"


def fingerprint(path: Path) -> str:
    """SHA-256 of the file as it is stored, compressed or not."""
    try:
        return sha256(path)
    except OSError as error:
        raise UnreadableInput(f"{path} can't be read: {error.strerror or error}; check its permissions") from None


def unpack(path: Path, into: Path) -> Path:
    """The file itself; for a .gz or .zst its decompressed copy `into`."""
    if path.suffix not in (".gz", ".zst"):
        return path
    try:
        limit = max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        with _decompressed(path) as packed, into.open("wb") as plain:
            while block := _read(packed, path):
                plain.write(block)
                if plain.tell() > limit:
                    raise UnreadableInput(
                        f"{path} decompresses to more than {BOMB_RATIO} times its size, which is unusual for a real "
                        "source; if it is one, decompress it yourself"
                    )
    except UnreadableInput:
        into.unlink(missing_ok=True)
        raise
    return into


def first_bytes(path: Path, n: int) -> bytes:
    """The first `n` bytes of a file, decompressed."""
    start = b""
    with _decompressed(path) if path.suffix in (".gz", ".zst") else path.open("rb") as file:
        while len(start) < n and (block := _read(file, path)):
            start += block
    return start


def _decompressed(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _BLOCK))  # type: ignore


def _read(packed: BinaryIO, path: Path) -> bytes:
    try:
        return packed.read(_BLOCK)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableInput(f"{path} is truncated or damaged ({error}): copy it again") from None


def remove(folder: Path) -> None:
    """Remove a folder of temporary copies."""
    shutil.rmtree(folder, ignore_errors=True)
