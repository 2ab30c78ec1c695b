"""The lock of a data set. The kernel releases it when the process that holds it ends."""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.core.errors import Locked
from pipeline.core.filesystem import free_name, is_full
from pipeline.core.paths import Home
from pipeline.core.run_ids import utcnow
from pipeline.storage import home_identity


@contextmanager
def lock(home: Home, dataset: str, holder: str, kind: str = "run") -> Generator[None]:
    """Hold the lock of a data set. Raises Locked with the holder's name if another process holds it.

    A home that was copied or moved is made independent first. `holder` is a run id, or the name of a command if
    `kind` is "command". Raises UnreadableInput if the home can't be written. On a full disk a command, which may free
    space, holds the lock without its name in the file; a night raises OSError.
    """
    home_identity.settle(home)
    path = home.lock(dataset)
    with home_identity.refusing_read_only(home):
        path.parent.mkdir(parents=True, exist_ok=True)
        free_name(path)
        opened = path.open("a+", encoding="utf-8", errors="replace")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _read_holder(file) or str(path)
            what = "command" if other.startswith("command") else "night"
            raise Locked(f"another {what} of {dataset} is running: {other}") from None
        file.truncate(0)
        text = f"{kind} {holder}, process {os.getpid()}, since {utcnow():%Y-%m-%d %H:%M:%S} UTC"
        try:
            os.write(file.fileno(), text.encode(errors="replace"))  # a buffer would fail again when the file is closed
        except OSError as error:
            if kind != "command" or not is_full(error):
                raise
        yield
        file.truncate(0)


def _read_holder(file: TextIO) -> str:
    """The text that the holder wrote into the lock file; waits a moment in case it is just being written."""
    for _ in range(20):
        file.seek(0)
        if holder := file.read().strip():
            return holder
        time.sleep(0.01)
    return ""


def lock_holder(path: Path) -> str | None:
    """The text that the holder of a lock wrote into its file; None if the lock is free. Does not wait or take it."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return path.read_text(errors="replace").strip() or "an unknown process"
    except (FileNotFoundError, IsADirectoryError):
        return None
