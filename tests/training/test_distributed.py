"""Two processes on the CPU learn what one does, end together whatever happens, and a night goes on without them."""

import importlib.util
import multiprocessing
import os
import time

import numpy as np
import pytest
import torch

from flows.cli import main
from flows.cli.doctor import installation
from pipeline.config.loader import load_settings
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.experiments import fit
from pipeline.schemas import tables
from pipeline.storage import journal, lake
from pipeline.training import distributed, launcher
from pipeline.training.context import NotServable, ProcessGroup
from tests.support import ending_processes, processes, tastes

needs_fabric = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None, reason="the extra `fabric` is not installed"
)
CPU = torch.device("cpu")
OUTSIDE = """from pipeline.models.mf import MatrixFactorization

class Own(MatrixFactorization):
    version = 7
"""
MODELS = """[models.own]
family = "own_family:Own"
epochs = 3
embedding_dim = 8
batch_size = 256
[models.broken]
family = "mf"
[gate]
enabled = false
"""


def nothing(*message: object) -> None: ...


@pytest.fixture(scope="module")
def together():
    """What two processes found, see several.everything."""
    return processes.within(launcher.launch(processes.everything, 2, CPU, nothing), np.ndarray, torch.from_numpy)


@needs_fabric
def test_two_processes_learn_what_one_does(together):
    alone = processes.states(ProcessGroup())
    assert together["states"].keys() == alone.keys() > processes.CASES.keys()
    for case, state in alone.items():
        for name, tensor in state.items():
            torch.testing.assert_close(
                together["states"][case][name], tensor, atol=2e-5, rtol=1e-4, msg=f"{case}: {name}"
            )


@needs_fabric
@pytest.mark.parametrize("family", processes.BY_GRADIENT)
def test_every_family_is_the_same_in_both(together, family):
    first, second = together["families"][family]
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()) and first.keys() == second.keys()


@needs_fabric
@pytest.mark.device
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_every_family_is_the_same_on_two_accelerators():
    found = launcher.launch(processes.families, 2, torch.device("cuda"), nothing)
    for family, (first, second) in processes.within(found, np.ndarray, torch.from_numpy).items():
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), f"{family}: {name}"


@needs_fabric
def test_they_share_the_rows_and_draw_apart(together):
    (first, rows), (second, others) = together["draws"]
    assert first[0] != second[0] and first[1] != second[1]
    assert set(rows) | set(others) == set(range(processes.ROWS)) and len(rows) == 21
    assert set(rows) & set(others) == {others[-1]}, "a row without weight, where the last batch leaves none"


@needs_fabric
def test_memory_that_is_out_in_one_halves_the_batches_of_both(together):
    first, second = together["sizes"]
    assert first == [4, 4, *[2] * 8, 1] and second == first


@needs_fabric
def test_the_first_decides_when_it_ends(together):
    assert together["best epochs"] == [2, 2]
    assert together["ended"] == [(1, True), (1, True)]


@needs_fabric
def test_sums_reach_all_and_rows_the_first(together):
    first, second = together["shared"]
    assert first["summed"] == second["summed"] == [10, 12, 14]
    assert first["agreed"] == second["agreed"] == [0, 1, 2]
    assert first["joined"] == [0, 1, 2, 11, 12] and second["joined"] == [11, 12]
    assert first["none"] == [0, 1, 2] and second["none"] == []


@needs_fabric
def test_two_processes_with_half_of_the_users_each_learn_ials(together):
    alone = processes.within(processes.cut_by_users(ProcessGroup()), np.ndarray, torch.from_numpy)
    scores, wanted = (state["users"] @ state["items"].T for state in (together["cut"], alone))
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-3)
    assert torch.equal(together["cut"]["fingerprints"], alone["fingerprints"])


@needs_fabric
@pytest.mark.slow  # three processes
def test_three_processes_of_which_one_has_no_user_learn_ials():
    found = processes.within(launcher.launch(processes.cut_by_users, 3, CPU, nothing), np.ndarray, torch.from_numpy)
    alone = processes.within(processes.cut_by_users(ProcessGroup()), np.ndarray, torch.from_numpy)
    assert {name: state.shape for name, state in found.items()} == {name: state.shape for name, state in alone.items()}
    scores, wanted = (state["users"] @ state["items"].T for state in (found, alone))
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-3)
    assert torch.equal(found["fingerprints"], alone["fingerprints"])


