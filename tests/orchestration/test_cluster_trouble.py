"""What can happen to a cluster in the middle of a night: the night ends, publishes the same, and says what happened."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import pytest

from flows import tasks
from flows.orchestration import cluster, cluster_process, engines
from flows.orchestration.cluster_access import Door
from flows.orchestration.cluster_messages import ALIVE, DONE, READY
from flows.orchestration.remote_calls import Outcome
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.stage_call import StageName
from pipeline.evaluation import rank_parts
from pipeline.ranking import joint_ranks, ranks
from pipeline.storage import journal
from tests.support import ray_cluster as clusters
from tests.support.cluster_nights import LONG, SLOW, hash_of, night
from tests.support.meanwhile import at_the_same_time
from tests.support.ray_cluster import RayCluster, fits_of_mf, wait_for
from tests.support.stage_runs import make_run
from tests.support.tastes import one_night, write_log

FOUND = 240.0
"""Seconds in which a stalled worker must be found and its part be done elsewhere."""
NIGHT = """
import sys
from pathlib import Path
from tests.support.tastes import one_night
one_night(Path(sys.argv[1]), sys.argv[2], "gate.enabled=false", *sys.argv[3:])
"""


def notes(run: Run) -> list[str]:
    """The notes of a night about its cluster."""
    found = journal.notes(run.home, run.dataset, run.run_id)
    return [text for text in found if "cluster" in text and not text.startswith("cluster: 2 machines")]


def outputs(folder: Path) -> list[int]:
    """Parts of evaluations that are done in the home of a folder."""
    return [len(path.name) for path in folder.glob("home/warehouse/lake/*/6_metrics/.scratch-*/*.out")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A night without a cluster."""
    return night(tmp_path_factory.mktemp("plain"), SLOW)


@pytest.mark.slow
@pytest.mark.usefixtures("_with_token")
def test_a_machine_that_goes_away_in_an_evaluation_costs_time_only(
    ray_cluster: RayCluster, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rank_parts, "PAIRS", 1)
    for module in (ranks, joint_ranks):
        monkeypatch.setattr(module, "USERS", 6)  # 40 parts of each split
    done: list[int] = []

    def lose() -> None:
        done.append(len(wait_for(lambda: outputs(tmp_path), until=bool)))
        ray_cluster.tell("remove")

    with at_the_same_time(lose):
        run = night(tmp_path, SLOW, *ray_cluster.settings)
    ray_cluster.tell("add")
    assert done and done[0] < 80 and hash_of(run) == hash_of(plain)
    assert all(text.endswith(" went away, 1 left; its parts run again elsewhere") for text in notes(run))


@pytest.mark.slow
@pytest.mark.usefixtures("_with_token")
def test_a_worker_that_stalls_is_found_in_two_minutes(ray_cluster: RayCluster, plain: Run, tmp_path: Path):
    stopped: list[int] = []

    def stop() -> None:
        for worker in wait_for(ray_cluster.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path)):
            os.kill(worker, signal.SIGSTOP)
            stopped.append(worker)

    started = time.monotonic()
    with at_the_same_time(stop):
        run = night(tmp_path, SLOW, *ray_cluster.settings)
    assert stopped and hash_of(run) == hash_of(plain)
    assert time.monotonic() - started < FOUND
    assert not any(Path(f"/proc/{worker}").exists() for worker in stopped), "it does not stay"


@pytest.mark.slow  # a cluster of its own
@pytest.mark.scale
def test_the_night_goes_on_without_a_head(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[scale]'")
    with clusters.running() as short:
        monkeypatch.setenv("RAY_AUTH_TOKEN", short.token)

        def lose() -> None:
            wait_for(short.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path))
            short.tell("lose head")

        with at_the_same_time(lose):
            run = night(tmp_path, SLOW, *short.settings)
    assert hash_of(run) == hash_of(plain)
    assert any("the night goes on without the cluster" in text for text in notes(run))


@pytest.mark.slow
@pytest.mark.usefixtures("_with_token")
def test_the_parts_of_a_night_that_is_killed_end_and_the_next_one_cleans_up(ray_cluster: RayCluster, tmp_path: Path):
    with in_another_process(tmp_path, LONG, ray_cluster) as killed:
        wait_for(ray_cluster.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path))
        killed.kill()
        killed.wait()
        started = time.monotonic()
        wait_for(ray_cluster.workers, until=lambda found: not found)
    assert time.monotonic() - started < 30
    run = one_night(tmp_path, "[models.ease]\n", "gate.enabled=false", *ray_cluster.settings)
    lake = run.home.lake(run.dataset)
    assert [path.name for path in lake.rglob(".*") if not path.name.startswith(".checkpoint-")] == []


