"""Two machines fit one model together: the bits of two processes of one machine, whatever happens to the machines."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flows.orchestration import cluster, cluster_process, engines, host_fits
from flows.orchestration.cluster_messages import ALIVE, DONE, FAILED, LOST, MESSAGE, REFUSED, HostFit, Wanted
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.errors import SettingsError
from pipeline.core.spread import Unavailable
from pipeline.stages import train
from pipeline.storage import journal, lake
from pipeline.training import launcher
from pipeline.training.context import NotServable, ProcessGroup
from pipeline.training.distributed import ProcessFailed
from tests.support import host_processes
from tests.support.ray_cluster import RayCluster
from tests.support.tastes import one_night, write_log

MODELS = """
[models.mf]
epochs = 20
patience = 20
embedding_dim = 8
batch_size = 256
[models.ials]
embedding_dim = 4
[gate]
enabled = false
"""


def night(folder: Path, *overrides: str) -> Run:
    """A night until its models are evaluated."""
    write_log(folder / "data")
    return one_night(folder, MODELS, "device=cpu", *overrides, until="evaluate")


def fit_of(run: Run, label: str) -> Path:
    """Folder of its fit on train."""
    (folder,) = run.home.lake(run.dataset).glob(f"5_models/{label}-*")
    return folder


def same_state(run: Run, other: Run) -> bool:
    """Whether both nights have learnt the same bits."""
    one, two = (load_file(fit_of(each, "mf") / "model.safetensors") for each in (run, other))
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def hosts_in_key(run: Run, label: str) -> int | None:
    """As the manifest of its fit has it."""
    return lake.read_manifest(fit_of(run, label))["settings"].get("hosts")


def warnings(run: Run) -> list[str]:
    """Warnings among the notes of a night, but that about the age of its rows."""
    notes = journal.notes(run.home, run.dataset, run.run_id)
    return [text for text in notes if text.startswith("warning") and "newest_interaction" not in text]


def left_over(run: Run) -> list[Path]:
    """What a fit has not removed."""
    return [path for path in run.home.lake(run.dataset).rglob(".*") if not path.name.startswith(".study-")]


@pytest.mark.usefixtures("_with_token")
def test_two_machines_learn_the_bits_of_two_devices_although_a_process_is_killed(
    ray_cluster: RayCluster, tmp_path: Path
):
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 240
        while not (found := fitting()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        os.kill(found[0], signal.SIGKILL)
        killed.append(found[0])

    killing = threading.Thread(target=kill)
    killing.start()
    hosts = night(tmp_path / "hosts", *ray_cluster.settings, "scale.hosts=2")
    killing.join()
    devices = night(tmp_path / "devices", "devices=2")
    assert killed and not warnings(hosts) and not left_over(hosts)
    assert same_state(hosts, devices)
    assert (hosts_in_key(hosts, "mf"), hosts_in_key(hosts, "ials"), hosts_in_key(devices, "mf")) == (2, 2, None)
    both, alone = (load_file(fit_of(each, "ials") / "model.safetensors") for each in (hosts, devices))
    scores, wanted = (state["users"] @ state["items"].T for state in (both, alone))  # (U, I)
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-3)
    history = lake.read_manifest(fit_of(hosts, "mf"))["info"]["history"]
    assert [epoch["epoch"] for epoch in history] == [*range(1, 21)]
    assert all(epoch["valid"] > 0 for epoch in history)


@pytest.mark.scale
@pytest.mark.usefixtures("_with_token")
def test_fits_that_lose_a_process_go_on_from_their_checkpoint_to_the_bits_of_others(
    ray_cluster: RayCluster, tmp_path: Path
):
    write_log(tmp_path / "data")
    run = one_night(tmp_path, MODELS, "device=cpu", *ray_cluster.settings, "scale.hosts=2", until="split")
    (split,) = run.home.lake(run.dataset).glob("4_split/*")
    requests = [train.request_fit(run, split, label) for label in ("mf", "ials")]
    folder, others = tmp_path / "fits", tmp_path / "others"
    for each in (folder, others):
        each.mkdir()
    with engines.engine_of(run):
        found = spread.engine().together(host_processes.lose_a_process, 2, lambda *message: None, (requests, folder))
    for request in requests:
        assert (folder / f"{request.label}.lost").exists() and request.checkpoint.exists()
        request.checkpoint.unlink()
        (others / f"{request.label}.lost").touch()
    whole = launcher.launch(
        host_processes.lose_a_process, 2, torch.device("cpu"), lambda *message: None, requests, others
    )
    assert len(found["ials here"]) < len(whole["ials here"]), "the last process began after a checkpoint"
    for label in ("mf", "ials"):
        one, two = (load_file(each / label / "model.safetensors") for each in (folder, others))
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items()), label
        assert found[label] == whole[label] and len(whole[label]) > host_processes.DIES_AFTER


def fitting() -> list[int]:
    """Processes of Ray Train that are there now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"TrainWorker" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_with_too_few_machines_processes_of_this_one_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The processes themselves are those of `devices`, which have tests of their own: here one does it all."""
    launched: list[int] = []

    def launch(function: Any, devices: int, device: torch.device, on_message: Any, *arguments: Any) -> Any:
        launched.append(devices)
        world = ProcessGroup()
        world.device, world.send = device, lambda *message: on_message(*message)  # type: ignore[attr-defined]
        return function(world, *arguments)

    def no_cluster(*_: Any) -> Any:
        raise Unavailable("scale.hosts = 3, and the cluster has 2 machines")

    monkeypatch.setattr(launcher, "launch", launch)
    monkeypatch.setattr(host_fits, "fit", no_cluster)
    monkeypatch.setattr(cluster.Cluster, "_connected", lambda engine: True)
    monkeypatch.setattr(cluster.Cluster, "begin", lambda *_: None)
    monkeypatch.setattr(engines, "check", lambda run: None)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "no matter")
    alone = night(tmp_path, "scale.engine=ray", "scale.address=127.0.0.1:9", "scale.hosts=3")
    assert launched == [3, 3], "mf, and ials"
    assert warnings(alone) == 2 * [
        "warning: not fitted on 3 machines: scale.hosts = 3, and the cluster has 2 machines; 3 processes of this one "
        "do it instead"
    ]
    assert hosts_in_key(alone, "mf") == 3 and not left_over(alone)


@pytest.mark.parametrize(("cores", "threads", "each"), [([4, 2, 8], 0, 4), ([4, 2, 8], 3, 3), ([4, 0, 0], 1, None)])
def test_each_process_has_the_cores_that_every_machine_can_give(cores: list[int], threads: int, each: int | None):
    pytest.importorskip("grpc", reason="Ray is not installed: pip install '.[scale]'")
    from flows.orchestration import fanout, fanout_hosts

    fit = object.__new__(fanout_hosts.Fit)
    fit.client = SimpleNamespace(threads=threads, machines=lambda: [{"Resources": {"CPU": n}} for n in cores])  # type: ignore[assignment]
    fit.fit = HostFit(len, (), 2, Path())
    if each is None:
        with pytest.raises(fanout.Unusable, match=r"^scale\.hosts = 2, and the cluster has 1 machine with cores$"):
            fit.cores()
    else:
        assert fit.cores() == each


@pytest.mark.scale
@pytest.mark.parametrize(
    ("rank", "error", "sent"),
    [
        (0, None, [("done", {"rows": 7})]),
        (1, None, []),
        (1, NotServable("nothing to learn from"), [("refused", "nothing to learn from")]),
        (1, ProcessFailed("another one is gone"), [("again", "another one is gone")]),
        (1, ValueError("planted"), [("failed", "process 1 of 2: ValueError: planted")]),
    ],
)
def test_a_process_sends_its_result_or_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception | None, sent: list[tuple[str, Any]]
):
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[scale]'")
    from flows.orchestration import fanout_hosts

    found: list[tuple[str, Any]] = []

    def function(world: ProcessGroup, rows: int) -> dict[str, int]:
        assert (world.rank, world.size, world.per_machine) == (rank, 2, 1)
        if error:
            raise error
        return {"rows": rows}

    fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=2)
    monkeypatch.setattr(fanout_hosts, "RayFabric", lambda: fabric)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    mailbox = SimpleNamespace(put=SimpleNamespace(remote=lambda kind, content: found.append((kind, content))))
    config = {"mailbox": mailbox, "function": function, "arguments": (7,)}
    with pytest.raises(type(error)) if error else nullcontext():
        fanout_hosts.work(config)
    first_lines = [(kind, content.partition("\n")[0] if kind == FAILED else content) for kind, content in found]
    assert first_lines == sent


def test_a_fit_that_is_given_up_names_the_last_reason(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("grpc", reason="Ray is not installed: pip install '.[scale]'")
    from flows.orchestration import fanout_hosts

    box = fanout_hosts.Mailbox()
    for message in ((MESSAGE, ("begin", 7)), ("again", "another one is gone")):
        box.put(*message)
    fit, sent = object.__new__(fanout_hosts.Fit), []
    fit.client = SimpleNamespace(ray=SimpleNamespace(get=lambda taken: taken))  # type: ignore[assignment]
    fit.fit, fit.error, fit.reason = HostFit(len, (), 2, Path()), RuntimeError("of Ray"), ""
    fit.mailbox = SimpleNamespace(take=SimpleNamespace(remote=box.take))
    monkeypatch.setattr(fit, "_train", lambda: None)
    fit.run(sent.append, lambda: True)
    assert sent == [
        (MESSAGE, ("begin", 7)), (FAILED, "a fit on 2 machines was given up: another one is gone"),
    ]  # fmt: skip


def test_the_first_process_is_interrupted_when_the_night_has_ended(monkeypatch: pytest.MonkeyPatch):
    """Ray Train carries out a fit in a thread, which no signal reaches; the fit then writes its last checkpoint."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[scale]'")
    from flows.orchestration import fanout_hosts

    box, at_work, ended = fanout_hosts.Mailbox(), threading.Event(), []

    def function(world: ProcessGroup) -> None:
        try:
            for _ in range(2000):
                at_work.set()
                time.sleep(0.01)
        except BaseException as error:
            ended.append(type(error))
            raise

    monkeypatch.setattr(fanout_hosts, "LOOK", 0.01)
    fabric = SimpleNamespace(device=torch.device("cpu"), global_rank=0, world_size=2)
    monkeypatch.setattr(fanout_hosts, "RayFabric", lambda: fabric)
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    methods = ("put", "take", "end", "is_wanted")
    mailbox = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(box, name)) for name in methods})
    config = {"mailbox": mailbox, "function": function, "arguments": ()}
    working = threading.Thread(target=fanout_hosts.work, args=(config,))
    working.start()
    assert at_work.wait(10)
    fit = object.__new__(fanout_hosts.Fit)
    fit.client, fit.mailbox = SimpleNamespace(ray=ray), mailbox  # type: ignore[assignment]
    started = time.monotonic()
    fit.stop()
    working.join(5)
    assert ended == [KeyboardInterrupt] and not working.is_alive()
    assert time.monotonic() - started < fanout_hosts.GRACE, "it does not wait longer than needed"


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Connection:
    """The end of the process that speaks with Ray; the process itself only waits for the end of a pipe."""
    ours, theirs = Pipe()

    def start(*_: Any) -> tuple["subprocess.Popen[bytes]", Connection]:
        return subprocess.Popen([sys.executable, "-S", "-c", ""]), ours

    monkeypatch.setattr(cluster_process, "start", start)
    return theirs


