"""Whole nights that publish to PostgreSQL and a bucket: done, with a destination down, killed, and caught up."""

import json
import os
import signal
from pathlib import Path

import polars as pl
import pytest

from pipeline.core.filesystem import delete
from pipeline.core.paths import Home
from pipeline.destinations import health
from pipeline.schemas import tables
from pipeline.storage import journal, lake, reader
from pipeline.storage.generations import live_run_id
from tests.support.forks import forks
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


POINTS = (
    "fetch:mid_file", "fetch:after_file", "fetch:before_query", "fetch:after_query", "fetch:before_record",
    "fetch:after_record", "lake:before_upload", "lake:mid_upload", "lake:before_shared_manifest",
    "lake:after_shared_manifest", "train:before_rename", "train:after_rename", "lake:mid_fetch", "lake:before_place",
    "audit:after_fill", "publish:before_replace", "publish:after_replace", "deliver:after_schema", "deliver:mid_copy@3",
    "deliver:before_swap", "deliver:after_swap", "deliver:before_manifest", "deliver:before_pointer",
    "deliver:after_pointer",
)  # fmt: skip
"""Where a night is killed, in the order in which it gets there. Each attempt goes on from what the one before left."""
ATTEMPT = """
import sys
from flows import conductor
from flows.prepare import discard, prepare
from pipeline.stages import report, track
track.best_effort = report.best_effort = lambda run, problem, action: None
toml, recipe, home, *overrides = sys.argv[1:]
run = prepare(toml, recipe, None, home, ["threads=1", *overrides])
conductor.conduct(run)
discard(run)
"""
IMPORTED = (
    "flows.conductor", "flows.prepare", "flows.candidate_models", "pipeline.stages.audit", "pipeline.stages.deliver",
    "pipeline.stages.export", "pipeline.stages.publish", "pipeline.stages.report", "pipeline.stages.track", "obstore",
    "adbc_driver_postgresql.dbapi", "pipeline.destinations.postgres",
)  # fmt: skip


class Connected:
    """A night that reads from a database and a bucket, shares its lake in a bucket, and publishes to both."""

    def __init__(self, folder: Path, postgres: PostgresServer, s3: S3Server):
        self.folder, self.postgres, self.name, bucket = folder, postgres, postgres.new_database(), s3.new_bucket()
        self.store = s3.store(bucket)
        rows = [(f"u{u:02d}", f"i{(5 * u + 3 * day) % 17:02d}", 1 + (u + day) % 5, 1_700_000_000 + 86_400 * day + u)
                for day in range(10) for u in range(20)]  # fmt: skip
        postgres.execute(
            "CREATE TABLE plays (u text, i text, r int, t bigint)",
            f"INSERT INTO plays VALUES {', '.join(map(str, rows))}",
            database=self.name,
        )
        for number in range(2):
            titles = "".join(f"i{item:02d},Title {item}\n" for item in range(number, 17, 2))
            s3.client().put_object(Bucket=bucket, Key=f"items/{number}.csv", Body=f"item,title\n{titles}")
        folder.mkdir()
        (folder / "tiny.toml").write_text(
            'name = "tiny"\n[source]\nquery = "select u, i, r, t from plays"\nurl_env = "SHOP_DB_URL"\n'
            '[columns]\nuser = "u"\nitem = "i"\nrating = "r"\ntimestamp = "t"\n'
            f'[items]\nfiles = ["s3://{bucket}/items/*.csv"]\nid = "item"\ntitle = "title"\n'
        )
        (folder / "cheap.toml").write_text(
            '[split]\nkind = "leave_one_out"\n[models.mf]\nembedding_dim = 4\nepochs = 1\n[gate]\nenabled = false\n'
            '[publish.postgres]\nurl_env = "SHOP_DB_URL"\nminutes = 0.02\n'
            f'[publish.parquet]\nurl = "s3://{bucket}/out"\nminutes = 0.02\n[lake]\nurl = "s3://{bucket}/lake"\n'
        )

    def words(self, home: str) -> tuple[str, ...]:
        """Arguments of ATTEMPT."""
        return str(self.folder / "tiny.toml"), str(self.folder / "cheap.toml"), str(self.folder / home)

    def readers_see(self) -> tuple[str | None, str | None]:
        """The nights in the database and in the bucket, which are whole; None where there is none yet."""
        import obstore

        query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'tiny'"
        in_postgres = None
        if self.postgres.execute(query, database=self.name) != [(0,)]:
            lists = "SELECT run_id, count(DISTINCT user_id), (SELECT count(*) FROM tiny.items) FROM tiny.recommendations GROUP BY 1"
            [(in_postgres, users, items)] = self.postgres.execute(lists, database=self.name)
            assert (users, items) == (20, 17)
        keys = {each["path"] for page in obstore.list(self.store, prefix="out") for each in page}
        if "out/latest.json" not in keys:
            return in_postgres, None
        latest = json.loads(bytes(obstore.get(self.store, "out/latest.json").bytes()))
        manifest = json.loads(bytes(obstore.get(self.store, f"out/{latest['manifest']}").bytes()))
        assert {f"out/{latest['folder']}/{each['file']}" for each in manifest["tables"].values()} <= keys
        return in_postgres, latest["run_id"]


