"""Homes: copied, moved, linked, old, newer; none touches another. Where a home is when nobody says."""

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli import main
from pipeline.core import child_processes, paths
from pipeline.core.paths import CHECKOUT, Home
from pipeline.storage import home_identity, home_paths, journal, lake
from pipeline.storage.home_paths import Relocation
from pipeline.tracking import cleanup, server
from pipeline.tracking.client import connect

pytestmark = pytest.mark.night

ODD = "h %;&'\"$é{}=+,~:@]"
REFUSED = ("?", "*", "[", "\\", "#", "%41", "\n", "\x1b")


def copy(home: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", str(home), str(to)], check=True)
    return to


def hashes(home: Path) -> dict[str, str]:
    files = sorted(path for path in home.rglob("*") if path.is_file())
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def texts(database: Path) -> str:
    """All that a database holds, freed pages included."""
    return database.read_bytes().decode("utf-8", "replace")


def predictions(home: Path) -> pd.DataFrame:
    """Of the champion, loaded as the README says."""
    connect(Home(home))
    champion = mlflow.pyfunc.load_model("models:/tiny@champion")
    return champion.predict(pd.DataFrame({"user_id": ["u01"]}), params={"top_n": 3})


def night(home: Path, published_home: Path) -> int:
    folder = published_home.parent
    words = ["run", str(folder / "tiny.toml"), "--recipe", str(folder / "cheap.toml"), "--no-prefect"]
    return main(["--home", str(home), *words])


def artifacts(home: Path) -> set[str]:
    with sqlite3.connect(Home(home).mlflow_db) as con:
        found = con.execute(
            "select artifact_location from experiments where name = 'tiny' union select artifact_uri from runs union "
            "select artifact_location from logged_models union select storage_location from model_versions"
        ).fetchall()
    con.close()
    return {row[0] for row in found}


def test_a_night_and_a_forget_in_a_copy_leave_the_original_as_it_was(published_home, tmp_path, capsys):
    before = hashes(published_home)
    home = copy(published_home, tmp_path / "copy")
    assert night(home, published_home) == 0
    output = capsys.readouterr().err
    assert f"{home} is a copy of the home {published_home}" in output and "mlflow.before-copied-" in output
    assert str(published_home) + "/" not in texts(Home(home).mlflow_db)
    assert all(location.startswith(f"file://{home}/mlflow/artifacts/tiny") for location in artifacts(home))
    assert predictions(home).shape == (3, 5)
    assert main(["--home", str(home), "forget", "tiny", "u01"]) == 0
    assert "models that know the user deleted" in capsys.readouterr().out
    assert hashes(published_home) == before
    assert predictions(published_home).shape == (3, 5)
    mine, original = home_identity.read(Home(home)), home_identity.read(Home(published_home))
    assert mine and original and mine.id != original.id and mine.path == str(home)
    left = [path for path in home.rglob("*") if path.suffix in (".json", ".jsonl", "") and path.is_file()]
    left = [path for path in left if path != Home(home).marker and f"{published_home}/".encode() in path.read_bytes()]
    assert left == []


@pytest.fixture(scope="module")
def settled(published_home, tmp_path_factory) -> Path:
    """A copy that is a home of its own, without files that tests of moving don't need."""
    home = copy(published_home, tmp_path_factory.mktemp("settled") / "home")
    home_identity.settle(Home(home))
    return home


@pytest.fixture
def movable(settled, tmp_path) -> Path:
    """A home that stays itself wherever a test moves it."""
    home = copy(settled, tmp_path / "first")
    home_identity.settle(Home(home))
    return home


def test_a_moved_home_goes_on(movable, tmp_path, capsys):
    expected, was = predictions(movable), home_identity.read(Home(movable))
    now = movable.rename(tmp_path / "second")
    capsys.readouterr()
    assert main(["--home", str(now), "gc", "tiny"]) == 0
    assert f"the home was moved from {movable} to {now}" in capsys.readouterr().err
    found = home_identity.read(Home(now))
    assert was and found and found.id == was.id and found.path == str(now) and found.events[-1]["event"] == "moved"
    assert predictions(now).equals(expected) and not movable.exists()
    (run_id,) = journal.run_ids(Home(now), "tiny")
    made = journal.read_run(Home(now), "tiny", run_id)["made"]
    assert made["encoded"].startswith(f"{now}/") and lake.is_complete(Path(made["encoded"]))
    for folder in Home(now).lake("tiny").glob("[1-9]_*/[!.]*-*"):
        assert lake.is_complete(folder)
        assert all(parent.startswith(f"{now}/") for parent in lake.read_manifest(folder)["parents"])
    assert main(["--home", str(now), "gc", "tiny"]) == 0
    assert "moved" not in capsys.readouterr().err, "it is reported once"
    assert oct(Home(now).marker.stat().st_mode & 0o777) == "0o640"
    for database in home_paths.backups(Home(now).mlflow_db):
        assert oct(database.stat().st_mode & 0o777) == "0o640"


def test_a_link_is_no_move_but_one_that_was_left_behind_is(movable, tmp_path, capsys):
    before = hashes(movable)
    (tmp_path / "link").symlink_to(movable)
    capsys.readouterr()
    home_identity.settle(Home.resolve(tmp_path / "link"))
    assert hashes(movable) == before and capsys.readouterr().err == ""
    now = movable.rename(tmp_path / "second")
    movable.symlink_to(now)
    home_identity.settle(Home.resolve(movable))
    assert "moved" in capsys.readouterr().err
    movable.unlink()
    assert predictions(now).shape == (3, 5)


@pytest.mark.parametrize("event", ["unmarked", "copied", "moved"])
def test_an_old_home_gets_a_marker(movable, tmp_path, capsys, event):
    Home(movable).marker.unlink()
    home = copy(movable, tmp_path / "second") if event == "copied" else movable
    home = movable.rename(tmp_path / "second") if event == "moved" else home
    capsys.readouterr()
    assert home_identity.location_state(Home(home)) == (event, None if event == "unmarked" else str(movable))
    home_identity.settle(Home(home))
    output, found = capsys.readouterr().err, home_identity.read(Home(home))
    assert {"unmarked": "made by an older", "copied": "is a copy of", "moved": "was moved from"}[event] in output
    assert found and found.format == home_identity.FORMAT and found.path == str(home)
    assert all(location.startswith(f"file://{home}/") for location in artifacts(home))
    assert predictions(home).shape == (3, 5)
    assert len(home_paths.backups(Home(home).mlflow_db)) >= 1


@pytest.mark.parametrize("words", [("run", "--no-prefect"), ("rollback", "tiny"), ("sql", "tiny", "select 1"), ("up",)])
def test_a_home_of_a_newer_format_is_refused(movable, capsys, words):
    marker = Home(movable).marker
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99, "written_by": "9.9.9"}))
    before = hashes(movable)
    assert main(["--home", str(movable), *words]) == 2
    assert "format 99" in capsys.readouterr().err and hashes(movable) == before


