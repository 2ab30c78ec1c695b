"""Whole nights that publish to PostgreSQL and a bucket: done, with a destination down, killed, and caught up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.paths import CHECKOUT
from pipeline.destinations import health
from pipeline.schemas import tables
from pipeline.storage import journal
from tests.support.postgres_server import PostgresServer
from tests.support.published_nights import Dataset, without_mlflow, without_report_file
from tests.support.s3_server import S3Server

pytestmark = [pytest.mark.night, pytest.mark.process]


class Nights:
    """A data set whose recipe publishes to a schema and to a bucket."""

    def __init__(self, folder: Path, postgres: PostgresServer, s3: S3Server):
        self.data, self.postgres, self.name = Dataset(folder), postgres, postgres.new_database()
        bucket = s3.new_bucket()
        with (folder / "cheap.toml").open("a") as file:
            file.write('[publish.postgres]\nurl_env = "SHOP_DB_URL"\nminutes = 0.02\n')
            file.write(f'[publish.parquet]\nurl = "s3://{bucket}/tiny"\nminutes = 0.02\n')
        self.store = s3.store(bucket)
        self.data.write()

    def in_postgres(self) -> str | None:
        """The night there."""
        rows = self.postgres.execute("SELECT DISTINCT run_id FROM tiny.recommendations", database=self.name)
        return rows[0][0] if len(rows) == 1 else None

    def in_bucket(self) -> str:
        """The night there."""
        import obstore

        return json.loads(bytes(obstore.get(self.store, "tiny/latest.json").bytes()))["run_id"]

    def notes(self, run_id: str) -> list[str]:
        """Warnings of a night about destinations."""
        return [line for line in journal.notes(self.data.home, "tiny", run_id) if "does not have tonight's" in line]


@pytest.fixture
def nights(postgres: PostgresServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    pytest.importorskip("obstore")
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    made = Nights(tmp_path / "data", postgres, s3)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DB_URL", postgres.url(made.name, password=True))
    return made


def test_a_night_publishes_to_both_and_catches_up_what_was_down(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    first = nights.data.night()
    assert (nights.in_postgres(), nights.in_bucket()) == (first, first) and nights.notes(first) == []
    assert "deliver" in journal.read(nights.data.home, "tiny", tables.STAGES, first)["stage"].to_list()
    reachable = os.environ["SHOP_DB_URL"]
    monkeypatch.setenv("SHOP_DB_URL", "postgresql://tester:hidden-word@127.0.0.1:1/x")
    second = nights.data.night("seed=2")  # done, whatever the destinations do
    assert (nights.in_postgres(), nights.in_bucket(), nights.data.live_night()) == (first, second, second)
    assert len(nights.notes(second)) == 1 and "Connection refused" in nights.notes(second)[0]
    capsys.readouterr()
    assert nights.data.command("status", "tiny") == 3
    out = capsys.readouterr().out
    assert "does not have the live night" in out and "hidden-word" not in out
    files = [path for path in nights.data.home_root.rglob("*") if path.suffix in (".json", ".jsonl", ".html")]
    texts = [path.read_text(errors="replace") for path in files]
    assert texts and not any("hidden-word" in text or nights.postgres.password in text for text in texts)
    monkeypatch.setenv("SHOP_DB_URL", reachable)
    third = nights.data.night("seed=3")
    assert (nights.in_postgres(), nights.in_bucket()) == (third, third)
    assert health.troubles(nights.data.home, "tiny") == []
    assert nights.data.command("rollback", "tiny", "--to", first) == 0
    assert (nights.in_postgres(), nights.in_bucket()) == (first, first)
    assert nights.data.command("forget", "tiny", "user-to-forget") == 0
    count = "SELECT count(*) FROM tiny.users WHERE user_id = 'user-to-forget'"
    assert nights.postgres.execute(count, database=nights.name) == [(0,)]


@pytest.mark.parametrize(
    "point", ["deliver:mid_copy:kill@3", "deliver:before_swap:kill", "deliver:before_manifest:kill"]
)
def test_a_night_killed_while_it_copies_is_published_and_the_next_one_is_whole(nights: Nights, point: str):
    first = nights.data.night()
    recipe = (nights.data.folder / "cheap.toml").read_text()
    script = (
        "import sys; from pathlib import Path; from tests.support.published_nights import Dataset; "
        "data = Dataset(Path(sys.argv[1])); (data.folder / 'cheap.toml').write_text(sys.argv[2]); data.night('seed=2')"
    )
    environment = {**os.environ, "NIGHTRECS_FAULT": point, "PYTHONPATH": str(CHECKOUT)}
    words = [sys.executable, "-c", script, str(nights.data.folder), recipe]
    done = subprocess.run(words, env=environment, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert nights.data.live_night() != first and nights.in_postgres() in (first, nights.data.live_night())
    third = nights.data.night("seed=3")
    assert (nights.in_postgres(), nights.in_bucket()) == (third, third)
    ended = journal.read(nights.data.home, "tiny", tables.RUNS)
    assert set(ended["outcome"]) == {"published"} and ended.height == 3
