"""Copies large files, with shared blocks if the file system supports it (Btrfs, XFS)."""

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path

FICLONE = 0x40049409
"""Linux ioctl for a copy that shares its blocks until one of the two files is changed."""
CHUNK = 16 * 2**20


def copy_file(source: Path, target: Path, mode: int) -> None:
    """Copy `source` to `target`, which must not exist, and sync it. A failed copy is removed.

    Raises OSError(ENOSPC) before anything is copied if the disk has no room for the copy.
    """
    with source.open("rb") as original, target.open("xb") as copy:
        try:
            try:
                fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
            except OSError:  # not supported by this file system
                _check_space(source, target.parent)
                shutil.copyfileobj(original, copy, CHUNK)
                copy.flush()
            now = time.time_ns()  # the kernel's timestamps have a resolution of milliseconds
            os.utime(copy.fileno(), ns=(now, now))
            os.fchmod(copy.fileno(), mode)
            os.fsync(copy.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _check_space(source: Path, folder: Path) -> None:
    needed, free = source.stat().st_size, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: a copy of {source.name} needs {needed:,} bytes, {free:,} are free",
            str(folder),
        )
