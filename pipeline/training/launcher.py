"""Starts the processes of a fit on several devices with Lightning Fabric, receives their messages and ends them."""

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
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch

from pipeline.training.context import NotServable
from pipeline.training.distributed import FabricProcessGroup, ProcessFailed, check

T = TypeVar("T")
for module in ("distributed", "rank_zero"):  # every process logs its start there
    logging.getLogger(f"lightning_fabric.utilities.{module}").setLevel(logging.WARNING)
TIMEOUT = timedelta(minutes=30)
"""Longest time that a process waits for the others, one of which may be evaluating on valid."""
GRACE = 10.0
"""Seconds from a signal to the end of all processes, for a last checkpoint."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""These signals end the first process with a last checkpoint; the others end because it is gone."""
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "STANDALONE_PORT")
"""Environment variables of a rendezvous; they are removed, because every launch finds a port of its own."""


def launch(
    function: Callable[..., T], devices: int, device: torch.device, on_message: Callable[..., None], *args: Any
) -> T:
    """Run `function(world, *args)` in `devices` new processes; returns the result of process 0.

    Arguments, messages and the result are pickled, and can't contain tensors. `on_message(*message)` receives what
    process 0 sends. Raises NotServable if a process raised it, ProcessFailed if one failed otherwise, and ValueError as
    `check` does. No process is left afterwards.
    """
    check(devices, device)
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    earlier, ended, results = set(multiprocessing.active_children()), [], {}
    launching = threading.Thread(target=_launch, args=(function, devices, device, sender, args, ended), daemon=True)
    launching.start()
    try:
        for kind, message in _messages(receiver):
            if kind == "message":
                on_message(*message)
            else:
                results.setdefault(kind, message)  # the first failure causes those of the other processes
    finally:
        _end(launching, earlier)
        receiver.close()
    if "failed" in results:
        refused, text, where = results["failed"]
        raise NotServable(text) if refused else ProcessFailed(text) from RuntimeError(where)
    if "done" not in results:
        reason = f"{ended[0]}".strip().splitlines()[-1] if ended else "the reason is unknown"
        raise ProcessFailed(f"a fit on {devices} devices ended without a result: {reason}") from (ended or [None])[0]
    return results["done"]


def _launch(
    function: Callable, devices: int, device: torch.device, sender: Connection, args: tuple, ended: list[Exception]
) -> None:
    """Run the processes until they end; appends an exception that ends them otherwise to `ended`."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # a failing process ends the others
        with _without(RENDEZVOUS):
            strategy = DDPStrategy(start_method="spawn", timeout=TIMEOUT)
            kind, here = device.type, LightningEnvironment()
            fabric = Fabric(accelerator=kind, strategy=strategy, devices=devices, plugins=[here])
            fabric.launch(partial(_work, os.getpid(), sender, function, args))  # a partial: Fabric inspects arguments
    except Exception as error:
        ended.append(error)
    finally:
        sender.close()  # the processes have their own handles


def _work(parent: int, sender: Connection, function: Callable, args: tuple, fabric: Any) -> None:
    """Body of a process. It exits at once if it fails: a clean exit would wait for the others, which wait for it."""
    first = fabric.global_rank == 0
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # the parent may ignore it (nohup)
            signal.signal(number, _interrupt_once if first else signal.SIG_IGN)
    logging.disable(logging.NOTSET if first else logging.WARNING)  # log each message once
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def report(kind: str, message: Any) -> None:
        sender.send((kind, message))

    try:
        result = function(FabricProcessGroup(fabric, report), *args)
        if first:
            report("done", result)
    except BaseException as error:
        refused = isinstance(error, NotServable)
        who = f"process {fabric.global_rank} of {fabric.world_size}: {type(error).__name__}: "
        text = f"{'' if refused else who}{error}"
        try:
            report("failed", (refused, text[:1000], traceback.format_exc()[-2000:]))  # short: a write is then atomic
        finally:
            os._exit(1)


def _interrupt_once(number: int, frame: FrameType | None) -> NoReturn:
    """Ignore further signals: one to the process group precedes that of `launch`; none may stop the checkpoint."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(parent: int) -> NoReturn:
    """Exit when the parent is gone: its result is not wanted any more."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE)
    os._exit(1)


def _messages(receiver: Connection) -> Iterator[tuple[str, Any]]:
    """Messages until all senders are closed; a process that is killed may leave a partial message."""
    while True:
        try:
            yield receiver.recv()
        except (EOFError, OSError):
            return


def _end(launching: threading.Thread, earlier: set[Any]) -> None:
    """Wait for the end of a launch, and end processes that still run because receiving was interrupted."""
    number, until = signal.SIGTERM, time.monotonic() + GRACE
    launching.join(0.5)
    while launching.is_alive():
        for process in set(multiprocessing.active_children()) - earlier:
            if process.pid:
                with suppress(ProcessLookupError):  # it has ended in the meantime
                    os.kill(process.pid, number)
        launching.join(max(until - time.monotonic(), 1))
        number = signal.SIGKILL


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Remove environment variables, and restore them afterwards."""
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
