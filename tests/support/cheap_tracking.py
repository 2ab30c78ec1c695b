"""Costs of a night with MLflow that most tests need not pay: migrating an empty database, and drawing plots.

`tests/conftest.py` applies both to the whole session. The first home of a session creates its database as usual, and
later homes get a copy. Plots are prepared, with all their data, but not drawn; a test that wants them drawn uses the
fixture `draws_plots`. Child processes do both in full.
"""

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from pathlib import Path

from pipeline.core.paths import Home
from pipeline.reporting.plots import worker
from pipeline.tracking import server

Initialised = Callable[[Home], AbstractContextManager[None]]


def from_template(template: Path, initialised_alone: Initialised) -> Initialised:
    """`initialised_alone` with a copy of `template` in homes without a database; the first home's becomes the template."""

    @contextmanager
    def initialised(home: Home) -> Iterator[None]:
        with initialised_alone(home):
            is_new = server.USERS_URI is None and not home.mlflow_db.exists()
            if is_new and template.exists():
                shutil.copyfile(template, home.mlflow_db)
            yield
            _remember_revision()
            if is_new and not template.exists() and home.mlflow_db.exists():
                part = template.with_name(f"{template.name}.{home.mlflow_db.stat().st_ino}")
                shutil.copyfile(home.mlflow_db, part)
                _forget_place(part)
                part.replace(template)  # other workers of the session may do the same

    return initialised


def _forget_place(file: Path) -> None:
    """The experiment `Default` is again where MLflow puts it, so that each home gives it a place of its own."""
    with closing(sqlite3.connect(file)) as con, con:
        con.execute("UPDATE experiments SET artifact_location = './mlruns/0' WHERE experiment_id = 0")


def _remember_revision() -> None:
    """MLflow reads all its migrations for the newest revision whenever it opens a store, so in each home."""
    utils = sys.modules.get("mlflow.store.db.utils")
    if utils and not hasattr(utils._get_latest_schema_revision, "cache_info"):
        utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)


class Preparer(worker.Drawer):
    """A Drawer that writes every order down, so that failures are found, but starts no process and draws nothing."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nightrecs-pictures-")
        self._asked: list[tuple[str | None, Path]] = []
        self._failed: list[str] = []

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def drawn(self) -> Iterator[tuple[str | None, Path]]:
        yield from ()

    def failed(self) -> list[str]:
        return self._failed

    def _send(self, line: str) -> None: ...