def test_a_night_between_servers_that_is_killed_at_each_step_ends_whole(
    postgres: PostgresServer, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("obstore")
    pytest.importorskip("adbc_driver_postgresql")
    data = Connected(tmp_path / "data", postgres, s3)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DB_URL", postgres.url(data.name, password=True))
    home, published = Home(data.folder / "home"), list[str]()
    with forks(*IMPORTED) as processes:
        for point in POINTS:
            if point in ("lake:mid_fetch", "lake:before_place"):
                delete(home.lake("tiny"))
            ended = processes.run(
                ATTEMPT,
                *data.words("home"),
                NIGHTRECS_FAULT=f"{point.replace('@', ':kill@')}{'' if '@' in point else ':kill'}",
            )
            assert ended.returncode == -signal.SIGKILL and "planted fault" in ended.stderr, (point, ended.stderr)
            live = live_run_id(home, "tiny")
            published += [live] if live and live not in published else []
            assert {*data.readers_see()} <= {None, *published}, point
        whole = processes.run(ATTEMPT, *data.words("home"))
        assert whole.returncode == 0, whole.stderr
        plain = data.folder / "plain.toml"
        plain.write_text((data.folder / "cheap.toml").read_text().partition("[publish.postgres]")[0])
        toml, _, other = data.words("other")
        alone = processes.run(ATTEMPT, toml, str(plain), other)
        assert alone.returncode == 0, alone.stderr
    live = live_run_id(home, "tiny")
    assert live not in published and data.readers_see() == (live, live) and health.troubles(home, "tiny") == []
    assert lists_of(home) == lists_of(Home(Path(other)))
    stages = journal.read(home, "tiny", tables.STAGES, live)
    made = stages.filter(~pl.col("skipped"))["stage"].to_list()
    assert not {"ingest", "clean", "split", "train mf"} & set(made), "attempts before it have made these"
    assert set(journal.read(home, "tiny", tables.RUNS)["outcome"]) <= {"published", "crashed"}
    for folder in home.lake("tiny").glob("[1-9]_*/*"):
        assert lake.is_complete(folder)
    assert not list((home.lake("tiny") / lake.SOURCE).glob(".fetched-*"))


def lists_of(home: Home) -> list[tuple]:
    """The published lists, and the ledger of their night."""
    with reader.open_file(home.live("tiny")) as con:
        query = "from row_ledger select stage, reason, rows where run_id in (select run_id from recommendations) order by all"
        lists = "from recommendations select user_id, rank, item_id, score order by all"
        return [*con.sql(lists).fetchall(), *con.sql(query).fetchall()]