def test_a_repair_that_was_killed_is_finished_wherever_the_home_is_by_then(movable, tmp_path, monkeypatch):
    second = movable.rename(tmp_path / "second")
    with monkeypatch.context() as patch:
        patch.setattr(home_paths, "_repair_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            home_identity.settle(Home(second))
    assert all(str(second) in location for location in artifacts(second)), "the database was done already"
    third = second.rename(tmp_path / "third")
    home_identity.settle(Home(third))
    assert all(str(third) in location for location in artifacts(third)) and predictions(third).shape == (3, 5)
    (run_id,) = journal.run_ids(Home(third), "tiny")
    assert journal.read_run(Home(third), "tiny", run_id)["made"]["encoded"].startswith(f"{third}/")
    found = home_identity.read(Home(third))
    assert found and found.former == ()


def test_a_database_that_cannot_be_changed_stops_the_command(movable, tmp_path, capsys):
    second = movable.rename(tmp_path / "second")
    Home(second).mlflow_db.write_bytes(b"SQLite format 3\0" + b"torn" * 1000)
    assert main(["--home", str(second), "gc", "tiny"]) == 2
    output = capsys.readouterr().err
    assert str(Home(second).mlflow_db) in output and "move it away" in output


def test_a_copy_by_hard_links_is_refused(movable, tmp_path, capsys):
    before, second = hashes(movable), tmp_path / "second"
    subprocess.run(["cp", "-al", str(movable), str(second)], check=True)
    assert main(["--home", str(second), "gc", "tiny"]) == 2
    assert "hard links" in capsys.readouterr().err and hashes(movable) == before


def test_a_home_that_was_moved_under_a_running_night_waits_for_its_end(movable, tmp_path, capsys):
    second = movable.rename(tmp_path / "second")
    with Home(second).lock("other").open("w") as held:
        held.write("run x, process 1")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["--home", str(second), "gc", "tiny"]) == 4
    assert "run x" in capsys.readouterr().err
    assert main(["--home", str(second), "gc", "tiny"]) == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', '{"id": "x", "path": 5}'])