@needs_fabric
def test_one_that_refuses_ends_both(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")  # of somebody else's launch
    with pytest.raises(NotServable, match=r"^there is nothing to learn from$"):
        launcher.launch(ending_processes.refuses, 2, CPU, nothing)
    assert not multiprocessing.active_children()


@needs_fabric
def test_none_is_left_after_signals(tmp_path):
    started = []

    def printed(pid: int) -> None:
        started.append(time.monotonic())
        for child in multiprocessing.active_children():
            for number in launcher.ENDING:  # Ctrl-C, `timeout` and systemd reach all of a group
                os.kill(child.pid or pid, number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher.launch(ending_processes.waits_to_be_ended, 2, CPU, printed, tmp_path / "saved")
    assert time.monotonic() - started[0] < launcher.GRACE + 5
    assert (tmp_path / "saved").exists() and not multiprocessing.active_children()


@needs_fabric
def test_a_night_on_two_devices_goes_on_without_a_family_that_fails_in_one(tmp_path, monkeypatch):
    """The other family is not in the repository: all processes import it from a folder of the path."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_family.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(fit, "fit_together", processes.broken_in_one)
    tastes.write_log(tmp_path / "data")
    run = tastes.one_night(tmp_path, MODELS, "devices=2", "device=cpu", until="evaluate")
    record = tastes.record(run)
    assert record["outcome"] == "stopped"
    assert record["left_out"] == {"broken": "failed (ProcessFailed): process 1 of 2: ValueError: planted in one"}
    assert "processes.py" in (journal.folder(run) / "errors.txt").read_text(), "where it was"

    fits = {path.name.rsplit("-", 1)[0]: path for path in run.home.lake(run.dataset).glob("5_models/own-*")}
    manifest = lake.read_manifest(fits["own-train"])
    assert manifest["settings"]["devices"] == 2 and set(fits) == {"own-train"}
    assert (manifest["settings"]["family"], manifest["settings"]["version"]) == ("own_family:Own", 7)
    history = manifest["info"]["history"]
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3] and all(epoch["valid"] > 0 for epoch in history)
    assert history[0]["loss"] > history[-1]["loss"]
    stages = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)
    assert stages.filter(stage="train own")["rows_out"].item() == manifest["rows_out"] > 1000
    metrics = journal.read(run.home, run.dataset, tables.METRICS, run.run_id)
    assert set(metrics["model"]) == {"own"}, "it was evaluated as usual"


@needs_fabric
def test_the_doctor_has_them_meet(together, tmp_path, monkeypatch):
    assert together["met"] == 2
    monkeypatch.setattr(launcher, "launch", lambda function, devices, *rest: (function is distributed.meet) * devices)
    monkeypatch.setenv("NIGHTRECS_DEVICE", "cpu")
    monkeypatch.setenv("NIGHTRECS_DEVICES", "2")
    (found,) = installation.devices(Home(tmp_path))
    assert found[0] == "ok" and found[1].endswith("devices = 2: 2 processes work together by gloo")


@pytest.mark.parametrize(("device", "devices"), [("cuda", "2"), ("cpu", "many"), ("cpu", "2")])
def test_the_doctor_finds_devices_that_can_not_be_had(tmp_path, monkeypatch, device, devices):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("NIGHTRECS_DEVICE", device)
    monkeypatch.setenv("NIGHTRECS_DEVICES", devices)
    (found,) = installation.devices(Home(tmp_path))
    assert found[0] == "fail" and found[2]


def test_the_number_of_devices_is_part_of_the_key_only_where_it_counts(tmp_path):
    settings, _ = load_settings("sample", overrides=["devices=3"])
    families = {name: fit.devices_of(settings, family) for name, family in processes.MODELS.items()}
    assert {name for name, devices in families.items() if devices == 3} == set(processes.BY_GRADIENT)
    assert {"ease", "popularity", "blend"} <= {name for name, devices in families.items() if devices == 1}


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    distributed.check(1, CPU)
    assert main(["--home", str(tmp_path), "run", "--no-prefect", "--set", "devices=2", "--set", "device=cpu"]) == 2
    printed = capsys.readouterr().err
    assert "devices = 2 needs lightning-fabric: pip install 'nightrecs[fabric]'" in printed


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    distributed.check(2, torch.device("cuda"))
    with pytest.raises(ValueError, match="devices = 3, and torch sees 2 of CUDA; set it to 2 at most"):
        distributed.check(3, torch.device("cuda"))
    with pytest.raises(ValueError, match="not with mps"):
        distributed.check(2, torch.device("mps"))
    with pytest.raises(SettingsError, match="set device = 'cuda'"):
        load_settings("sample", overrides=["devices=2", "device=cuda:1"])
