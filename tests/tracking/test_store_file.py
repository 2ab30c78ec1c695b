"""MLflow's database is whole or not there, whenever the night that creates or migrates it ends."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base
from sqlalchemy.exc import SQLAlchemyError

from pipeline.tracking.server import sqlite_url
from pipeline.tracking.store_file import bring_up_to_date, settle_default

RUN = """INSERT INTO runs (run_uuid, experiment_id, name, user_id, source_type, status, lifecycle_stage)
    VALUES ('a', 0, 'n', 'me', 'LOCAL', 'FINISHED', 'active')"""


@pytest.fixture
def half(tmp_path) -> Path:
    """A database as a version left it that created it in place and was killed in one of the migrations."""
    file = tmp_path / "mlflow.db"
    engine = sqlalchemy.create_engine(sqlite_url(file))
    Base.metadata.create_all(engine)
    engine.dispose()
    execute(file, "CREATE TABLE _alembic_tmp_metrics (key TEXT)")
    return file


def execute(file: Path, statement: str) -> list[tuple]:
    with closing(sqlite3.connect(file, isolation_level=None)) as con:
        return con.execute(statement).fetchall()


def test_a_killed_creation_leaves_nothing(tmp_path, monkeypatch):
    def killed(engine: sqlalchemy.Engine) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_upgrade_db", killed)
    (tmp_path / ".mlflow.db.0123456789abcdef").write_bytes(b"of a process that was killed by SIGKILL")
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(tmp_path / "mlflow.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_half_a_database_without_runs_is_replaced(half):
    bring_up_to_date(half)
    assert execute(half, "SELECT version_num FROM alembic_version") == [(utils._get_latest_schema_revision(),)]
    assert not execute(half, "SELECT name FROM sqlite_master WHERE name LIKE '_alembic_tmp%'")
    assert [path.name for path in half.parent.iterdir()] == ["mlflow.db"]
    before = half.stat().st_ino
    bring_up_to_date(half)
    assert half.stat().st_ino == before


def test_the_default_experiment_is_in_the_home_unless_it_is_used(half, tmp_path):
    stray, chosen = "/somewhere/mlruns/0", "s3://bucket/0"
    add = "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage) VALUES (0, 'Default', '{}', 'active')"
    inside = (tmp_path / "mlflow" / "artifacts" / "0").as_uri()
    for before, runs, after in ((stray, False, inside), (chosen, False, chosen), (stray, True, stray)):
        execute(half, add.format(before))
        if runs:
            execute(half, RUN)
        for _ in range(2):
            settle_default(half, tmp_path / "mlflow" / "artifacts")
            assert execute(half, "SELECT artifact_location FROM experiments") == [(after,)]
        execute(half, "DELETE FROM experiments")


def test_a_database_with_runs_that_cannot_be_migrated_stays(half):
    execute(half, RUN)
    before = half.read_bytes()
    with pytest.raises(SQLAlchemyError, match="_alembic_tmp_metrics already exists"):
        bring_up_to_date(half)
    assert half.read_bytes() == before and [path.name for path in half.parent.iterdir()] == ["mlflow.db"]


@pytest.mark.long
def test_an_older_database_keeps_its_runs(half):
    execute(half, "DROP TABLE _alembic_tmp_metrics")
    execute(half, RUN)
    bring_up_to_date(half)
    assert execute(half, "SELECT run_uuid FROM runs") == [("a",)]
    assert execute(half, "SELECT version_num FROM alembic_version") == [(utils._get_latest_schema_revision(),)]
