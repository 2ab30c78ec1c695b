"""Opens and copies SQLite databases, which servers may be writing to."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

BUSY_SECONDS = 30
"""How long to wait for another connection that is writing."""


def connect(file: Path, busy_seconds: float | None = None) -> sqlite3.Connection:
    """Open an existing database; each statement is a transaction of its own. Raises sqlite3.OperationalError.

    `busy_seconds`: how long a statement waits for a lock of another connection, by default BUSY_SECONDS.
    """
    uri = f"{file.absolute().as_uri()}?mode=rw"
    timeout = BUSY_SECONDS if busy_seconds is None else busy_seconds
    return sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)


def copy(database: Path, target: Path, mode: int) -> None:
    """Copy a database to `target` with these permissions, and replace what is there.

    Nothing is left at `target` after an error. Raises sqlite3.OperationalError where the database can't be read now,
    and another sqlite3.DatabaseError where the file is no database.
    """
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(connect(database)) as source, closing(connect(target)) as copied:
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master").fetchone()  # a backup would wait for ever
            source.backup(copied)
        target.chmod(mode)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
