"""A home's MLflow database is made next to its place: a night that is killed leaves no half of one behind."""

import sqlite3
from contextlib import closing, suppress
from functools import cache
from pathlib import Path

import sqlalchemy
from mlflow.store.db import utils

from pipeline.core.console import log
from pipeline.core.filesystem import temporary_name
from pipeline.storage import sqlite_files
from pipeline.tracking.server import sqlite_url


def bring_up_to_date(file: Path) -> None:
    """Create MLflow's database `file`, or migrate a copy of it, then move it into place.

    A database whose migration fails is replaced by an empty one if it holds no run: versions that created it in place
    could be killed halfway. The caller has locked the folder. Raises MlflowException or SQLAlchemyError where a
    database with runs can't be migrated, and sqlite3.Error where it can't be read.
    """
    if file.exists() and _revision(file) == _latest_revision():
        return
    for leftover in file.parent.glob(f".{file.name}.*"):
        leftover.unlink()
    part, is_new = temporary_name(file), not file.exists()
    try:
        if not is_new:
            sqlite_files.copy(file, part, file.stat().st_mode & 0o777)
        try:
            _migrate(part)
        except Exception:
            if is_new or _runs(file):
                raise
            part.unlink()
            _migrate(part)
        for ending in ("-journal", "-wal", "-shm"):  # of the replaced database, whose content is in the copy
            file.with_name(file.name + ending).unlink(missing_ok=True)
        part.replace(file)
        if not is_new:
            log.warning(
                "MLflow's database was migrated to this version; where `nightrecs up` runs, it restarts the server"
            )
    finally:
        part.unlink(missing_ok=True)


def settle_default(file: Path, artifacts: Path) -> None:
    """Give MLflow's experiment `Default` a place in the home; MLflow gives it `./mlruns` of the current folder.

    One with runs, or with a place that somebody chose, stays as it is.
    """
    where = """WHERE experiment_id = 0 AND artifact_location LIKE '%/mlruns/0'
               AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.experiment_id = 0)"""
    with closing(sqlite_files.connect(file)) as con:
        if con.execute(f"SELECT 1 FROM experiments {where}").fetchone():
            location = (artifacts / "0").as_uri()
            con.execute(f"UPDATE experiments SET artifact_location = ? {where}", (location,))


@cache
def _latest_revision() -> str:
    """The revision of this MLflow, which reads all its migrations to find it; a night asks eight times."""
    return utils._get_latest_schema_revision()


def _migrate(file: Path) -> None:
    """Create all tables, or migrate those that are there, as `mlflow db upgrade` does."""
    engine = sqlalchemy.create_engine(sqlite_url(file), poolclass=sqlalchemy.NullPool)
    try:
        if utils._is_empty_database(engine):
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _revision(file: Path) -> str | None:
    """The revision of the schema; None if it has none."""
    with suppress(sqlite3.OperationalError), closing(sqlite_files.connect(file)) as con:
        found: tuple[str] | None = con.execute("SELECT version_num FROM alembic_version").fetchone()
        return found[0] if found else None
    return None


def _runs(file: Path) -> int:
    """The number of runs; 0 if it has no table for them."""
    with closing(sqlite_files.connect(file)) as con:
        if not con.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return 0
        found: tuple[int] = con.execute("SELECT count(*) FROM runs").fetchone()
        return found[0]
