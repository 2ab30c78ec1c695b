"""Nights that come back are checked when they are recorded, and kept in the home."""

import json
import os
import socket
import stat

import pytest

from flows.cli import main, up
from flows.cli.up import check
from flows.orchestration import api_access
from flows.orchestration.schedules import schedules
from flows.orchestration.subprocesses import free_port
from pipeline.core.paths import Home
from pipeline.storage.lock import lock, lock_holder
from pipeline.storage.running_servers import LOCK, running_up, state


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
        (["--cron", "every night"], "not a cron line"),
        (["--cron", "0 3 * * *", "--timezone", "Vienna"], "not a time zone"),
        ([], "--cron is missing"),
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


def test_a_broken_schedule_is_reported_and_left_out(nightrecs, tmp_path, capsys):
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
    with lock(home, LOCK, "up", kind="command"):
        assert check(home, False) == 3 and "is starting (process" in capsys.readouterr().out
        assert check(home, True) == 3 and json.loads(capsys.readouterr().out)["starting"] is True
        state(home).write_text(json.dumps({"pid": os.getpid(), "urls": {"MLflow": "http://127.0.0.1:9"}}))
        assert running_up(home) and check(home, False) == 3
        assert "DOES NOT ANSWER" in capsys.readouterr().out
    assert running_up(home) is None and check(home, False) == 3
    assert "nothing is up" in capsys.readouterr().out


def test_a_second_up_starts_nothing(nightrecs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(up, "serve", lambda *_: pytest.fail("it went on"))
    home = Home(tmp_path)
    with lock(home, LOCK, "up", kind="command"):
        assert nightrecs("up") == 3
        assert f"is starting (process {os.getpid()}, since" in capsys.readouterr().err
        state(home).write_text(json.dumps({"pid": os.getpid(), "urls": {}}))
        assert nightrecs("up") == 3
        assert f"it is up already, as process {os.getpid()}" in capsys.readouterr().err


def test_up_holds_the_lock_from_its_first_moment_to_the_end(nightrecs, tmp_path, monkeypatch):
    """As the first command of a home: whatever is made is not for everybody."""
    home, held = Home(tmp_path / "home"), []

    def starts(service, environment, logs):
        held.append(lock_holder(home.lock(LOCK)))
        raise KeyboardInterrupt

    def stops(services):
        held.append(lock_holder(home.lock(LOCK)))

    monkeypatch.setattr(up, "start", starts)
    monkeypatch.setattr(up, "stop", stops)
    for name in ("PREFECT_API_AUTH_STRING", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    before = os.umask(0)
    try:
        assert nightrecs("--home", str(home.root), "up") == 0
    finally:
        os.umask(before)
    assert len(held) == 2 and all(f"process {os.getpid()}," in (holder or "") for holder in held)
    assert lock_holder(home.lock(LOCK)) is None and not state(home).exists()
    made = [home.root, *home.root.rglob("*")]
    assert len(made) > 6
    for path in made:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o027, path
    assert stat.S_IMODE(api_access.file_of(home).stat().st_mode) == 0o600


def test_links_open_mlflow_on_the_runs(monkeypatch):
    found = [{"name": "Default", "experiment_id": "0"}, {"name": "sample", "experiment_id": "3"}]
    monkeypatch.setattr(up.Api, "ask", lambda *_: {"experiments": found})
    assert up.links("http://m", "a:b") == ["http://m/#/experiments/3/runs?workflowType=machine_learning  sample"]
    monkeypatch.setattr(up.Api, "ask", lambda *_: {})
    assert up.links("http://m", "a:b") == ["http://m/#/experiments?workflowType=machine_learning"]
    monkeypatch.undo()
    assert up.links("http://127.0.0.1:9", "a:b") == ["http://127.0.0.1:9/#/experiments?workflowType=machine_learning"]
