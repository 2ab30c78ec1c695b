"""File operations: atomic writes, syncing, hashes, sizes, and the detection of a full disk."""

import errno
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.console import log, log_once


def temporary_name(path: Path) -> Path:
    """A hidden name next to `path` that no other process uses: ids of processes repeat between hosts, tokens don't."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file atomically: a reader sees either the old text or the new one.

    A write that fails, as on a full disk, leaves no temporary file.
    """
    free_name(path)
    temporary = temporary_name(path)
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold the text. Arguments and file names with other bytes reach Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(paths: Iterable[Path]) -> int:
    """Bytes that removing these files and folders frees. A file with another hard link frees none."""
    total = 0
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
                total += file.stat().st_size
    return total


def delete(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


ADVICE = (
    "No space is left to write to. Free some, then run again: finished stages are kept, and the published tables "
    "are whole. `nightrecs gc` removes what is no longer needed, and needs no space for that."
)


_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "database or disk is full")


def is_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, means that the disk is full.

    DuckDB, Polars, Arrow and safetensors raise their own errors, so the message is searched as well.
    """
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if getattr(seen, "errno", None) in _NUMBERS or any(words in text for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def unless_full(otherwise: str) -> Generator[None]:
    """Leave the rest of the block out if the disk is full. `otherwise`: what that means, for the warning."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        log.warning(f"the disk is full: {otherwise}")


DAMAGED = ".damaged"
"""Suffix of a file that was set aside."""


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file, so that its name is free. Returns the new path, or None if it can't be renamed."""
    aside = path.with_name(path.name + DAMAGED)
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{DAMAGED}-{number}")
    try:
        return path.rename(aside)
    except OSError:
        return None


def free_name(path: Path) -> None:
    """If a folder has the name of a file that is about to be written, set it aside."""
    if path.is_dir() and (aside := set_aside(path)):
        log_once(f"{path} is a folder, not a file; it is set aside as {aside.name}", logging.INFO)
