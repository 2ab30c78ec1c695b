"""A home as one file and back: whole, verified, beside a running night, and never over something that is there."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows import conductor
from flows.cli import main
from pipeline.core.errors import Locked, UnreadableInput
from pipeline.core.fault_injection import Planted, planted
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageName
from pipeline.maintenance import archive
from pipeline.maintenance.backup import back_up, known_backups
from pipeline.maintenance.restore import restore
from pipeline.storage import checksums, home_identity, journal
from pipeline.storage.generations import live_run_id
from pipeline.storage.lock import lock
from tests.support.small_home import PUBLISHED, Small


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A home with everything that a backup takes and leaves out."""
    home = Home(tmp_path_factory.mktemp("backup") / "home")
    made = Small(home, "u-1", ["u-2"]).build([])
    home_identity.settle(home)
    for name in ("mlflow/artifacts/tiny/.hidden/model.bin", "warehouse/lake/tiny/2_clean/clean-1/manifest.json"):
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_text(f"{home.root}")
    (home.warehouse / "schedules").mkdir()
    (home.warehouse / "schedules" / "tiny.json").write_text(json.dumps({"home": str(home.root)}))
    with closing(sqlite3.connect(home.mlflow_db)) as con:
        con.execute("CREATE TABLE experiments (artifact_location TEXT)")
        con.execute("INSERT INTO experiments VALUES (?)", [(home.mlflow_artifacts / "tiny").as_uri()])
        con.commit()
    for name in LEFT_OUT:
        (home.root / name).parent.mkdir(parents=True, exist_ok=True)
        (home.root / name).write_text("secret or temporary")
    return made


LEFT_OUT = (
    ".prefect/api-auth.txt", "warehouse/up.json", "warehouse/logs/up.log", "warehouse/.probe-1",
    "warehouse/lake/tiny/2_clean/.clean-2.77/part", "warehouse/generations/tiny/.next.duckdb",
)  # fmt: skip


@pytest.fixture(scope="module")
def saved(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "home.tar"
    back_up(small.home, file)
    return file


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_restored_home_is_an_independent_copy(small: Small, saved: Path, tmp_path: Path):
    made = restore(saved, Home(tmp_path / "new" / "home"))
    before, after = content(small.home.root), content(made.home.root)
    changing = {
        "warehouse/home.json",
        "warehouse/home.lock",
        "mlflow/mlflow.db",
        "warehouse/journal/tiny/operations.jsonl",
    }
    stored = {name for name, data in before.items() if str(small.home.root).encode() in data} | changing
    for name, data in after.items():
        assert name in stored or "before-copied" in name or data == before[name], name
    left_out = set(before) - set(after) - {"warehouse/journal/tiny/operations.jsonl"}  # begun by the backup itself
    again = (".lock", f".wal.stray-before-{PUBLISHED}")
    of_prefect = {name for name in before if name.startswith(".prefect")}
    assert {name for name in left_out if not name.endswith(again)} == {*LEFT_OUT, *of_prefect}
    assert str(small.home.root) not in (made.home.warehouse / "schedules" / "tiny.json").read_text()
    with closing(sqlite3.connect(made.home.mlflow_db)) as con:
        assert con.execute("SELECT * FROM experiments").fetchone()[0].startswith(made.home.root.as_uri())
    identities = [home_identity.read(home) for home in (small.home, made.home)]
    assert identities[0] and identities[1] and identities[0].id != identities[1].id
    assert live_run_id(made.home, "tiny") == live_run_id(small.home, "tiny")
    assert checksums.live_trouble(made.home, "tiny", deep=True) is None
    assert checksums.live_entry(made.home, "tiny") == checksums.live_entry(small.home, "tiny"), "with its time"
    assert not checksums.generation_trouble(made.home, "tiny", PUBLISHED)
    assert stat.S_IMODE(made.home.journal("tiny").stat().st_mode) == 0o750


def test_the_file_is_private_and_has_no_secrets(small: Small, saved: Path):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert not [path.name for path in saved.parent.iterdir() if path.name.startswith(".")]
    assert b"secret or temporary" not in saved.read_bytes()
    assert known_backups(small.home, "tiny") == [str(saved)]
    with tarfile.open(saved) as tar:
        names = tar.getnames()
    assert names[0] == archive.HEADER and names[-1] == archive.CHECKSUMS and len(names) == len(set(names))


def test_nothing_is_overwritten(small: Small, saved: Path, tmp_path: Path):
    there = tmp_path / "there.tar"
    there.write_text("mine")
    for file in (there, small.home.root / "b.tar", small.home.warehouse / "b.tar", tmp_path / "no folder" / "b.tar"):
        with pytest.raises(UnreadableInput):
            back_up(small.home, file)
    assert there.read_text() == "mine" and not (small.home.root / "b.tar").exists()
    dangling = tmp_path / "link.tar"
    dangling.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnreadableInput, match="exists"):
        back_up(small.home, dangling)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine").write_text("mine")
    with pytest.raises(UnreadableInput, match="not empty"):
        restore(saved, Home(tmp_path / "home"))
    with pytest.raises(UnreadableInput, match="not empty"):
        restore(saved, Home(there))
    assert content(tmp_path / "home") == {"mine": b"mine"}
    with pytest.raises(UnreadableInput, match="no home"):
        back_up(Home(tmp_path / "home"), tmp_path / "b.tar")


