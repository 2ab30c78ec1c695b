"""On a full disk `gc` frees space without writing first; commands that need space say how to get it."""

import json
import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.core import filesystem
from pipeline.core.errors import Locked
from pipeline.maintenance import gc
from pipeline.stages import track
from pipeline.storage import checksums, journal, operation_log
from pipeline.storage.generations import kept_generations
from pipeline.storage.lock import lock, lock_holder
from tests.support.published_nights import Dataset


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow, by the kernel's limit: opening, truncating, renaming and removing work, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder with their content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def nights(four_nights, monkeypatch: pytest.MonkeyPatch) -> tuple[Dataset, list[str]]:
    """Four published nights; the newest was killed after its tables went live, so it is not closed yet."""
    data, ids = four_nights
    monkeypatch.setattr(gc, "_in_mlflow", lambda *_: [])
    monkeypatch.setattr(track, "follow_live", lambda *_: "not asked")
    data.command("gc", "tiny", "--dry-run")  # splits the live file from its generation, as every night does
    for run_id in ids:
        journal._update(data.home.journal("tiny") / run_id, {"mlflow_run_id": "gone"})
    journal._update(data.home.journal("tiny") / ids[-1], {"outcome": "running"})
    return data, ids


KEEP = ("--keep-lake-nights", "1", "--keep-generations", "2")


def test_a_dry_run_lists_and_changes_nothing(nights, capsys):
    data, _ = nights
    before = files(data.home.warehouse)
    with full_disk():
        answer = data.printed(capsys, "gc", "tiny", "--dry-run", *KEEP)
    assert answer["bytes"] > 0 and {one["kind"] for one in answer["removed"]} >= {"generation", "lake"}
    assert files(data.home.warehouse) == before
    assert data.printed(capsys, "gc", "tiny", "--dry-run", *KEEP)["removed"] == answer["removed"]


def test_gc_removes_the_same_as_with_space(nights, capsys, caplog):
    data, ids = nights
    wanted = data.printed(capsys, "gc", "tiny", "--dry-run", *KEEP)["removed"]
    journal._update(data.home.journal("tiny") / ids[-1], {"outcome": "running"})
    before = files(data.home.warehouse)
    with caplog.at_level(logging.WARNING), full_disk():
        answer = data.printed(capsys, "gc", "tiny", *KEEP)
    assert answer["removed"] == wanted
    left = files(data.home.warehouse)
    assert left.pop("journal/tiny/operations.jsonl") == b""
    assert left.items() <= before.items(), "nothing is new or changed, no unfinished file is left"
    assert kept_generations(data.home, "tiny") == ids[2:]
    for unwritten in ("nights that never ended", "checksum", "log of operations"):
        assert unwritten in caplog.text
    assert not operation_log.read(data.home, "tiny", "gc")

    assert data.command("gc", "tiny") == 0, "with space again, the rest is done"
    assert journal.read_run(data.home, "tiny", ids[-1])["outcome"] == "published"
    data.night("seed=9")
    assert set(checksums.read(data.home, "tiny").generations) == set(kept_generations(data.home, "tiny"))


def test_checkpoints_of_a_night_that_is_not_closed_stay(nights, capsys):
    data, ids = nights
    dead = journal.read_run(data.home, "tiny", ids[-1]) | {"run_id": "20991231T000000.000Z-dead"}
    at = data.home.journal("tiny") / dead["run_id"]
    at.mkdir()
    filesystem.write_atomically(at / "run.json", json.dumps(dead))
    checkpoint = data.home.lake("tiny") / "5_models" / ".checkpoint-mf-0123"
    checkpoint.mkdir(parents=True)
    with full_disk():
        assert data.command("gc", "tiny") == 0
    assert checkpoint.is_dir(), "tonight's night resumes from it"


def test_one_file_that_needs_space_to_go_stops_no_other(nights, capsys, monkeypatch):
    data, _ = nights
    monkeypatch.setattr(checksums, "drop_removed", lambda *_: None)
    found = gc.leftovers(data.home, "tiny", gc.Keep(generations=2, lake_nights=1, days=0))

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    found[0] = gc.replace(found[0], remove=refuse)
    monkeypatch.setattr("flows.cli.operate.leftovers", lambda *_: found)
    answer = data.printed(capsys, "gc", "tiny")
    assert [one["name"] for one in answer["removed"]] == [one.name for one in found[1:]]


@pytest.mark.parametrize("words", [("rollback", "tiny"), ("forget", "tiny", "u01")])
def test_what_needs_space_changes_nothing_and_names_gc(nights, capsys, words: tuple[str, ...]):
    data, _ = nights
    before, tables = data.live_night(), files(data.home.generations("tiny"))
    with full_disk():
        assert data.command(*words) == 1
    assert "nightrecs gc" in capsys.readouterr().err
    assert (data.live_night(), files(data.home.generations("tiny"))) == (before, tables)


def test_a_command_holds_the_lock_without_its_name(nights):
    data, _ = nights
    with full_disk(), lock(data.home, "tiny", "gc", "command"):
        assert lock_holder(data.home.lock("tiny")) == "an unknown process"
        with pytest.raises(Locked), lock(data.home, "tiny", "gc", "command"):
            pass
    with full_disk(), pytest.raises(OSError), lock(data.home, "tiny", "20990101T000000.000Z-0000"):
        pass
    assert lock_holder(data.home.lock("tiny")) is None


def test_an_error_that_is_not_a_full_disk_is_raised():
    with pytest.raises(ValueError), filesystem.unless_full("x"):
        raise ValueError
    with filesystem.unless_full("x"):
        raise OSError(28, "No space left on device")
