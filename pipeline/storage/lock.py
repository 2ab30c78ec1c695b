"""The kernel lock of a data set: it vanishes with the process that holds it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.config.run import utcnow
from pipeline.core.errors import Locked
from pipeline.core.filesystem import free_name
from pipeline.core.paths import Home
from pipeline.storage import home_identity


@contextmanager
def lock(home: Home, dataset: str, holder: str, kind: str = "run") -> Iterator[None]:
    """Hold the data set's kernel lock; it vanishes with the process. Raises Locked, naming who holds it.

    A home that was copied or moved is made independent first. `holder` is a run id, or the name of a command where
    `kind` is "command". UnreadableInput where nothing can be written in the home.
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
            other = _told(file) or str(path)
            what = "command" if other.startswith("command") else "night"
            raise Locked(f"another {what} of {dataset} is running: {other}") from None
        file.truncate(0)
        file.write(f"{kind} {holder}, process {os.getpid()}, since {utcnow():%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield
        file.truncate(0)


def _told(file: TextIO) -> str:
    """What the holder of a lock wrote of itself; it may be about to."""
    for _ in range(20):
        file.seek(0)
        if told := file.read().strip():
            return told
        time.sleep(0.01)
    return ""


def lock_holder(path: Path) -> str | None:
    """What the holder of a lock file wrote into it; None where nobody holds it. Never waits, keeps nothing."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return path.read_text(errors="replace").strip() or "somebody"
    except (FileNotFoundError, IsADirectoryError):
        return None
