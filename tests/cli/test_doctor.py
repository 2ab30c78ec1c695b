"""Every check of the doctor sees what it is for, says how to mend it, and holds and changes nothing."""

import fcntl
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flows.cli import doctor, main
from flows.cli.doctor import device_parity, installation, shared_home
from flows.cli.doctor import home as doctor_home
from flows.cli.doctor.other_process import FileOperations
from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.storage import journal
from pipeline.storage.lock import lock
from pipeline.storage.secret_files import secret_at
from pipeline.tracking import server


def findings(home: Path, check: str) -> list[doctor.Finding]:
    found = [finding for finding in doctor.examine(Home(home)) if finding.check == check]
    assert found, f"no check is called {check}"
    return found


def only(home: Path, check: str) -> doctor.Finding:
    (finding,) = findings(home, check)
    return finding


def snapshot(home: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}


@pytest.fixture
def damaged(published_home: Path, tmp_path: Path) -> Path:
    """A home of one's own to break."""
    return shutil.copytree(published_home, tmp_path / "home")


def test_a_sound_home_has_no_failure_and_stays_as_it_is(published_home, capsys):
    before = snapshot(published_home)
    assert main(["--home", str(published_home), "doctor", "--device", "none", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert {line["status"] for line in output} <= {"ok", "warn"}
    assert {"python", "packages", "disk", "memory", "threads", "duckdb", "home", "locks"} <= {
        f["check"] for f in output
    }
    assert all(line["fix"] for line in output if line["status"] == "warn")
    assert any(line["found"].startswith("torch 2.13") for line in output)
    assert snapshot(published_home) == before


def test_a_home_that_is_not_there_yet_is_not_made(tmp_path):
    assert "fail" not in {finding.status for finding in doctor.examine(Home(tmp_path / "new"))}
    assert not (tmp_path / "new").exists()


def test_wrong_and_missing_packages(tmp_path, monkeypatch, capsys):
    needs = [Requirement("duckdb<2"), Requirement("no-such-package>=1"), Requirement("polars>=2")]
    monkeypatch.setattr(installation, "requirements", lambda: (SpecifierSet(">=3.99"), needs))
    assert [finding.status for finding in findings(tmp_path, "packages")] == ["fail", "fail", "ok"]
    assert only(tmp_path, "python").status == "fail"
    assert main(["--home", str(tmp_path), "doctor", "--device", "none"]) == 1
    printed = capsys.readouterr()
    assert "fix: pip install 'no-such-package>=1'" in printed.out and "3 failed" in printed.err


def test_the_ranges_are_those_of_pyproject():
    python, needs = installation.requirements()
    assert python.contains("3.11.7") and not python.contains("3.10")
    assert {"torch", "duckdb", "polars", "mlflow", "prefect", "fastapi"} <= {need.name for need in needs}


def test_little_disk_and_memory(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": 2 * 2**30})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(installation, "available_memory", lambda: (2**29, 2**33))
    monkeypatch.setenv("OMP_NUM_THREADS", "999")
    assert {only(tmp_path, check).status for check in ("disk", "memory", "threads")} == {"warn"}
    usage.free = 2**20
    assert only(tmp_path, "disk").status == "fail"


def test_the_disk_needs_room_for_a_generation_and_its_copy(tmp_path, monkeypatch):
    live = Home(tmp_path).live("large")
    live.parent.mkdir()
    with live.open("wb") as file:
        file.truncate(4 * 2**30)  # a hole: it takes no space
    usage = type("usage", (), {"free": 14 * 2**30})
    monkeypatch.setattr(installation.shutil, "disk_usage", lambda path: usage)
    assert only(tmp_path, "disk").status == "ok" and "8.0 GiB of tables and results" in only(tmp_path, "disk").found
    for free, status in ((12, "warn"), (7, "fail")):
        usage.free = free * 2**30
        assert only(tmp_path, "disk").status == status


def test_root_is_warned_of(tmp_path, monkeypatch):
    for user, status in ((0, "warn"), (1000, "ok")):
        monkeypatch.setattr(doctor_home.os, "geteuid", lambda user=user: user)
        finding = only(tmp_path, "writers")
        assert finding.status == status
    monkeypatch.setattr(doctor_home.os, "geteuid", lambda: 0)
    finding = only(tmp_path, "writers")
    assert "runs as root" in finding.found and "read_only" in finding.found and finding.fix


def test_a_home_below_a_file_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert only(tmp_path / "file", "home").status == "fail"
    assert only(tmp_path / "file", "duckdb").status == "fail"


def test_who_holds_a_lock_is_named_and_the_lock_stays_theirs(run: Run):
    home = run.home
    assert only(home.root, "locks").found == "no night is running"
    with lock(home, "tiny", "r9"):
        output = only(home.root, "locks")
        assert output.status == "ok" and "tiny is locked by run r9, process" in output.found
        assert only(home.root, "nights").status == "ok", "the night is running, not stale"
        with home.lock("tiny").open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock(home, "tiny", "r10"):
        pass  # the doctor let go


def test_a_night_that_never_ended(run: Run):
    output = only(run.home_root, "nights")
    assert output.status == "warn" and run.run_id in output.found and "nightrecs run ./tiny.toml" in output.fix
    journal.close_run(run, "stopped")
    assert only(run.home_root, "nights").status == "ok"


def test_leftovers_are_named_unless_a_night_runs(damaged: Path):
    assert only(damaged, "leftovers").status == "ok"
    home = Home(damaged)
    building = home.generations("tiny") / ".r1.building"
    building.write_text("")
    folder = home.lake("tiny") / "2_clean" / ".clean-1.99"
    folder.mkdir()
    (folder.parent / ".checkpoint-1.safetensors").write_text("")  # the next night goes on from it
    output = findings(damaged, "leftovers")
    assert {finding.status for finding in output} == {"warn"}
    assert {finding.fix for finding in output} == {f"rm -r {building}", f"rm -r {folder}"}
    with lock(home, "tiny", "r2"):
        assert only(damaged, "leftovers").status == "ok"


def test_logins_that_others_can_read(tmp_path: Path):
    home = Home(tmp_path)
    assert only(tmp_path, "logins").status == "ok"
    for file in (home.api_auth, home.mlflow_auth):
        secret_at(file)
    assert {one.status for one in findings(tmp_path, "logins")} == {"ok"}
    home.mlflow_auth.chmod(0o644)
    (open_one,) = (one for one in findings(tmp_path, "logins") if one.status == "warn")
    assert "mlflow-auth.txt" in open_one.found and "0644" in open_one.found and open_one.fix.startswith("rm ")


def test_a_broken_mlflow_database(damaged: Path):
    assert "runs" in only(damaged, "mlflow").found
    Home(damaged).mlflow_db.write_bytes(b"not a database" * 1000)
    output = only(damaged, "mlflow")
    assert output.status == "fail" and "aside" in output.fix


def test_a_broken_live_database_and_a_stray_log(damaged: Path):
    live = Home(damaged).live("tiny")
    assert only(damaged, "published").status == "ok"
    stray = live.with_name("tiny.duckdb.wal")
    stray.write_text("x")
    assert only(damaged, "published").status == "fail" and str(stray) in only(damaged, "published").found
    stray.unlink()
    content = live.read_bytes()
    live.unlink()
    live.write_bytes(content[:5000])
    assert only(damaged, "published").status == "fail"


def test_a_prefect_api_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert only(tmp_path, "prefect").status == "ok"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    output = only(tmp_path, "prefect")
    assert output.status == "warn" and "127.0.0.1:9" in output.found and "unset PREFECT_API_URL" in output.fix


def test_damaged_state_files_are_named(run: Run):
    assert only(run.home_root, "state").status == "ok"
    (journal.folder(run) / "run.json").write_text("{ cut")
    output = only(run.home_root, "state")
    assert output.status == "warn" and f"{run.run_id}/run.json" in output.found
    journal.close_stale(run.home, run.dataset)
    assert "run.json.damaged" in only(run.home_root, "state").found
    (journal.folder(run) / "run.json.damaged").unlink()
    run.home.forgotten(run.dataset).write_text("")
    assert only(run.home_root, "state").status == "fail"


def test_a_check_that_crashes_is_a_failure_and_not_the_end(run: Run, monkeypatch):
    def crashes(*_):
        raise KeyError("planted")

    monkeypatch.setattr(journal, "run_ids", crashes)
    assert only(run.home_root, "nights").status == "fail"
    assert only(run.home_root, "mlflow").status == "ok"


@pytest.mark.long
def test_parity_of_one_and_all_threads():
    sides = device_parity.Side("cpu", 1), device_parity.Side("cpu", 2)
    results = list(device_parity.compare(*sides, families=["ease", "ials", "mf", "popularity"]))
    assert [result.family for result in results] == ["ease", "ials", "mf", "popularity"]
    assert all(result.passed for result in results), results
    assert [result.by_gradient for result in results] == [False, False, True, False]


@pytest.mark.long
@pytest.mark.parametrize(("wrong", "family"), [(1, "ease"), (2, "ease"), (2, "mf")])
def test_parity_sees_a_device_that_computes_something_else(monkeypatch, wrong, family):
    """`wrong`: the scores of the same model, or those of the second fit."""
    calls, right = [], device_parity.scores_of

    def scores_of(model, train):
        scores, lists = right(model, train)
        calls.append(1)
        if len(calls) - 1 == wrong:
            return scores + 0.01 * scores.abs().max(), (lists + 1) % train.n_items
        return scores, lists

    monkeypatch.setattr(device_parity, "scores_of", scores_of)
    (result,) = device_parity.compare(device_parity.Side(), device_parity.Side(), families=[family])
    assert not result.passed


def test_a_device_that_is_not_there(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["--home", str(tmp_path), "doctor", "--device", "cuda"]) == 1
    assert "sees no CUDA device" in capsys.readouterr().out
    assert main(["--home", str(tmp_path), "doctor", "--device", "cuda:99"]) == 1
    printed = capsys.readouterr()
    assert "fix:" in printed.out and "1 failed" in printed.err
    assert main(["--home", str(tmp_path), "doctor", "--device", "nonsense"]) == 1


def test_the_report_states_the_tolerance_and_that_there_is_no_accelerator(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_parity, "MODELS", {"popularity": device_parity.MODELS["popularity"]})
    output = [text for _, text, _ in doctor.parity("auto")]
    assert "no accelerator" in output[1] and "(threads: 1)" in output[1]
    assert "tolerance" in output[2] and f"{device_parity.SAME_STATE:g}" in output[2]
    assert output[3].startswith("popularity") and len(output) == 4


@pytest.mark.device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parity_of_the_accelerator(precision):
    results = list(device_parity.compare(device_parity.Side("cpu"), device_parity.Side("cuda", precision=precision)))
    assert all(result.passed for result in results), results


def test_a_home_for_several_hosts(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "doctor", "--device", "none", "--scale", "--json"]) == 0
    found = [line for line in json.loads(capsys.readouterr().out) if line["check"] == "shared home"]
    assert [line["status"] for line in found] == ["ok"] * len(found) and len(found) == 9
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


class Without(FileOperations):
    """A file system on which one operation does what it must not."""

    def __init__(self, folder: Path, operation: str):
        super().__init__(folder)
        setattr(self, operation, getattr(self, f"bad_{operation}"))

    def bad_lock(self, name: str) -> str:
        self.open[name] = (self.folder / name).open("a+")
        return "done"

    def bad_create(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return "done"

    def bad_replace(self, name: str, to: str) -> str:
        if (self.folder / to).is_dir():
            shutil.rmtree(self.folder / to)
        return super().replace(name, to)

    def bad_link(self, name: str, to: str) -> str:
        shutil.copyfile(self.folder / name, self.folder / to)
        return "done"


@pytest.mark.parametrize(
    ("operation", "wrong"),
    [("lock", "flock"), ("create", "O_EXCL"), ("replace", "folder with content"), ("link", "hard links")],
)
def test_a_file_system_that_keeps_no_promise(tmp_path, monkeypatch, operation, wrong):
    @contextmanager
    def sides(place):
        yield FileOperations(tmp_path), Without(tmp_path, operation), tmp_path

    monkeypatch.setattr(shared_home, "both_sides", sides)
    failed = [(text, fix) for status, text, fix in shared_home.guarantees(tmp_path) if status == "fail"]
    assert len(failed) == 1 and wrong in failed[0][0] and failed[0][1]


def test_writes_that_are_seen_late(tmp_path, monkeypatch):
    class Late(FileOperations):
        def create(self, name: str, text: str) -> str:
            return "done" if name.isdigit() else super().create(name, text)

    @contextmanager
    def sides(place):
        yield FileOperations(tmp_path), Late(tmp_path), tmp_path

    monkeypatch.setattr(shared_home, "both_sides", sides)
    monkeypatch.setattr(shared_home, "WAIT", 0.02)
    failed = [(text, fix) for status, text, fix in shared_home.guarantees(tmp_path) if status == "fail"]
    assert len(failed) == 1 and "not even after" in failed[0][0] and "actimeo" in failed[0][1]


def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.delenv(shared_home.PREFECT_DATABASE, raising=False)
    monkeypatch.setattr(server, "USERS_URI", None)
    home, nfs = Home(tmp_path), f"/dev/vda / ext4 rw 0 0\nfiler:/x {tmp_path} nfs4 rw 0 0\n"
    assert [status for status, *_ in shared_home.databases(home, "/dev/vda / ext4 rw 0 0\n")] == ["ok"]
    failed = list(shared_home.databases(home, nfs))
    assert [(status, text.split()[0]) for status, text, _ in failed] == [("fail", "MLflow"), ("fail", "Prefect")]
    assert "MLFLOW_TRACKING_URI" in failed[0][2] and shared_home.PREFECT_DATABASE in failed[1][2]
    monkeypatch.setattr(server, "USERS_URI", "postgresql://me:secret@db/mlflow")
    monkeypatch.setenv(shared_home.PREFECT_DATABASE, f"sqlite+aiosqlite:///{tmp_path}/own.db")
    ((status, text, _),) = shared_home.databases(home, nfs)
    assert status == "fail" and f"{tmp_path}/own.db" in text
    monkeypatch.setenv(shared_home.PREFECT_DATABASE, "postgresql+asyncpg://me:secret@db/prefect")
    assert [status for status, *_ in shared_home.databases(home, nfs)] == ["ok"]
    home.mlflow_db.parent.mkdir()
    home.mlflow_db.touch()  # of nights before the move to PostgreSQL
    ((status, text, fix),) = shared_home.databases(home, nfs)
    assert status == "fail" and "mlflow.db" in text and "move it away" in fix