def test_a_torn_marker_is_set_aside_and_made_again(tmp_path, capsys, content):
    home = Home(tmp_path)
    home.warehouse.mkdir()
    home.marker.write_text(content)
    home_identity.settle(home)
    found = home_identity.read(home)
    assert found and found.path == str(tmp_path)
    (aside,) = home.warehouse.glob("home.json.unreadable-*")
    assert aside.read_text() == content and aside.name in capsys.readouterr().err


def test_a_copy_plans_no_night_into_the_original(movable, tmp_path):
    """Prefect keeps parameters of flow runs that are due: `up` in a copy would run them with the original's home."""
    database = Home(movable).prefect / "prefect.db"
    database.parent.mkdir()
    with sqlite3.connect(database) as con:
        con.execute("create table flow_run (id text primary key, parameters json, name text) without rowid")
        con.execute("create table log (message text, state json generated always as (json_object('a', message)))")
        printed = {"home": str(movable), "data": "/data/x", "dataset": f"{movable}/warehouse/x.toml"}
        con.execute("insert into flow_run values ('1', ?, null)", [json.dumps(printed)])
        con.execute("insert into log values (?)", [f"wrote {movable}/warehouse"])
    con.close()
    (Home(movable).warehouse / "up.json").write_text(json.dumps({"pid": os.getpid(), "urls": {}}))
    schedules = Home(movable).warehouse / "schedules"
    schedules.mkdir()
    (schedules / "tiny.json").write_text(json.dumps({"name": "tiny", "data": f"{movable}/mlflow", "cron": "0 3 * * *"}))
    second = copy(movable, tmp_path / "second")
    home_identity.settle(Home(second))
    with sqlite3.connect(Home(second).prefect / "prefect.db") as con:
        ((parameters,),) = con.execute("select parameters from flow_run").fetchall()
        ((message,),) = con.execute("select message from log").fetchall()
    con.close()
    assert json.loads(parameters) == {"home": str(second), "data": "/data/x", "dataset": f"{second}/warehouse/x.toml"}
    assert message == f"wrote {movable}/warehouse", "what was logged is history"
    assert not (Home(second).warehouse / "up.json").exists(), "the services are the original's"
    assert (Home(movable).warehouse / "up.json").exists()
    assert str(second) in (Home(second).warehouse / "schedules" / "tiny.json").read_text()
    assert len(home_paths.backups(Home(second).prefect / "prefect.db")) == 1


def test_only_a_few_backups_stay(tmp_path):
    home = Home(tmp_path)
    home.mlflow_db.parent.mkdir()
    sqlite3.connect(home.mlflow_db).close()
    names = [path.name for n in range(5) for path in home_paths.back_up(home, f"n{n}")]
    assert [path.name for path in home_paths.backups(home.mlflow_db)] == names[-home_paths.KEPT_BACKUPS :]


