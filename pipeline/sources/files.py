"""Source files as bytes: finding, hashing, decompressing."""

import glob
import gzip
import io
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import is_utf8, sha256

_BLOCK = 2**19  # bytes
_LOOK = 512  # bytes that show whether a file is a text
_SIZED_BLOCKS = 8  # decompressed to estimate a size
BOMB_RATIO, BOMB_BYTES = 100, 2**30
"""A compressed file is refused as a decompression bomb if it grows by more than both this ratio and this size."""

_PACKED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip", b"PK\x05\x06": ".zip"}
"""First bytes of a compressed file to its kind."""
_OFFICE = {
    "xl/workbook.xml": "an Excel workbook",
    "xl/workbook.bin": "an Excel workbook",
    "word/document.xml": "a Word document",
    "content.xml": "an OpenDocument file",
    ".npy": "an archive of NumPy arrays",
    "data.pkl": "a PyTorch file",
    "AndroidManifest.xml": "an Android package",
}
"""A file inside a ZIP archive to what the archive is."""


def find_files(folder: Path, patterns: list[str]) -> list[str]:
    """Sorted names, relative to `folder`, of the files that match. Raises UnreadableInput if a pattern has no match
    or a file a name that is not UTF-8.

    A file that is reachable by several names through symbolic links is listed once: by its own name, else by the one
    with the fewest parts.
    """
    root = folder.resolve()
    names: dict[Path, str] = {}
    for pattern in patterns:
        matches = _files(folder, pattern)
        if not matches:
            raise UnreadableInput(
                f"no file matches {pattern!r} in {folder}: put the file there, or name its folder with --data"
            )
        for name in matches:
            if not is_utf8(name):
                raise UnreadableInput(
                    f"the name of the file {name!a} in {folder} is not UTF-8, so no table can name it: rename it"
                )
            real = (folder / name).resolve()
            names[real] = min(names.get(real, name), name, key=partial(_preference, root, real))
    return sorted(names.values())


def has_files(folder: Path, pattern: str) -> bool:
    """Whether a pattern has a match in `folder`, whatever its name is."""
    return bool(_files(folder, pattern))


def _files(folder: Path, pattern: str) -> list[str]:
    return [match for match in _matching(folder, pattern) if (folder / match).is_file()]


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
    """The file itself; for a .gz or .zst, or a .zip of one file, its decompressed copy `into`."""
    if _packing(path) is None:
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
    with _decompressed(path) if _packing(path) else path.open("rb") as file:
        while len(start) < n and (block := _read(file, path)):
            start += block
    return start


def plain_size(path: Path) -> int:
    """Bytes of a file when decompressed: exact for plain and ZIP files, else by the ratio of the first blocks."""
    size, kind = path.stat().st_size, _packing(path)
    if kind is None:
        return size
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            return sum(member.file_size for member in archive.infolist())
    with path.open("rb") as stored:
        packed = gzip.GzipFile(fileobj=stored) if kind == ".gz" else _zstd(stored)
        grown = sum(len(_read(cast(BinaryIO, packed), path)) for _ in range(_SIZED_BLOCKS))
        return round(grown * size / max(1, stored.tell()))


def _packing(path: Path) -> str | None:
    """How a file is compressed: by its first bytes, since downloads lose their suffix, or keep it and are unpacked.

    A file with the suffix of a compressed one that begins with no text is a damaged one.
    """
    with path.open("rb") as file:
        start = file.read(_LOOK)
    if found := next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None):
        return found
    is_text = bool(start) and not any(byte < 9 or 13 < byte < 27 for byte in start)
    return path.suffix if path.suffix in (".gz", ".zst") and not is_text else None


def _decompressed(path: Path) -> BinaryIO:
    kind = _packing(path)
    if kind == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if kind == ".zip":
        return _only_member(path)
    return _zstd(path.open("rb"))


def _zstd(stored: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(stored), "zstd"), _BLOCK))  # type: ignore


def _only_member(path: Path) -> BinaryIO:
    """The one file in a ZIP archive, for reading; macOS's and hidden extra files do not count."""
    try:
        archive = zipfile.ZipFile(path)
        names = [n for n in archive.namelist() if not n.endswith("/") and not re.search(r"(^|/)(__MACOSX/|\.)", n)]
        for inside, what in _OFFICE.items():
            if any(n == inside or n.endswith(inside) for n in archive.namelist()):
                raise UnreadableInput(f"{path} is {what}, no file with one line per user and item: export it as CSV")
        if not names:
            raise UnreadableInput(f"{path} is a ZIP archive without a file: pack it again")
        if len(names) != 1:
            some = ", ".join(names[:5])
            raise UnreadableInput(f"{path} is a ZIP archive of {len(names)} files ({some}): unpack it, then name one")
        return cast(BinaryIO, archive.open(names[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UnreadableInput(f"{path} is a ZIP archive that can't be read ({error}): unpack it yourself") from None


def _read(packed: BinaryIO, path: Path) -> bytes:
    try:
        return packed.read(_BLOCK)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UnreadableInput(f"{path} is truncated or damaged ({error}): copy it again") from None


def remove(folder: Path) -> None:
    """Remove a folder of temporary copies."""
    shutil.rmtree(folder, ignore_errors=True)
