"""What the processes of a fit on several machines do in test_host_fits.py; each of them imports this module."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.experiments.fit import FitRequest, fit_on_host
from pipeline.models import ials_share
from pipeline.training import loop

DIES_AFTER = 3
"""Epochs of a model that is to lose a process."""


def lose_a_process(world: Any, requests: Sequence[FitRequest], folder: Path) -> dict[str, list[int]]:
    """Fit models one after another, with a checkpoint after every epoch, into folders below `folder`.

    The second process dies once in each fit for which there is no file `LABEL.lost`. Returns the epochs of each model.
    """
    loop.CHECKPOINT_SECONDS = ials_share.CHECKPOINT_SECONDS = 0.0
    epochs: dict[str, list[int]] = {}
    for request in requests:
        lost, visits = folder / f"{request.label}.lost", []

        def fault(point: str, lost: Path = lost, visits: list[int] = visits) -> None:
            visits.append(1)
            if world.rank == 1 and len(visits) == DIES_AFTER and not lost.exists():
                lost.touch()
                os._exit(9)

        loop.fault = ials_share.fault = fault
        own = folder / request.label
        own.mkdir(exist_ok=True)
        found = fit_on_host(world, request, None, own)
        epochs[request.label] = [epoch["epoch"] for epoch in found["history"]]
        epochs[f"{request.label} here"] = visits
    return epochs