def test_a_file_that_appears_meanwhile_stays(small: Small, tmp_path: Path, monkeypatch):
    from pipeline.maintenance import backup

    file = tmp_path / "home.tar"
    monkeypatch.setattr(backup, "fault", lambda point: file.write_text("mine") if "rename" in point else None)
    with pytest.raises(UnreadableInput, match="created meanwhile"):
        back_up(small.home, file)
    assert content(tmp_path) == {"home.tar": b"mine"}


@pytest.mark.parametrize("fault", ["backup:after_file:error@3", "backup:before_rename:full"])
def test_a_failed_backup_leaves_nothing(small: Small, tmp_path: Path, fault: str):
    with planted(fault), pytest.raises((Planted, OSError)):
        back_up(small.home, tmp_path / "home.tar")
    assert not content(tmp_path)


@pytest.mark.parametrize("fault", ["restore:after_file:error@3", "restore:before_rename:error"])
def test_a_failed_restore_leaves_nothing(saved: Path, tmp_path: Path, fault: str):
    with planted(fault), pytest.raises(Planted):
        restore(saved, Home(tmp_path / "home"))
    assert not list(tmp_path.iterdir())


def test_a_killed_one_leaves_no_file_under_the_final_name(small: Small, saved: Path, tmp_path: Path):
    file, root = tmp_path / "home.tar", tmp_path / "home"
    words = {"backup:before_rename:kill": [small.home.root, file], "restore:before_rename:kill": [saved, root]}
    for fault, places in words.items():
        command = [sys.executable, "-m", "flows.cli", fault.partition(":")[0], *map(str, places)]
        ended = subprocess.run(command, env={**os.environ, "NIGHTRECS_FAULT": fault}, capture_output=True)
        assert ended.returncode == -9, ended.stderr
    assert not file.exists() and not root.exists() and len(list(tmp_path.iterdir())) > 0
    back_up(small.home, file)
    restore(file, Home(root))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "home.tar"], "and the rests are gone"


def test_one_at_a_time(small: Small, saved: Path, tmp_path: Path):
    """A night keeps a backup out; a second one to the same file, too."""
    with lock(small.home, "tiny", "r1"), pytest.raises(Locked):
        back_up(small.home, tmp_path / "home.tar")
    for name, call in (
        (".home.tar.part", lambda: back_up(small.home, tmp_path / "home.tar")),
        (".home.restoring.lock", lambda: restore(saved, Home(tmp_path / "home"))),
    ):
        with (tmp_path / name).open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(Locked):
                call()
    assert not (tmp_path / "home.tar").exists() and not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def tiny(saved: Path) -> Path:
    """A backup of three small files."""
    return rewritten(saved, saved.with_name("tiny.tar"), only=("home.json", "/tiny.json", f"{PUBLISHED}/run.json"))


def rewritten(
    saved: Path, file: Path, *more: tuple[tarfile.TarInfo, bytes], only: tuple[str, ...] = ("",), **header: Any
) -> Path:
    """The backup with some of its members, and with more of them before its checksums, which list them."""
    with tarfile.open(saved) as old, tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as new:
        members = {info.name: (old.extractfile(info) or io.BytesIO()).read() for info in old.getmembers()}
        first, last = json.loads(members.pop(archive.HEADER)), json.loads(members.pop(archive.CHECKSUMS))
        kept = [(tarfile.TarInfo(name), data) for name, data in members.items() if name.endswith(only)]
        last = {"files": {info.name: last["files"][info.name] for info, _ in kept}}
        for info, data in more:
            entry = archive.Entry(hashlib.sha256(data).hexdigest(), len(data), 0o640, 0)
            last["files"][info.name] = archive.as_json(entry)
        archive.add_json(new, archive.HEADER, {**first, **header})
        for info, data in [*kept, *more]:
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))
        archive.add_json(new, archive.CHECKSUMS, last)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    data = b"planted" if kind == tarfile.REGTYPE else b""
    info.type, info.linkname, info.size = kind, to, len(data)
    return info, data


