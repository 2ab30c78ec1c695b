"""The swap of the live name: whole old or whole new, also for those who hold the old one open."""

import os
import stat

import pytest

from pipeline.config.run import Run
from pipeline.stages.publish import publish_tables
from pipeline.storage import journal, warehouse
from pipeline.storage.generations import drop_old_generations, go_live, live_run_id


def night(run: Run, run_id: str) -> Run:
    other = run.model_copy(update={"run_id": run_id})
    journal.open_run(other)
    return other


def built(run: Run, value: int):
    path = run.home.generations(run.dataset) / f".{run.run_id}.building"
    path.parent.mkdir(parents=True, exist_ok=True)
    with warehouse.connect(path) as con:
        con.execute(f"create table t as select {value} as x")
        con.execute(f"create table runs as select '{run.run_id}' as run_id, 'published' as outcome")
    return path


def value_in(path) -> int:
    with warehouse.connect(path, read_only=True) as con:
        return con.sql("select x from t").fetchall()[0][0]


def test_old_readers_keep_their_night_and_new_ones_get_the_new(run):
    live = publish_tables(run, built(run, 1))
    reader = warehouse.connect(live, read_only=True)
    second = night(run, "20260102T000000.000Z-bbbb")
    publish_tables(second, built(second, 2))
    assert reader.sql("select x from t").fetchall() == [(1,)]
    reader.close()
    assert value_in(live) == 2
    assert live_run_id(run.home, run.dataset) == second.run_id
    assert not stat.S_IMODE(live.stat().st_mode) & 0o222, "published files are read-only"
    assert journal.read_run(run.home, run.dataset, second.run_id)["outcome"] == "published"


def test_a_stray_log_is_set_aside(run):
    live = publish_tables(run, built(run, 1))
    live.with_name(live.name + ".wal").write_bytes(b"left behind")
    second = night(run, "20260102T000000.000Z-bbbb")
    publish_tables(second, built(second, 2))
    assert value_in(live) == 2
    assert [p.name for p in live.parent.glob("*.stray*")] == [f"{live.name}.wal.stray-before-{second.run_id}"]


def test_publishing_what_is_live_does_nothing(run):
    live = publish_tables(run, built(run, 1))
    inode = live.stat().st_ino
    go_live(run.home, run.dataset, run.run_id)
    assert live.stat().st_ino == inode and list(live.parent.glob(".*next")) == []


def test_old_generations_go_but_never_the_live_one(run):
    publish_tables(run, built(run, 0))
    for day in range(2, 6):
        later = night(run, f"2026010{day}T000000.000Z-cccc")
        publish_tables(later, built(later, day))
    go_live(run.home, run.dataset, run.run_id)
    drop_old_generations(run.home, run.dataset, keep=2)
    left = sorted(p.stem[:8] for p in run.home.generations(run.dataset).iterdir())
    assert left == ["20260101", "20260104", "20260105"]


def test_a_failed_swap_leaves_the_old_file(run, monkeypatch: pytest.MonkeyPatch):
    live = publish_tables(run, built(run, 1))
    second = night(run, "20260102T000000.000Z-bbbb")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        publish_tables(second, built(second, 2))
    assert value_in(live) == 1


def test_what_is_live_is_known_next_to_a_stray_log_and_in_a_copied_home(run):
    live = publish_tables(run, built(run, 1))
    stray = live.with_name(live.name + ".wal")
    stray.write_bytes(b"left behind")
    assert live_run_id(run.home, run.dataset) == run.run_id
    stray.unlink()
    content = live.read_bytes()
    live.unlink()
    live.write_bytes(content)
    assert live_run_id(run.home, run.dataset) == run.run_id
    live.write_bytes(b"no database")
    assert live_run_id(run.home, run.dataset) == run.run_id, "the record knows"
    run.home.checksums(run.dataset).write_text("torn")
    assert live_run_id(run.home, run.dataset) is None
