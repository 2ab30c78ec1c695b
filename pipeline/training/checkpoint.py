"""Checkpoints of gradient fits between two epochs: one safetensors file with the progress as JSON in its header."""

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.console import log
from pipeline.core.fault_injection import fault

SNAPSHOT_SECONDS = 1.0
"""Least time between two snapshots: about what a signal loses, in addition to the epoch that it interrupts."""
SNAPSHOT_SHARE = 0.05
"""Largest share of a fit's time spent on snapshots."""


@dataclass
class Progress:
    """Progress of a fit, without its tensors."""

    epoch: int = 0
    """Number of finished epochs."""
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    """Validations since the last one that counts as an improvement, of the start of a warm fit too."""
    counted: float | None = None
    """Metric of that validation."""
    start: float | None = None
    """Metric of the state that a warm fit starts from."""
    batch_size: int = 0
    halved: bool = False
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0
    """Time that the fit has taken, including processes that were killed."""

    def is_better(self, epoch: int, value: float, least: float = 0.0) -> bool:
        """Count a validation; whether it is the best one of the epochs so far.

        An epoch that is not better than the start of a warm fit is no improvement, nor is one that is not better by the
        share `least` than the last improvement. The best epoch is kept all the same, since new users and items have
        random values before the first.
        """
        self.waited += 1
        if not value > (-math.inf if self.best is None else self.best):  # never NaN
            return False
        self.best, self.best_epoch = value, epoch
        known = [metric for metric in (self.start, self.counted) if metric is not None]
        if not known or value > max(known) + least * abs(max(known)):
            self.waited, self.counted = 0, value
        return True


Snapshot = tuple[dict[str, Tensor], dict[str, str]]
"""Copies of the tensors, and the header."""


class CheckpointWriter:
    """Keeps snapshots of a fit after its epochs: in memory if that is cheap, and at `path` every `every` seconds.

    If a signal ends the block, the snapshot in memory is written to `path`, because a fit can't resume in the middle
    of an epoch. Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, every: float):
        self.path, self.every = path, every
        self.taken = self.written = time.monotonic()
        self.latest: Snapshot | None = None
        self.cost = 0.0  # seconds of the last snapshot

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind and not issubclass(kind, Exception):
            self.write("at the end of the fit")

    def after_epoch(self, epoch: int, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot with `take` if the last one is old enough, and write it if that is due."""
        if self.path is None:
            return
        now = time.monotonic()
        due = now - self.written >= self.every
        if due or now - self.taken >= max(SNAPSHOT_SECONDS, self.cost / SNAPSHOT_SHARE):
            self.latest = take()
            self.taken = time.monotonic()
            self.cost = self.taken - now
        if due:
            self.write(f"after epoch {epoch}")
            self.written = time.monotonic()

    def write(self, when: str) -> None:
        """Write the last snapshot, if there is one. A full disk loses only the checkpoint, not the fit."""
        try:
            if self.path and self.latest:
                write(self.path, self.latest)
        except OSError as error:
            log.warning("no checkpoint was written %s: %s", when, error)


def snapshot(
    model: nn.Module,
    best_state: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    identity: str,
) -> Snapshot:
    """The current state of a fit. Only a fit with the same `identity` can resume from it."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best_state.items()}
    plain: dict[str, Any] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                into = tensors if isinstance(value, Tensor) else plain
                into[f"optimizer/{number}/{parameter}/{name}"] = value
    header = {"identity": identity, "progress": json.dumps(asdict(progress)), "plain": json.dumps(plain)}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, header


def write(path: Path, kept: Snapshot) -> None:
    """Replace the checkpoint at `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        save_file(kept[0], temporary, metadata=kept[1])
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        fault("train:before_checkpoint")
        temporary.replace(path)
        fault("train:after_checkpoint")
    finally:
        temporary.unlink(missing_ok=True)


def read(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], identity: str
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Restore model and optimizers from a checkpoint; returns the progress and the best state.

    Returns None and changes nothing if there is no checkpoint, or if it is damaged or belongs to another fit.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("identity") != identity:
                log.warning("%s belongs to another fit and is ignored", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            progress = Progress(**json.loads(header["progress"]))
            plain = json.loads(header["plain"])
        if not (isinstance(plain, dict) and _same_shapes(_below(tensors, "model/"), model.state_dict())):
            raise ValueError("its tensors are not those of this model")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        log.warning("%s can't be read and is ignored: %s", path, error)
        return None
    model.load_state_dict(_below(tensors, "model/"))
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Any]] = {}
        for name, value in _below({**tensors, **plain}, f"optimizer/{number}/").items():
            parameter, _, key = name.partition("/")
            states.setdefault(int(parameter), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    device = next(model.parameters()).device
    best = {name: tensor.to(device) for name, tensor in _below(tensors, "best/").items()}
    return progress, best


def _same_shapes(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in wanted.items()}


def _below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
