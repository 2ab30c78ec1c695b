"""MLflow's database is swapped while `up` serves it: what the open server has, and that it is restarted."""

import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli.replaced_store import ReplacedStore
from flows.orchestration import subprocesses
from flows.orchestration.subprocesses import Service

SERVER = """
import pathlib, sqlite3, sys, time
con = sqlite3.connect(sys.argv[1], isolation_level=None)
before = con.execute("select name from runs").fetchall()
pathlib.Path(sys.argv[2]).write_text(str(before))
while True:
    time.sleep(0.05)
    if pathlib.Path(sys.argv[3]).exists():
        try:
            con.execute("insert into runs values ('by the open server')")
        except sqlite3.Error:
            pass
        pathlib.Path(sys.argv[3]).unlink()
"""
"""A server that keeps its connection open, as MLflow's does, and writes when it is asked to."""


@pytest.fixture
def store(tmp_path: Path):
    file, shown = tmp_path / "mlflow.db", tmp_path / "shown"
    with closing(sqlite3.connect(file)) as con, con:
        con.execute("create table runs (name)")
        con.execute("insert into runs values ('first')")
    command = [sys.executable, "-c", SERVER, str(file), str(shown), str(tmp_path / "write")]
    service = Service("MLflow", command)
    subprocesses.start(service, {}, tmp_path)
    wait_for(shown)
    yield ReplacedStore(service, file, {}, tmp_path), shown
    subprocesses.stop([service])


def wait_for(path: Path, there: bool = True) -> None:
    for _ in range(400):
        if path.exists() == there:
            return
        time.sleep(0.05)
    raise AssertionError(path)


def names(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as con:
        return [name for (name,) in con.execute("select name from runs")]


def replace(file: Path) -> None:
    """What `bring_up_to_date` does, and a night that is logged after it."""
    part = file.with_name(".part")
    shutil.copy(file, part)
    part.replace(file)
    with closing(sqlite3.connect(file)) as con, con:
        con.execute("insert into runs values ('of a later night')")


def test_an_open_server_is_restarted_on_the_new_file(store, tmp_path: Path):
    watched, shown = store
    before = watched.service.process
    assert not watched.restart_if_replaced() and watched.service.process is before, "an untouched file changes nothing"
    with closing(sqlite3.connect(watched.file)) as con, con:
        con.execute("insert into runs values ('in place')")
    assert not watched.restart_if_replaced(), "nor does a write to it"
    replace(watched.file)
    (tmp_path / "write").touch()
    wait_for(tmp_path / "write", there=False)
    assert "by the open server" not in names(watched.file), "without a restart it can't write, and shows old rows"
    shown.unlink()
    assert watched.restart_if_replaced() and watched.service.process is not before
    wait_for(shown)
    assert "of a later night" in shown.read_text() and before.poll() is not None
    assert not watched.restart_if_replaced(), "once"
    (tmp_path / "write").touch()
    wait_for(tmp_path / "write", there=False)
    assert names(watched.file) == ["first", "in place", "of a later night", "by the open server"], (
        "and nothing is lost now"
    )


def test_a_file_that_is_gone_for_a_moment_or_a_server_that_does_not_start_ends_nothing(store, monkeypatch):
    watched, _ = store
    aside = watched.file.with_name("aside")
    watched.file.rename(aside)
    assert not watched.restart_if_replaced(), "while it is gone there is nothing to open"
    aside.rename(watched.file)
    assert not watched.restart_if_replaced()
    watched.service.command = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(watched.service, "health", ("http://127.0.0.1:9/",))
    replace(watched.file)
    assert watched.restart_if_replaced() and watched.service.process.wait() == 3, "`up` sees that it ended"
