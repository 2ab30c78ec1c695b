"""Copies of large files: shared blocks where the file system has them (Btrfs, XFS), else all bytes."""

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path

FICLONE = 0x40049409
"""Linux's ioctl for a copy that shares the blocks until one of the two files is written to."""
CHUNK = 16 * 2**20


def copy_file(source: Path, target: Path, mode: int) -> None:
    """Make `target`, which must not exist, an independent copy, synced. A failed one is removed.

    Raises OSError(ENOSPC) before anything is copied where the disk has no room for a second copy.
    """
    with source.open("rb") as original, target.open("xb") as copy:
        try:
            try:
                fcntl.ioctl(copy.fileno(), FICLONE, original.fileno())
            except OSError:  # not on this file system
                _check_space(source, target.parent)
                shutil.copyfileobj(original, copy, CHUNK)
                copy.flush()
            now = time.time_ns()  # the kernel's own stamps are some milliseconds coarse
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
