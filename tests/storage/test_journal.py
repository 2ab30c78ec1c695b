"""The journal: every night, in order, whole lines only, one night at a time."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.run import Run, new_run_id, utcnow
from pipeline.config.settings import Settings
from pipeline.core.errors import Locked
from pipeline.schemas import tables
from pipeline.storage import journal, journal_entries
from pipeline.storage.lock import lock


def test_a_night_that_never_ended_is_closed_by_the_next(run):
    assert journal.read_run(run.home, run.dataset, run.run_id)["outcome"] == "running"
    assert journal.close_stale(run.home, run.dataset) == {run.run_id: "crashed"}
    runs = journal.read(run.home, run.dataset, tables.RUNS)
    assert runs["outcome"].to_list() == ["crashed"]
    assert journal.close_stale(run.home, run.dataset) == {}


def test_what_follows_publishing_can_not_unpublish(run):
    journal.close_run(run, "published")
    journal.close_run(run, "crashed", "MLflow was gone")
    assert journal.read_run(run.home, run.dataset, run.run_id)["outcome"] == "published"


def test_a_torn_last_line_is_left_out(run):
    journal.append(run, tables.CHECKS, [{"check_name": "a", "severity": "error", "bad_rows": 0, "passed": True}])
    with (journal.folder(run) / "checks.jsonl").open("a") as file:
        file.write('{"run_id": "x", "check_na')
    assert journal.read(run.home, run.dataset, tables.CHECKS)["check_name"].to_list() == ["a"]


def test_one_night_at_a_time(run):
    with lock(run.home, run.dataset, "first"):
        with (
            pytest.raises(Locked, match="run first, process"),
            lock(run.home, run.dataset, "second"),
        ):
            pass
        with lock(run.home, "another", "second"):
            pass
    with lock(run.home, run.dataset, "third"):
        pass


def test_the_lock_goes_with_its_process(run):
    code = (
        "import sys, os; from pathlib import Path; from pipeline.storage.lock import lock; from pipeline.core.paths import Home\n"
        "lock(Home(Path(sys.argv[1])), 'tiny', 'killed').__enter__(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(run.home_root)]).returncode == -9
    with lock(run.home, run.dataset, "next"):
        pass


def test_run_ids_are_ordered_even_if_the_clock_goes_back():
    now = dt.datetime(2026, 11, 22, 3, 0, 0, 123_000)
    first = new_run_id(now, [])
    again = new_run_id(now, [first])
    back = new_run_id(now - dt.timedelta(days=1), [first, again])
    assert first < again < back
    assert first.startswith("20261122T030000.123Z-")


def test_a_kill_after_going_live_counts_as_published(run):
    assert journal.close_stale(run.home, run.dataset, live=run.run_id) == {run.run_id: "published"}
    assert journal.read_run(run.home, run.dataset, run.run_id)["reason"] is None


def test_a_line_torn_in_the_middle_of_a_night_takes_no_other_with_it(run):
    with (journal.folder(run) / "checks.jsonl").open("a") as file:
        file.write('{"run_id": "x", "check_na')
    journal.append(run, tables.CHECKS, [{"check_name": "b", "severity": "error", "bad_rows": 0, "passed": True}])
    assert journal.read(run.home, run.dataset, tables.CHECKS)["check_name"].to_list() == ["b"]


def test_a_task_writes_nothing_and_the_driver_takes_its_entries(run):
    def stage() -> None:
        with journal.stage(run, "train ials") as record:
            record.update(rows_in=3, rows_out=2)
        journal.append(run, tables.ROW_LEDGER, [{"stage": "clean", "reason": "kept", "rows": 2}])
        journal.record_artifact(run, run.home.lake(run.dataset) / "2_clean" / "clean-1")
        journal.note(run, "warning: a rare thing", {"user_id": ["42"]})
        journal.update_run(run, split_kind="random")

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in journal.folder(run).iterdir()}

    before = files()
    with journal_entries.aside() as entries:
        stage()
        with journal_entries.aside() as inner:
            journal.note(run, "of a task in a task")
    assert files() == before and len(inner) == 1
    journal.take(run, json.loads(json.dumps(entries)))
    taken = files()
    seconds = {row["stage"]: row["rows_out"] for row in journal.read(run.home, run.dataset, tables.STAGES).to_dicts()}
    assert seconds == {"train ials": 2}
    assert journal.notes(run.home, run.dataset, run.run_id) == ["warning: a rare thing"]
    assert journal.read_run(run.home, run.dataset, run.run_id)["split_kind"] == "random"
    assert [path.name for path in journal.artifacts(run, run.run_id, "2_clean")] == ["clean-1"]
    for name in taken:
        (journal.folder(run) / name).write_bytes(before.get(name, b""))
    stage()  # without a task in between
    own = files()
    assert own.pop("stages.jsonl") and taken.pop("stages.jsonl")  # they have the seconds
    assert own == taken


def test_no_file_of_a_journal_names_the_user_of_a_url(tmp_path: Path):
    tree = {"name": "shop", "source": {"query": "select 1", "url": "postgresql://reader@db.example.com/shop"}}
    settings = Settings.model_validate({"dataset": tree, "models": {"popularity": {}}})
    run_id = "20260101T000000.000Z-aaaa"
    run = Run(run_id=run_id, home_root=tmp_path, data=tmp_path, started_at=utcnow(), settings=settings)
    journal.open_run(run)
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("postgresql://db.example.com/shop" in text for text in texts)
    assert not any("reader" in text for text in texts)
    assert journal.load_run(run.home, "shop", run_id).settings.dataset.source.query == "select 1"
