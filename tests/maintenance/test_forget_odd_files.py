"""`forget` in homes that have been moved, damaged or tampered with: backups, files set aside, changed generations."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.core.paths import Home
from pipeline.maintenance import trace_decoders
from pipeline.storage import checksums, forgotten_users, warehouse
from pipeline.storage.generations import live_run_id
from tests.support.small_home import OLD, PUBLISHED, USER, Small, command, still_names

SHORT = "u7"


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(Home(tmp_path / "home"), USER, [SHORT, "other-user-000000001"], "^").build([])


def named(small: Small, user: str, *words: str) -> int:
    return command(small, "forget", "tiny", user, *words)


@pytest.mark.parametrize(
    ("name", "torn", "user"),
    [("run.json.damaged", False, USER), ("run.json.damaged-2", True, USER), ("run.json.damaged", True, SHORT)],
)
def test_damaged_state_files_that_were_set_aside_are_cleared(small, name, torn, user):
    path = small.home.journal("tiny") / PUBLISHED / name
    text = json.dumps({"reason_ids": [{"column": "user_id", "value": user}], "reason": "seen: 1 bad row"})
    path.write_text(text[:-1] if torn else text)
    assert named(small, user) == 0
    assert not path.exists() or f'"{user}"' not in path.read_text()


def test_a_damaged_file_of_zeros_does_not_keep_forget_open(small):
    path = small.home.journal("tiny") / PUBLISHED / "run.json.damaged"
    path.write_bytes(b"\0" * 4096)
    assert named(small, USER) == 0 and path.exists(), "it does not name the user"
    path.write_bytes(b"\0" * 100 + f"user_id {USER}".encode() + b"\0" * 100)
    assert named(small, USER) == 0 and not path.exists()


def test_backups_of_databases_of_a_moved_home_are_cleared(small):
    small.home.mlflow_db.parent.mkdir(parents=True, exist_ok=True)
    backups = [
        small.home.prefect / "prefect.before-moved-20260101T000000.db",
        small.home.mlflow_db.with_name("mlflow.before-copied-20260101T000000.db"),
    ]
    for path in backups:
        shutil.copy(small.home.prefect / "prefect.db", path)
    assert named(small, USER) == 0 and still_names(small) == []
    for path in backups:
        assert USER.encode() not in path.read_bytes(), path.name


def test_a_damaged_record_of_a_forget_is_searched_too(small, capsys):
    path = small.home.forgotten("tiny").with_name("forgetting-0a0b0c0d.json")
    path.write_text(json.dumps({"user": USER, "done": [], "left": []})[:-5])
    assert named(small, SHORT) == 0
    assert path.name in capsys.readouterr().err, "nobody knows whose record it was, so a warning names it"
    assert named(small, USER) == 0 and still_names(small) == []


def test_records_of_other_types_stop_nothing(small):
    contents = ('{"user": 7, "done": [], "left": []}', '{"user": "x", "done": 3, "left": []}', "[]")
    for number, content in enumerate(contents):
        small.home.forgotten("tiny").with_name(f"forgetting-0a0b0c0{number}.json").write_text(content)
    assert named(small, USER) == 0 and still_names(small) == []
    assert forgotten_users.pending(small.home, "tiny") == []


def test_what_can_not_be_cleared_does_not_keep_other_files_from_being_cleared(small, monkeypatch, capsys):
    monkeypatch.setattr(trace_decoders, "LOCK_SECONDS", 0.1)
    later = small.home.root / "zz" / "later.txt"
    later.parent.mkdir()
    later.write_text(f"user_id {USER}")
    with closing(sqlite3.connect(small.home.prefect / "prefect.db", isolation_level=None)) as con:
        con.execute("BEGIN IMMEDIATE")
        assert named(small, USER) == 3
    assert "prefect.db" in capsys.readouterr().err and USER not in later.read_text()
    assert named(small, USER) == 0 and still_names(small) == []


def tamper(path: Path) -> None:
    path.chmod(0o640)
    with warehouse.connect(path) as con:
        con.execute("UPDATE recommendations SET item_id = 'tampered'")


def items(path: Path) -> set[str]:
    with warehouse.connect(path, read_only=True) as con:
        return {item for (item,) in con.sql("SELECT DISTINCT item_id FROM recommendations").fetchall()}


@pytest.mark.parametrize("kind", ["link to a folder", "folder", "link to nothing"])
def test_an_odd_entry_among_generations_keeps_no_other_file_from_being_rebuilt(small, tmp_path, kind, capsys):
    folder = small.home.generations("tiny")
    odd, elsewhere = folder / "x.duckdb", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text(USER)
    if kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to(elsewhere if "folder" in kind else tmp_path / "none")
    before = {path.name for path in folder.glob("*.duckdb")}
    code = named(small, USER)
    is_named = "x.duckdb" in "".join(capsys.readouterr())
    assert (code, is_named) == ((3, True) if "folder" in kind else (0, False))
    assert {path.name for path in folder.glob("*.duckdb")} == before
    assert not [line for line in still_names(small) if line.split(": ")[0].endswith(".duckdb")]
    assert (elsewhere / "kept.txt").read_text() == USER
    odd.rmdir() if kind == "folder" else odd.unlink()
    assert named(small, USER) == 0 and still_names(small) == []


def test_a_changed_generation_of_the_live_night_is_made_from_the_live_file(small):
    tamper(small.home.generation("tiny", PUBLISHED))
    assert named(small, USER) == 0 and still_names(small) == []
    assert items(small.home.live("tiny")) == {"i1", "i2"} == items(small.home.generation("tiny", PUBLISHED))
    assert live_run_id(small.home, "tiny") == PUBLISHED
    assert checksums.live_trouble(small.home, "tiny", deep=True) is None
    assert checksums.generation_trouble(small.home, "tiny", PUBLISHED) is None


def test_a_changed_older_generation_loses_the_user_and_still_counts_as_changed(small):
    tamper(small.home.generation("tiny", OLD))
    assert named(small, USER) == 0 and still_names(small) == []
    assert "was changed" in str(checksums.generation_trouble(small.home, "tiny", OLD))
    assert command(small, "rollback", "tiny", "--to", OLD) == 3
    assert live_run_id(small.home, "tiny") == PUBLISHED
    assert named(small, SHORT) == 0
    assert "was changed" in str(checksums.generation_trouble(small.home, "tiny", OLD))


def test_rebuilt_generations_have_checksums_and_the_live_file_follows(small):
    assert named(small, USER) == 0
    live, generation = small.home.live("tiny"), small.home.generation("tiny", PUBLISHED)
    assert not live.samefile(generation) and live.read_bytes() == generation.read_bytes()
    for run_id in (OLD, PUBLISHED):
        assert len(checksums.read(small.home, "tiny").generations[run_id]) == 1
        assert checksums.generation_trouble(small.home, "tiny", run_id) is None
    assert checksums.live_trouble(small.home, "tiny", deep=True) is None
    assert command(small, "rollback", "tiny", "--to", OLD) == 0


def test_a_user_of_kept_sources_alone_is_known_though_a_generation_is_damaged(small, capsys):
    path = small.home.generation("tiny", OLD)
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:5000])
    assert named(small, "nowhere-to-be-found") == 2
    assert "no published table" in capsys.readouterr().err


def test_where_live_file_and_generation_are_both_changed_forget_stays_open(small, capsys):
    for path in (small.home.generation("tiny", PUBLISHED), small.home.live("tiny")):
        tamper(path)
    assert named(small, USER) == 3
    output = capsys.readouterr().err
    assert "was changed after it was published" in output and f"{small.home.live('tiny').name}: " in output
    assert len(forgotten_users.pending(small.home, "tiny")) == 1
    assert still_names_in(small.home.generation("tiny", OLD)) == [], "the others are cleared"


def still_names_in(path: Path) -> list[tuple[str, ...]]:
    with warehouse.connect(path, read_only=True) as con:
        return con.sql("SELECT user_id FROM users WHERE user_id = $u", params={"u": USER}).fetchall()
