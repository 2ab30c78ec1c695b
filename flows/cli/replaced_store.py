"""Restarts MLflow's server when its database is another file than the one it opened.

A night of a newer version migrates a copy of the database and renames it into place. A server that is open then shows
the former file for ever: new nights are missing, and SQLite refuses what a person writes in the UI.
"""

from dataclasses import dataclass
from pathlib import Path

from flows.orchestration.subprocesses import Service, start, stop, wait
from pipeline.core.console import log

Identity = tuple[int, int]


def identity(file: Path) -> Identity | None:
    """Device and inode of a file; None if it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass
class ReplacedStore:
    """MLflow's server, and the database that it has open."""

    service: Service
    file: Path
    environment: dict[str, str]
    logs: Path
    opened: Identity | None = None
    """The file as it was when the server was started; None: the server made it."""

    def __post_init__(self) -> None:
        self.opened = self.opened or identity(self.file)

    def restart_if_replaced(self) -> bool:
        """Restart the server if the database was replaced; returns whether it was.

        A server that does not start again is left to the loop that monitors its process.
        """
        now = identity(self.file)
        if now is None or now == self.opened:
            return False
        self.opened = now
        log.info(f"{self.file} was replaced, as where a newer version migrated it: MLflow's server is restarted")
        stop([self.service])
        start(self.service, self.environment, self.logs)
        try:
            wait(self.service, self.logs)
        except RuntimeError as failure:
            log.info(str(failure))
        return True
