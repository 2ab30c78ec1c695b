"""A copied database is complete while another connection writes, has its permissions, and leaves nothing after an error."""

import sqlite3
from contextlib import closing

import pytest

from pipeline.storage import sqlite_files


def database(path, journal_mode):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute(f"PRAGMA journal_mode = {journal_mode}")
    con.execute("CREATE TABLE t (x)")
    con.execute("INSERT INTO t VALUES (1)")
    return con


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_copy_has_what_was_committed_and_its_permissions(tmp_path, journal_mode):
    target = tmp_path / "copy.db"
    target.write_text("of an earlier attempt")
    with closing(database(tmp_path / "a.db", journal_mode)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO t VALUES (2)")  # not committed
        sqlite_files.copy(tmp_path / "a.db", target, 0o640)
    with closing(sqlite3.connect(target)) as copied:
        assert copied.execute("SELECT x FROM t").fetchall() == [(1,)]
    assert target.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} <= {"a.db", "a.db-wal", "a.db-shm", "copy.db"}


def test_a_copy_of_a_locked_database_ends_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_files, "BUSY_SECONDS", 0.05)
    with closing(database(tmp_path / "a.db", "delete")) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite_files.copy(tmp_path / "a.db", tmp_path / "copy.db", 0o600)
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize("content", [None, b"no database" * 100])
def test_nothing_is_left_of_a_copy_that_failed(tmp_path, content):
    if content is not None:
        (tmp_path / "a.db").write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite_files.copy(tmp_path / "a.db", tmp_path / "copy.db", 0o600)
    assert not (tmp_path / "copy.db").exists()
    assert (tmp_path / "a.db").exists() == (content is not None), "a missing database is not created"