def fit(folder: Path, seen: list[Any]) -> Any:
    """What a night does with these messages."""
    wanted = Wanted("127.0.0.1:9", "token", folder / "probe", "", "cpu", 1)
    request = HostFit(len, (), 2, folder / "scratch")
    request.scratch.mkdir()
    return host_fits.fit(wanted, request, lambda *message: seen.append(message))


def test_messages_of_a_fit_arrive_and_its_result_is_returned(messages: Connection, tmp_path: Path):
    for message in ((ALIVE, None), (MESSAGE, ("begin", 7)), (MESSAGE, ("__call__", 1, {})), (DONE, {"rows": 7})):
        messages.send(message)
    seen: list[Any] = []
    assert fit(tmp_path, seen) == {"rows": 7}
    assert seen == [("begin", 7), ("__call__", 1, {})] and not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ((REFUSED, "nothing to learn from"), NotServable),
        ((FAILED, "process 1 of 2: ValueError: planted\nTraceback"), ProcessFailed),
        ((LOST, "the cluster has 1 machine"), Unavailable),
        (None, Unavailable),
    ],
)
def test_a_fit_without_a_result_ends_as_what_it_is(
    messages: Connection, tmp_path: Path, message: tuple[str, str] | None, error: type[Exception]
):
    if message:
        messages.send(message)
    else:
        messages.close()
    text = message[1].partition("\n")[0] if message else "the process that speaks with Ray ended"
    with pytest.raises(error, match=f"^{text}$"):
        fit(tmp_path, [])
    assert not (tmp_path / "scratch").exists()


def test_silence_is_the_end_of_a_cluster(messages: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_fits, "PATIENCE", 0.1)
    with pytest.raises(Unavailable, match="no sign of life"):
        fit(tmp_path, [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scale.hosts=2"], 'set engine = "ray", or hosts = 1'),
        (["scale.hosts=2", "scale.engine=ray", "devices=2"], "set one of them to 1"),
    ],
)
def test_hosts_go_with_a_cluster_and_not_with_devices(tmp_path: Path, overrides: list[str], message: str):
    with pytest.raises(SettingsError, match=message):
        night(tmp_path, *overrides)
