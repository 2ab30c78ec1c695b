"""The journal: every night, in order, whole lines only, one night at a time."""

import datetime as dt
import subprocess
import sys

import pytest

from pipeline.config.run import new_run_id
from pipeline.core.errors import Locked
from pipeline.schemas import tables
from pipeline.storage import journal
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
