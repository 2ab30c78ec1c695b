"""Opens and copies SQLite databases, which servers may be writing to."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

BUSY_SECONDS = 30
"""How long to wait for another connection that is writing."""


def connect(file: Path) -> sqlite3.Connection:
    """Open an existing database; each statement is a transaction of its own. Raises sqlite3.OperationalError."""
    uri = f"{file.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)


def copy(database: Path, target: Path, mode: int) -> None:
    """Copy a database to `target` with these permissions, and replace what is there.

    Nothing is left at `target` after an error. Raises sqlite3.OperationalError where the database can't be read now,
    and another sqlite3.DatabaseError where the file is no database.
    """
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(connect(database)) as source, closing(connect(target)) as copied:
            source.backup(copied)
        target.chmod(mode)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
