"""Has several machines of a Ray cluster fit one model together. The night's process does not speak with Ray itself."""

import shutil
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from flows.orchestration import cluster_process
from flows.orchestration.cluster_access import Door
from flows.orchestration.cluster_messages import ALIVE, DONE, LOST, MESSAGE, REFUSED, HostFit, Wanted
from pipeline.core.spread import Unavailable
from pipeline.training.context import NotServable
from pipeline.training.distributed import ProcessFailed

PATIENCE = 180.0
"""Seconds without a sign of life, after which the cluster counts as lost; a busy one needs some until the first. An
address that nobody answers is noticed much earlier, by fanout.py."""


def fit(wanted: Wanted, request: HostFit, on_message: Callable[..., None]) -> Any:
    """The result of `request`, as `spread.Engine.together` describes it."""
    door = Door(wanted.address, wanted.token)
    process, connection = cluster_process.start("flows.orchestration.fanout_hosts", door)
    try:
        connection.send((wanted, request))
        return _result(connection, on_message)
    except (EOFError, OSError) as error:
        raise Unavailable("the process that speaks with Ray ended") from error
    finally:
        connection.close()
        _end(process)
        shutil.rmtree(request.scratch, ignore_errors=True)


def _result(connection: Connection, on_message: Callable[..., None]) -> Any:
    heard = time.monotonic()
    while time.monotonic() - heard < PATIENCE:
        if not connection.poll(1):
            continue
        kind, content = connection.recv()
        heard = time.monotonic()
        if kind == MESSAGE:
            on_message(*content)
        elif kind == DONE:
            return content
        elif kind == LOST:
            raise Unavailable(content)
        elif kind == REFUSED:
            raise NotServable(content)
        elif kind != ALIVE:
            text, _, where = content.partition("\n")
            raise ProcessFailed(text) from RuntimeError(where)
    raise Unavailable(f"no sign of life for {PATIENCE:.0f} s")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Give it time to end the processes on other machines."""
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
