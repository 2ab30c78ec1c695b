"""Starts the processes of a fit on several devices by Lightning Fabric, hears them, and leaves none of them behind."""

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

import torch

from pipeline.training.context import NotServable
from pipeline.training.distributed import FabricProcessGroup, ProcessFailed, check

T = TypeVar("T")
for module in ("distributed", "rank_zero"):  # every process says hello there
    logging.getLogger(f"lightning_fabric.utilities.{module}").setLevel(logging.WARNING)
TIMEOUT = timedelta(minutes=30)
"""Longest that a process waits for the others, who may be measuring the model on valid."""
GRACE = 10.0
"""Seconds for a last checkpoint, from a signal to the end of all processes."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""End the first process with a last checkpoint; the others wait for what it does, and end as it is gone."""
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "STANDALONE_PORT")
"""Variables that would say where to meet; every launch finds a port of its own."""


def launch(function: Callable[..., T], devices: int, device: torch.device, told: Callable[..., None], *args: Any) -> T:
    """`function(world, *args)` in so many new processes; what that of process 0 returns.

    All of it is pickled; tensors can't be told or returned. `told(*message)` gets what process 0 tells, as it comes.
    Raises NotServable where a process did, ProcessFailed where one failed otherwise, ValueError where `check` does;
    none of them is left then.
    """
    check(devices, device)
    hears, says = multiprocessing.get_context("spawn").Pipe(duplex=False)
    earlier, ended, came = set(multiprocessing.active_children()), [], {}
    launching = threading.Thread(target=_launch, args=(function, devices, device, says, args, ended), daemon=True)
    launching.start()
    try:
        for kind, message in _heard(hears):
            if kind == "told":
                told(*message)
            else:
                came.setdefault(kind, message)  # the first that fails makes the others fail
    finally:
        _end(launching, earlier)
        hears.close()
    if "failed" in came:
        refused, text, where = came["failed"]
        raise NotServable(text) if refused else ProcessFailed(text) from RuntimeError(where)
    if "done" not in came:
        why = f"{ended[0]}".strip().splitlines()[-1] if ended else "nobody knows why"
        raise ProcessFailed(f"a fit on {devices} devices ended without a result: {why}") from (ended or [None])[0]
    return came["done"]


def _launch(
    function: Callable, devices: int, device: torch.device, says: Connection, args: tuple, ended: list[Exception]
) -> None:
    """Lasts as long as the processes; what ends it otherwise goes into `ended`."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # one that fails ends the others
        with _without(RENDEZVOUS):
            strategy = DDPStrategy(start_method="spawn", timeout=TIMEOUT)
            kind, here = device.type, LightningEnvironment()
            fabric = Fabric(accelerator=kind, strategy=strategy, devices=devices, plugins=[here])
            fabric.launch(partial(_work, os.getpid(), says, function, args))  # whole: Fabric searches arguments
    except Exception as error:
        ended.append(error)
    finally:
        says.close()  # from now on only those who work could say something


def _work(parent: int, wire: Connection, function: Callable, args: tuple, fabric: Any) -> None:
    """What a process does. Where it fails it ends at once: a tidy end would wait for the others, who wait for it."""
    first = fabric.global_rank == 0
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # whoever started the night may ignore it (nohup)
            signal.signal(number, _interrupt_once if first else signal.SIG_IGN)
    logging.disable(logging.NOTSET if first else logging.WARNING)  # nothing is said twice
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def say(kind: str, message: Any) -> None:
        wire.send((kind, message))

    try:
        came = function(FabricProcessGroup(fabric, say), *args)
        if first:
            say("done", came)
    except BaseException as error:
        refused = isinstance(error, NotServable)
        who = f"process {fabric.global_rank} of {fabric.world_size}: {type(error).__name__}: "
        text = f"{'' if refused else who}{error}"
        try:
            say("failed", (refused, text[:1000], traceback.format_exc()[-2000:]))  # short, so that none mix
        finally:
            os._exit(1)


def _interrupt_once(number: int, frame: Any) -> NoReturn:
    """Signals to a group reach it too, before `launch` sends its own: a second one must not end the last checkpoint."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(parent: int) -> NoReturn:
    """Nobody wants the work of a process whose parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE)
    os._exit(1)


def _heard(hears: Connection) -> Iterator[tuple[str, Any]]:
    """Until nobody is left who could say something; one that is killed may leave half a word."""
    while True:
        try:
            yield hears.recv()
        except (EOFError, OSError):
            return


def _end(launching: threading.Thread, earlier: set[Any]) -> None:
    """Wait for the end of a launch; processes that still work, as something ended the listening, are ended."""
    number, until = signal.SIGTERM, time.monotonic() + GRACE
    launching.join(0.5)
    while launching.is_alive():
        for process in set(multiprocessing.active_children()) - earlier:
            if process.pid:
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(process.pid, number)
        launching.join(max(until - time.monotonic(), 1))
        number = signal.SIGKILL


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """The environment without some variables, put back after."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