@pytest.mark.slow
@pytest.mark.usefixtures("_with_token")
def test_two_nights_share_a_cluster(ray_cluster: RayCluster, plain: Run, tmp_path: Path):
    with in_another_process(tmp_path / "one", SLOW, ray_cluster) as other:
        run = night(tmp_path / "two", SLOW, *ray_cluster.settings)
        assert other.wait(300) == 0
    of_other = Run.model_validate({**run.model_dump(), "home_root": tmp_path / "one" / "home"})
    (run_id,) = {path.name for path in of_other.home.journal(run.dataset).iterdir() if path.is_dir()}
    of_other = of_other.model_copy(update={"run_id": run_id})
    assert hash_of(run) == hash_of(of_other) == hash_of(plain)
    assert not notes(run) and not notes(of_other)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    """The end of the process that speaks with Ray, which there is not."""
    ours, theirs = Pipe()
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    monkeypatch.setattr(cluster_process, "start", lambda *_: (ended, ours))
    monkeypatch.setattr(engines, "check", lambda run: None)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "no matter")
    yield theirs


def test_a_machine_that_goes_away_is_noted(messages: Connection, tmp_path: Path):
    run = make_run(tmp_path, scale={"engine": "ray", "address": "127.0.0.1:9"})
    for message in (
        (READY, ["near", "far"], 2), (ALIVE, [], 2), (ALIVE, ["far"], 1), (DONE, 1, Outcome({"train": []})),
    ):  # fmt: skip
        messages.send(message)
    with engines.engine_of(run):
        spread.engine().begin("ials", dict, ())
        assert spread.engine().finished("ials") == {"train": []}
    assert journal.notes(run.home, run.dataset, run.run_id) == [
        "cluster: 2 machines, 2 parts at once",
        "warning: cluster: far went away, 1 left; its parts run again elsewhere",
    ]


def test_a_part_that_is_out_of_memory_ends_and_says_what_helps(messages: Connection, tmp_path: Path):
    pytest.importorskip("grpc", reason="Ray is not installed: pip install '.[scale]'")
    from flows.orchestration import fanout

    planted = type("OutOfMemoryError", (Exception,), {})("1 worker(s) were killed\nRefer to the documentation")
    client = object.__new__(fanout.Client)
    client.running = {"a reference": 1}

    class Ray:
        """Of which the part's result is an error."""

        def wait(self, references: list[str], **_: object) -> tuple[list[str], list[str]]:
            return references, []

        def get(self, _: object) -> None:
            raise planted

    client.ray = Ray()  # type: ignore[assignment]
    messages.send((READY, ["near"], 1))
    for message in client.ended():
        messages.send(message)
    run = make_run(tmp_path, scale={"engine": "ray", "address": "127.0.0.1:9"})
    with engines.engine_of(run), pytest.raises(cluster.Died) as died:
        spread.engine().begin("ials", dict, ())
        spread.engine().finished("ials")
    assert str(died.value) == (
        "its process in the cluster died: OutOfMemoryError: 1 worker(s) were killed (threads sets how many parts share "
        "a machine, memory_limit what a fit may take of it)"
    )


def test_ray_tries_no_part_without_end_and_finds_who_is_silent(monkeypatch: pytest.MonkeyPatch):
    """Its defaults are endless tries of a part that is out of memory, and seven minutes."""
    given: list[dict[str, str]] = []

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        given.append(env)

    monkeypatch.setattr(cluster_process.subprocess, "Popen", popen)
    _, connection = cluster_process.start("flows.orchestration.fanout", Door("127.0.0.1:9", "token"))
    connection.close()
    (environment,) = given
    assert environment["RAY_task_oom_retries"] == str(cluster_process.RETRIES)
    silent = [int(environment[f"RAY_grpc_client_keepalive_{part}_ms"]) for part in ("time", "timeout")]
    assert sum(silent) <= 120_000 and silent[0] >= 60_000, "a server ends connections that ask more often"


def test_an_evaluation_on_a_cluster_may_wait_for_fits_of_other_models(tmp_path: Path):
    alone, on_cluster = make_run(tmp_path / "a"), make_run(tmp_path / "b", scale={"engine": "ray"})
    assert tasks.time_limit(StageName.EVALUATE, alone) == tasks.time_limit(StageName.AUDIT, on_cluster) == 3600
    assert tasks.time_limit(StageName.EVALUATE, on_cluster) == tasks.time_limit(StageName.TRAIN, alone) > 3600


class in_another_process:
    """A night in a process of its own while the block runs."""

    def __init__(self, folder: Path, models: str, ray_cluster: RayCluster):
        write_log(folder / "data")
        command = [sys.executable, "-c", NIGHT, str(folder), models, *ray_cluster.settings]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> "subprocess.Popen[bytes]":
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