ODD = [
    member("../evil"), member("warehouse/../../evil"), member("/tmp/evil-of-nightrecs"), member("evil"),
    member(".prefect/profiles.toml"), member("warehouse/a/./b"), member("warehouse//b"), member("warehouse/a\\..\\b"),
    member("warehouse/a\nb"), member("warehouse"), member("mlflow/.."), member("Warehouse/x"),
    member("warehouse/link", tarfile.SYMTYPE, "/etc"), member("warehouse/hard", tarfile.LNKTYPE, "warehouse/home.json"),
    member("warehouse/pipe", tarfile.FIFOTYPE), member("warehouse/device", tarfile.CHRTYPE),
    member("warehouse/folder", tarfile.DIRTYPE), member("warehouse/home.json"), member("warehouse/home.json/below"),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd[0].name) + odd[0].type.decode())
def test_a_crafted_file_writes_nowhere(tiny: Path, tmp_path: Path, odd: tuple[tarfile.TarInfo, bytes]):
    file = rewritten(tiny, tmp_path / "crafted.tar", odd)
    with pytest.raises(UnreadableInput):
        restore(file, Home(tmp_path / "below" / "home"))
    assert set(content(tmp_path)) == {"crafted.tar"} and not list((tmp_path / "below").iterdir())
    assert not Path("/tmp/evil-of-nightrecs").exists()


def test_the_crafting_itself_is_no_reason_to_refuse(tiny: Path, tmp_path: Path):
    file = rewritten(tiny, tmp_path / "crafted.tar", member("warehouse/reports/tiny/x.html"))
    assert (restore(file, Home(tmp_path / "home")).home.reports / "tiny" / "x.html").read_bytes() == b"planted"
    newer = rewritten(tiny, tmp_path / "newer.tar", format=99, written_by="9.0")
    with pytest.raises(UnreadableInput, match=r"written by nightrecs 9\.0 in format 99"):
        restore(newer, Home(tmp_path / "other"))
    for data in (b"", b"no tar at all" * 100, tiny.read_bytes()[512:]):
        (tmp_path / "no.tar").write_bytes(data)
        with pytest.raises(UnreadableInput):
            restore(tmp_path / "no.tar", Home(tmp_path / "other"))
    with pytest.raises(UnreadableInput, match="there is no file"):
        restore(tmp_path / "gone.tar", Home(tmp_path / "other"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.booleans(), st.integers(1, 255))
def test_a_damaged_file_is_refused_or_harmless(tiny: Path, tmp_path: Path, at: float, cut: bool, change: int):
    data, place = bytearray(tiny.read_bytes()), int(at * tiny.stat().st_size)
    damaged = data[:place] if cut else data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
    (tmp_path / "damaged.tar").write_bytes(damaged)
    root = tmp_path / "home"
    try:
        made = restore(tmp_path / "damaged.tar", Home(root))
    except UnreadableInput:
        assert [path.name for path in tmp_path.iterdir()] == ["damaged.tar"]
    else:  # a byte of a member's time, or after the end
        assert made.files == 3 and json.loads((made.home.warehouse / "schedules" / "tiny.json").read_text())
        shutil.rmtree(root)


def test_beside_a_running_night(four_nights, tmp_path: Path, capsys):
    data, nights = four_nights
    lists = "select user_id, rank, item_id from recommendations order by all"
    before, file, root, codes = data.ask(lists), tmp_path / "home.tar", tmp_path / "restored", []
    assert main(["backup", str(data.home_root), str(file)]) == 0
    assert "forget` does not reach backups" in capsys.readouterr().err

    def stepping(call, stage, *args):
        if call.place is StageName.EXPORT:
            codes.append(main(["backup", str(data.home_root), str(tmp_path / "during.tar")]))
            codes.append(main(["restore", str(file), str(root), "--json"]))
        return stage(*args)

    run = data.prepare("seed=9")
    assert conductor.conduct(run, stepping) == "published"
    assert codes == [4, 0] and not (tmp_path / "during.tar").exists()
    assert data.live_night() == run.run_id
    other = Home(root)
    assert live_run_id(other, "tiny") == nights[-1] and journal.run_ids(other, "tiny") == nights
    assert data.ask(lists, other.live("tiny")).equals(before)
    assert main(["--home", str(root), "status", "tiny", "--deep"]) == 0
    assert main(["--home", str(root), "rollback", "tiny"]) == 0 and data.live_night() == run.run_id


def test_forget_names_the_backups_that_it_does_not_reach(small: Small, saved: Path, tmp_path: Path, capsys):
    other = restore(saved, Home(tmp_path / "home")).home
    back_up(other, tmp_path / "again.tar")
    assert main(["--home", str(other.root), "forget", "tiny", "u-1"]) == 0
    assert f"the backup {tmp_path / 'again.tar'} is not reached" in capsys.readouterr().err
    (tmp_path / "again.tar").unlink()
    assert known_backups(other, "tiny") == []
