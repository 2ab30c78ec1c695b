"""Has several machines of a Ray cluster fit one model together. The night's process does not speak with Ray itself."""

import shutil
from collections.abc import Callable
from typing import Any

from flows.orchestration.cluster_access import Door
from flows.orchestration.cluster_messages import ALIVE, DONE, LOST, MESSAGE, REFUSED, HostFit, Wanted
from flows.orchestration.cluster_process import Gone, RayProcess
from pipeline.core.spread import Unavailable
from pipeline.training.context import NotServable
from pipeline.training.distributed import ProcessFailed

PATIENCE = 180.0
"""Seconds without a sign of life, after which the cluster counts as lost; a busy one needs some until the first. An
address that nobody answers is noticed much earlier, by fanout.py."""


def fit(wanted: Wanted, request: HostFit, on_message: Callable[..., None]) -> Any:
    """The result of `request`, as `spread.Engine.together` describes it."""
    process = RayProcess("flows.orchestration.fanout_hosts", Door(wanted.address, wanted.token), PATIENCE)
    try:
        process.send(wanted, request)
        return _result(process, on_message)
    except Gone as why:
        raise Unavailable(str(why)) from None
    finally:
        process.close()
        shutil.rmtree(request.scratch, ignore_errors=True)


def _result(process: RayProcess, on_message: Callable[..., None]) -> Any:
    while True:
        message = process.receive()
        if message is None:
            continue
        kind, content = message
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
