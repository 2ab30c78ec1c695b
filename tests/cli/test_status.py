"""`nightrecs status`: which nights count, and that its lines stay short."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from flows.cli import status
from pipeline.core.paths import Home
from pipeline.datasets.names import runnable
from pipeline.storage import journal


def home_with(folder: Path, *nights: dict) -> Home:
    """A home whose journal has these nights of `tiny`, one per hour; nothing is published."""
    home = Home(folder)
    for hour, night in enumerate(nights):
        run_id = f"20261122T{hour:02d}0000.000Z-0000"
        at = home.journal("tiny") / run_id / "run.json"
        at.parent.mkdir(parents=True)
        at.write_text(
            json.dumps(
                {
                    "run_id": run_id,
                    "dataset": "tiny",
                    "recipe": "nightly",
                    "code_version": "1",
                    "started_at": f"2026-11-22 0{hour}:00:00",
                    **night,
                }
            )
        )
    return home


@pytest.mark.parametrize(
    ("night", "counts"),
    [
        ({"outcome": "crashed"}, True),
        ({"outcome": "refused"}, True),
        ({"outcome": "crashed", "until": "train"}, False),
        ({"outcome": "refused", "overrides": ["models.mf.epochs=2"]}, False),
        ({"outcome": "refused", "overrides": ["seed=1"]}, True),  # as the published night: cron, not an experiment
        ({"outcome": "published", "overrides": ["models.mf.epochs=2"]}, True),
        ({"outcome": "stopped", "until": "train"}, False),
    ],
)
def test_failed_experiments_do_not_count(tmp_path: Path, night: dict, counts: bool):
    home = home_with(tmp_path, {"outcome": "published", "overrides": ["seed=1"]}, night)
    found = status.health(home, "tiny", None)
    assert found["last_night"].startswith("20261122T01" if counts else "20261122T00")
    failed = any("did not publish" in problem for problem in found["problems"])
    assert failed == (counts and night["outcome"] != "published")


def test_the_first_night_counts_even_with_overrides_if_nothing_is_published(tmp_path: Path):
    home = home_with(tmp_path, {"outcome": "crashed", "overrides": ["seed=1"]})
    assert "nothing is published yet" in status.health(home, "tiny", None)["problems"]


def test_a_dead_night_whose_tables_went_live_counts_as_published(tmp_path: Path):
    home = home_with(tmp_path, {"outcome": "published"}, {"outcome": "running"}, {"outcome": "running"})
    dead, last = journal.run_ids(home, "tiny")[1:]
    found = status.health(home, "tiny", last)
    assert (found["last_night"], found["last_outcome"], found["last_reason"]) == (last, "published", None)
    assert not any("did not publish" in problem for problem in found["problems"])
    found = status.health(home, "tiny", dead)
    assert (found["last_night"], found["last_outcome"]) == (last, "crashed")
    shown = {}
    for live in (last, dead):
        names = {run_id: journal.as_ended(journal.read_run(home, "tiny", run_id), live) for run_id in (dead, last)}
        shown[live] = [night["outcome"] for night in names.values()]
    assert shown == {last: ["crashed", "published"], dead: ["published", "crashed"]}
    journal.close_stale(home, "tiny", last)
    assert [journal.read_run(home, "tiny", i)["outcome"] for i in (dead, last)] == shown[last], (
        "the rule of the journal"
    )


def test_what_to_run_next_is_the_file_of_the_last_night(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("NIGHTRECS_DATA", raising=False)
    own, elsewhere = tmp_path / "own", tmp_path / "data of March"
    own.mkdir()
    elsewhere.mkdir()
    toml = str(own / "shop.toml")
    home = home_with(
        tmp_path / "home", {"outcome": "published"}, {"outcome": "crashed", "toml": toml, "data": str(own)}
    )
    assert runnable(home, "tiny") == toml
    monkeypatch.chdir(own)
    assert runnable(home, "tiny") == "./shop.toml" and runnable(home, "sample") == "sample"
    assert runnable(home, "other") == "./other.toml", "no night says which file it is"
    answer = {
        "healthy": False,
        "last_night": "x",
        "running": None,
        "not_copied": 0,
        "open_forgets": 0,
        "disk_full": False,
        "problems": ["x"],
    }
    steps = status.next_steps(answer, home, Namespace(home=None, dataset="tiny"))
    assert steps[-1] == "nightrecs run ./shop.toml"
    path = home.journal("tiny") / journal.run_ids(home, "tiny")[-1] / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": str(elsewhere)}))
    assert runnable(home, "tiny") == f"./shop.toml --data '{elsewhere}'"


def test_lines_are_short_whatever_the_source_has(tmp_path: Path, capsys):
    home = home_with(tmp_path, {"outcome": "refused", "reason": "rejected: " + "raw line " * 200})
    answer = status.health(home, "tiny", None) | {"age_hours": None, "next": []}
    row = {"file": "/a/long/way/to/" + "x" * 200 + "/a.csv", "line": 1, "column": "rating", "reason": "not_a_number"}
    raw = "a,\tb\n" + "y" * 9000
    answer["rejected"] = {"rows": 1, "first": [{**row, "raw": raw}], "sql": "from 'rejected_rows.parquet'"}
    status.describe(answer, Namespace(json=False))
    printed = capsys.readouterr().out
    assert "NOT HEALTHY" in printed and "a.csv" in printed and "a, b y" in printed
    assert max(map(len, printed.splitlines())) <= 410
