"""The process that has several machines of a Ray cluster fit one model together, by Ray's TorchTrainer.

It is a child of the night's process, as fanout.py is, and for the same reasons; see host_fits.py for the other end.
"""

import ctypes
import multiprocessing.connection
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flows.orchestration.cluster_messages import ALIVE, DONE, FAILED, LOST, MESSAGE, REFUSED, HostFit, Wanted
from flows.orchestration.fanout import GRACE, Client, Unusable
from pipeline.core.redaction import masked
from pipeline.training.context import NotServable
from pipeline.training.distributed import FabricProcessGroup, ProcessFailed

FAILURES = 2
"""Processes that may die in one fit; all of them then start again, from the last checkpoint."""
WAIT_SECONDS = 1800
"""Longest time that a process waits for the others, one of which may be evaluating on valid."""
AGAIN, STOPPED = "again", "stopped"
"""Kinds of messages that stay here: why a process asks for another try; that one has ended as the night did."""
LOOK = 0.3
ALIVE_EVERY = 5.0
WITHOUT_MACHINES = 60.0
"""Seconds with too few machines, after which the fit is given up."""


class Mailbox:
    """Actor on the night's machine: what the processes of a fit send."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any]] = []
        self.wanted = True

    def is_wanted(self) -> bool:
        """Whether the night still waits for the fit."""
        return self.wanted

    def end(self) -> None:
        """It does not."""
        self.wanted = False

    def put(self, kind: str, content: Any) -> None:
        """Keep a message."""
        self.messages.append((kind, content))

    def take(self) -> list[tuple[str, Any]]:
        """Messages since the last call."""
        taken, self.messages = self.messages, []
        return taken


class RayFabric:
    """What FabricProcessGroup asks of Fabric, answered by the process group that Ray Train has set up."""

    def __init__(self) -> None:
        import ray.train
        from ray.train.torch import get_device

        context = ray.train.get_context()
        self.device = get_device()
        self.global_rank, self.world_size = context.get_world_rank(), context.get_world_size()

    def broadcast(self, value: Any, src: int = 0) -> Any:
        """The value of process `src`, in all processes."""
        import torch

        box = [value]
        torch.distributed.broadcast_object_list(box, src)
        return box[0]


def work(config: dict[str, Any]) -> None:
    """Body of a process on one of the machines.

    A reason that would come again is sent and ends the fit. Where another process is gone, Ray starts all again.
    """
    import ray

    def report(kind: str, content: Any) -> None:
        ray.get(config["mailbox"].put.remote(kind, content))

    world, ended = FabricProcessGroup(RayFabric(), report), threading.Event()
    world.per_machine = 1
    if world.rank == 0:
        watch = (config["mailbox"], threading.get_ident(), ended)
        threading.Thread(target=_interrupt_unwanted, args=watch, daemon=True).start()
    try:
        result = config["function"](world, *config["arguments"])
        if world.rank == 0:
            report(DONE, result)
    except KeyboardInterrupt:
        report(STOPPED, None)
    except ProcessFailed as error:
        report(AGAIN, str(error))
        raise
    except NotServable as error:
        report(REFUSED, str(error))
        raise
    except Exception as error:
        text = f"process {world.rank} of {world.size}: {type(error).__name__}: {error}"
        report(FAILED, masked(f"{text[:1000]}\n{traceback.format_exc()[-2000:]}"))
        raise
    finally:
        ended.set()


def _interrupt_unwanted(mailbox: Any, fit: int, ended: threading.Event) -> None:
    """Raise KeyboardInterrupt in the thread `fit` when the night has ended, so that the fit writes a last checkpoint.

    Ray Train carries out the fit in a thread, which no signal reaches.
    """
    import ray

    with suppress(Exception):  # the cluster goes away
        while not ended.wait(LOOK):
            if not ray.get(mailbox.is_wanted.remote()):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(fit), ctypes.py_object(KeyboardInterrupt))
                return


class Fit:
    """A fit on several machines, from the night's side of the cluster."""

    def __init__(self, wanted: Wanted, fit: HostFit):
        """Raises Unusable."""
        self.client, self.fit = Client(wanted), fit
        self.error: BaseException | None = None
        self.reason = ""
        """Why a process asked for another try."""
        self.is_over = False
        self.cores()
        ray = self.client.ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()

    def cores(self) -> int:
        """Cores of each process: as many as the smallest of the machines has that are used. Raises Unusable."""
        there = [int(node["Resources"].get("CPU", 0)) for node in self.client.machines()]
        there = sorted((cores for cores in there if cores), reverse=True)
        if len(there) < self.fit.hosts:
            machines = f"{len(there)} machine{'s' * (len(there) != 1)}"
            raise Unusable(f"scale.hosts = {self.fit.hosts}, and the cluster has {machines} with cores")
        most = there[self.fit.hosts - 1]
        return min(self.client.threads or most, most)

    def _train(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpu, fit = self.client.on_gpu, self.fit
        try:
            TorchTrainer(
                work,
                train_loop_config={"mailbox": self.mailbox, "function": fit.function, "arguments": fit.arguments},
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=WAIT_SECONDS),
                scaling_config=ScalingConfig(
                    num_workers=fit.hosts, use_gpu=gpu, placement_strategy="STRICT_SPREAD",
                    resources_per_worker={"CPU": self.cores(), **({"GPU": 1} if gpu else {})},
                ),
                run_config=RunConfig(
                    name="fit", storage_path=str(fit.scratch),
                    failure_config=FailureConfig(max_failures=FAILURES, controller_failure_limit=FAILURES),
                ),
            ).fit()  # fmt: skip
        except BaseException as error:  # reported by the main thread; SystemExit too
            self.error = error

    def run(self, send: Callable[[tuple[Any, ...]], None], is_wanted: Callable[[], bool]) -> None:
        """Send messages of the processes until there is a result, or until nobody wants one.

        Raises Unusable where machines went away.
        """
        training = threading.Thread(target=self._train, daemon=True)
        training.start()
        enough = alive = time.monotonic()
        while is_wanted():
            ended = not training.is_alive()
            for kind, content in self.client.ray.get(self.mailbox.take.remote()):
                if kind == AGAIN:
                    self.reason = content
                    continue
                self.is_over = kind != MESSAGE
                send((kind, content))
                if self.is_over:
                    return
            if ended:
                self.is_over = True
                known = f"{self.reason or self.error}".strip().splitlines() or ["the reason is unknown"]
                return send((FAILED, f"a fit on {self.fit.hosts} machines was given up: {known[0]}"))
            now = time.monotonic()
            if now - alive > ALIVE_EVERY:
                send((ALIVE, None))
                alive = now
                try:
                    self.cores()
                    enough = now
                except Unusable:
                    if now - enough > WITHOUT_MACHINES:
                        self.is_over = True
                        raise
            training.join(LOOK)

    def stop(self) -> None:
        """End a fit that nobody wants any more. The first process gets the time for a last checkpoint."""
        ray, deadline = self.client.ray, time.monotonic() + GRACE
        ray.get(self.mailbox.end.remote())
        while time.monotonic() < deadline:
            if any(kind != MESSAGE for kind, _ in ray.get(self.mailbox.take.remote())):
                return
            time.sleep(LOOK)


def serve(parent: multiprocessing.connection.Connection) -> None:
    """Carry out one fit; ends when the night closes the connection."""
    fit = None
    try:
        wanted, request = parent.recv()
        fit = Fit(wanted, request)
        fit.run(parent.send, lambda: not parent.poll(0))  # the night sends nothing more: what is there is the end
    except Unusable as reason:
        parent.send((LOST, str(reason)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the night has ended
    finally:
        if fit is not None:
            if not fit.is_over:
                fit.stop()
            fit.client.ray.shutdown()  # ends the processes that still run


if __name__ == "__main__":
    os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    from flows.orchestration import fanout_hosts  # so that `work` is found by its name on other machines

    fanout_hosts.serve(multiprocessing.connection.Connection(int(sys.argv[1])))
