"""Nights that come back are checked when they are recorded, and kept in the home."""

import json
import os
import socket

import pytest

from flows.cli import main
from flows.schedules import schedules
from flows.services import free_port
from flows.up import check, standing, state
from pipeline.paths import Home


@pytest.fixture
def nightrecs(tmp_path):
    return lambda *words: main(["--home", str(tmp_path), *words])


def test_a_night_is_recorded_listed_and_removed(nightrecs, tmp_path, capsys):
    words = ("schedule", "sample", "--cron", "0 3 * * *", "--timezone", "Europe/Vienna", "--set", "split.test=0.2")
    assert nightrecs(*words, "--max-age", "36") == 0
    (night,) = schedules(Home(tmp_path))
    assert (night.name, night.cron, night.timezone, night.max_age) == ("sample", "0 3 * * *", "Europe/Vienna", 36)
    assert night.overrides == ["split.test=0.2"]
    capsys.readouterr()
    assert nightrecs("schedule", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "sample"
    assert nightrecs("schedule", "sample", "--remove") == 0 and schedules(Home(tmp_path)) == []
    assert nightrecs("schedule", "sample", "--remove") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cron", "every night"], "no cron line"),
        (["--cron", "0 3 * * *", "--timezone", "Vienna"], "no timezone"),
        ([], "say when"),
        (["--cron", "0 3 * * *", "--set", "split.tset=1"], "did you mean 'test'"),
        (["--cron", "0 3 * * *", "--data", "nowhere", "--recipe", "nightlie"], "did you mean 'nightly'"),
    ],
)
def test_what_a_night_would_refuse_is_refused_now(nightrecs, tmp_path, capsys, words, says):
    assert nightrecs("schedule", "sample", *words) == 2
    assert says in capsys.readouterr().err
    assert schedules(Home(tmp_path)) == []


def test_a_toml_is_kept_as_an_absolute_path(nightrecs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plays.csv").write_text("user,item\nu,a\nv,b\n")
    (tmp_path / "plays.toml").write_text('name = "plays"\n[source]\nfiles = ["plays.csv"]\n')
    assert nightrecs("schedule", "./plays.toml", "--cron", "0 3 * * *") == 0
    assert schedules(Home(tmp_path))[0].dataset == str(tmp_path / "plays.toml")


def test_a_broken_schedule_is_told_and_left_out(nightrecs, tmp_path, capsys):
    assert nightrecs("schedule", "sample", "--cron", "0 3 * * *") == 0
    (tmp_path / "warehouse" / "schedules" / "broken.json").write_text("{")
    assert [night.name for night in schedules(Home(tmp_path))] == ["sample"]
    assert "broken.json is damaged and left out" in capsys.readouterr().err


def test_a_taken_port_is_left_alone():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port


def test_check_says_what_is_up(tmp_path, capsys):
    home = Home(tmp_path)
    assert check(home, False) == 3 and "nothing is up" in capsys.readouterr().out
    state(home).parent.mkdir(parents=True)
    state(home).write_text(json.dumps({"pid": os.getpid(), "urls": {"MLflow": "http://127.0.0.1:9"}}))
    assert standing(home) and check(home, False) == 3
    assert "DOES NOT ANSWER" in capsys.readouterr().out
    state(home).write_text(json.dumps({"pid": 2**22 + 1, "urls": {}}))
    assert standing(home) is None
