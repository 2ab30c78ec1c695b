"""kill -9 between any two stages: the live file is whole, the next night goes on, and its hash is the undisturbed one."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import nightly as line
from flows.start import prepare
from pipeline import journal, warehouse
from pipeline.stages.publish import live_run_id

CHECKOUT = Path(__file__).parent.parent
TOML = 'name = "tiny"\n[source]\nfiles = ["a.csv"]\n[columns]\ntimestamp = "t"\ntimestamp_unit = "s"\n'
RECIPE = '[split]\nkind = "leave_one_out"\n[models.popularity]\n[models.ease]\n'
KILLED = """
import os, sys
from flows import nightly as line
from flows.start import prepare
from pipeline import journal

point, toml, recipe, home = sys.argv[1:]
def die(): os.kill(os.getpid(), 9)
def step(stage, *args):
    made = stage(*args)
    if line.title_of(stage, args) == point:
        die()
    return made
close_run = journal.close_run
def close(run, outcome, reason=None):
    if point == "after going live" and outcome == "published":
        die()
    close_run(run, outcome, reason)
journal.close_run = close
line.conduct(prepare(toml, recipe, None, home), step)
"""
POINTS = ("ingest", "split", "train ease", "evaluate ease", "export", "audit", "after going live", "publish")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    rows = [f"u{u},i{(u * 7 + i * 3) % 25},{1_000_000 + u * 50 + i}" for u in range(40) for i in range(u % 6 + 4)]
    (folder / "a.csv").write_text("user,item,t\n" + "\n".join(rows) + "\n")
    (folder / "tiny.toml").write_text(TOML)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def night(source: Path, home: Path):
    run = prepare(str(source / "tiny.toml"), str(source / "recipe.toml"), None, str(home))
    assert line.conduct(run, line.plainly) == "published"
    return journal.read_run(run.home, "tiny", run.run_id)


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> str:
    return night(source, tmp_path_factory.mktemp("undisturbed"))["logical_hash"]


@pytest.mark.parametrize("point", POINTS)
def test_kill(source, undisturbed, tmp_path, point):
    command = [
        sys.executable,
        "-c",
        KILLED,
        point,
        str(source / "tiny.toml"),
        str(source / "recipe.toml"),
        str(tmp_path),
    ]
    assert subprocess.run(command, cwd=CHECKOUT, capture_output=True).returncode == -9
    home = prepare(str(source / "tiny.toml"), str(source / "recipe.toml"), None, str(tmp_path)).home
    (killed,) = journal.run_ids(home, "tiny")
    live = point in ("after going live", "publish")
    assert live_run_id(home, "tiny") == (killed if live else None), "whole or not there"

    record = night(source, tmp_path)
    assert record["logical_hash"] == undisturbed
    assert journal.read_run(home, "tiny", killed)["outcome"] == ("published" if live else "crashed")
    with warehouse.connect(home.live("tiny"), read_only=True) as con:
        stages = "select stage, skipped from stages where run_id = $run_id"
        skipped = dict(con.sql(stages, params={"run_id": record["run_id"]}).fetchall())
        assert skipped["ingest"], "finished stages are not done again"
        assert con.sql("select distinct run_id from recommendations").fetchall() == [(record["run_id"],)]
    assert not list(home.generations("tiny").glob(".*")), "no half-built file is left"