def test_what_a_copy_knows_of_other_places_stays(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (new / "data").mkdir(parents=True)
    relocation = Relocation((str(old),), new)
    assert relocation.text(str(old)) == str(new)
    assert relocation.text(f"file://{old}/mlflow/a%20b") == f"file://{new}/mlflow/a%20b"
    assert relocation.text(f"{old}/data") == f"{new}/data", "sources that were copied with it"
    for elsewhere in (f"{old}-2/mlflow", f"{old}/gone/x.csv", "/data/x.csv", f"see {old}/warehouse", "s3://b/old"):
        assert relocation.text(elsewhere) == elsewhere
    printed = json.dumps({"home": str(old), "deep": [{"uri": f"{old}/warehouse/x"}], "n": 1})
    assert json.loads(relocation.text(printed)) == {"home": str(new), "deep": [{"uri": f"{new}/warehouse/x"}], "n": 1}


def below(*names: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(names), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


PLACES, INSIDE = below("a", "ab", "é %", "x.y"), below("a", "warehouse", "mlflow", "é %")


@settings(deadline=None)
@given(former=st.lists(PLACES, max_size=3, unique=True), root=PLACES, inside=INSIDE)
def test_a_relocation_done_twice_is_as_done_once(former, root, inside):
    relocation = Relocation(tuple(place for place in former if place != root), Path(root))
    for place in (*former, root):
        for value in (f"{place}{inside}", f"file://{place}{inside}"):
            once = relocation.text(value)
            assert relocation.text(once) == once
    for place in relocation.former:
        if not any(other.startswith(f"{place}/") for other in (*former, root)):
            assert relocation.text(f"{place}/mlflow/x") == f"{root}/mlflow/x"


def test_models_outside_the_home_are_never_deleted(published_home, tmp_path):
    """Where the repair of a copy had missed a place."""
    home = copy(published_home, tmp_path / "copy")
    before = hashes(published_home)
    with pytest.raises(cleanup.NotOurs, match="outside"):
        for leftover in cleanup.models_with(Home(home), "tiny", "u01"):
            leftover.remove()
    assert hashes(published_home) == before


def test_doctor_says_where_the_home_stands(movable, tmp_path, capsys):
    from flows.cli.doctor import home as doctor_home

    assert [line[0] for line in doctor_home.identity(Home(movable))] == ["ok"]
    second = copy(movable, tmp_path / "second")
    ((status, found, _),) = doctor_home.identity(Home(second))
    assert status == "warn" and f"copy of {movable}" in found
    Home(second).marker.write_text(json.dumps({"id": "x", "path": str(second), "format": 99}))
    assert [line[0] for line in doctor_home.identity(Home(second))] == ["fail"]


def without_override() -> None:
    """Root obeys the modes of files, too, as everybody else does."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities as Linux has them")
@pytest.mark.parametrize("command", ["rollback", "gc"])
def test_a_read_only_home_is_named(movable, command):
    for path in [movable, *movable.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        words = child_processes.command("flows.cli", "--home", str(movable), command, "tiny")
        done = subprocess.run(
            words, env=child_processes.environment(), preexec_fn=without_override, capture_output=True, text=True
        )
    finally:
        for path in [movable, *(p for p in movable.rglob("*") if p.is_dir())]:
            path.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"can't write to the home {movable}" in done.stderr and "This should not happen" not in done.stderr


def test_a_night_in_a_home_with_odd_characters_writes_nothing_elsewhere(published_home, tmp_path, monkeypatch):
    here, parent = tmp_path / "here", tmp_path / "parent"
    here.mkdir()
    monkeypatch.chdir(here)
    home = parent / (ODD + "x" * (200 - len(ODD)))
    assert night(home, published_home) == 0
    assert list(here.iterdir()) == [] and list(parent.iterdir()) == [home]
    assert predictions(home).shape == (3, 5)
    now = home.rename(parent / f"{ODD} moved")
    assert main(["--home", str(now), "forget", "tiny", "u01"]) == 0
    assert list(here.iterdir()) == [] and list(parent.iterdir()) == [now]


@pytest.mark.slow
@pytest.mark.parametrize("odd", [*"%]'\";&é ~$:@{}=+,!", "x" * 200, "目录"])
def test_a_night_in_a_home_with_one_odd_character(published_home, tmp_path, odd):
    home = tmp_path / f"h{odd}x"
    assert night(home, published_home) == 0
    assert predictions(home).shape == (3, 5)


@pytest.mark.parametrize("odd", REFUSED)
def test_a_character_that_no_home_can_have_is_named(published_home, tmp_path, capsys, odd):
    assert night(tmp_path / f"h{odd}x", published_home) == 2
    assert f"the character {odd[0]!r}" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_an_odd_path_is_quoted_in_the_address_of_a_database(tmp_path):
    assert server.sqlite_url(Path("/a b/c.db")) == "sqlite:////a b/c.db"
    assert server.sqlite_url(Path("/a?b/c.db")) == "sqlite:///file:%2Fa%3Fb%2Fc.db?uri=true"


@pytest.mark.parametrize(
    ("pyproject", "folder", "expected"),
    [
        ('[project]\nname = "nightrecs"', "here", True),
        ('[project]\nname = "nightrecs"', "site-packages", False),
        ('[project]\nname = "other"', "here", False),
        ("[project", "here", False),
        ("project = 1", "here", False),
        (None, "here", False),
    ],
)
def test_a_checkout_is_known_by_its_project_file(tmp_path, pyproject, folder, expected):
    root = tmp_path / folder
    root.mkdir()
    if pyproject is not None:
        (root / "pyproject.toml").write_text(pyproject)
    assert paths.from_checkout(root) is expected


def test_the_home_of_an_installed_package(tmp_path, monkeypatch, capsys):
    from flows.prepare import say_where

    assert paths.default_home()[0] == CHECKOUT
    say_where(None)
    assert capsys.readouterr().err == "", "a checkout needs no word"
    monkeypatch.setattr(paths, "from_checkout", lambda: False)
    monkeypatch.setattr("flows.prepare.from_checkout", lambda: False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    say_where(None)
    assert f"home: {tmp_path}/data/nightrecs, the data folder of this user" in capsys.readouterr().err
    assert Home.resolve().root == tmp_path / "data" / "nightrecs"
    home_identity.settle(Home(tmp_path))
    assert Home.resolve().root == tmp_path, "the current folder is a home"
    monkeypatch.setenv("NIGHTRECS_HOME", str(tmp_path / "chosen"))
    assert Home.resolve().root == tmp_path / "chosen" and Home.resolve(tmp_path / "option").root == tmp_path / "option"
    say_where(None)
    assert "chosen" not in capsys.readouterr().err.replace("choose", "")


def test_a_child_takes_no_module_of_the_current_folder(tmp_path):
    for name in ("flows", "pipeline", "prefect", "mlflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong module')")
    words = child_processes.command("flows.cli", "--help")
    for environ in ({}, {"PYTHONPATH": f"{os.pathsep}/elsewhere"}):
        found = child_processes.environment({**os.environ, **environ})
        subprocess.run(words, cwd=tmp_path, env=found, check=True, capture_output=True)
        code = "from importlib.util import find_spec as f; import sys; print(*(f(n).origin for n in sys.argv[1:]))"
        asked = [sys.executable, "-c", code, "flows", "pipeline", "prefect", "mlflow"]
        done = subprocess.run(asked, cwd=tmp_path, env=found, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(str(CHECKOUT / "flows")) and str(tmp_path) not in done.stdout


def test_an_installed_package_is_not_put_before_the_standard_library(monkeypatch, tmp_path):
    monkeypatch.setattr(child_processes, "CHECKOUT", tmp_path / "site-packages")
    assert "PYTHONPATH" not in child_processes.environment({})
    assert child_processes.environment({"PYTHONPATH": "/x"}) == {"PYTHONPATH": "/x", "PYTHONSAFEPATH": "1"}
    assert shutil.which(child_processes.command("flows.serve")[0])
