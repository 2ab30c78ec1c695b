"""A gradient fit at rest, between two epochs: one safetensors file whose header holds the rest as JSON."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.console import log
from pipeline.core.fault_injection import fault

SNAPSHOT_SECONDS = 1.0
"""At least, from one snapshot to the next: about what a signal costs, beside the epoch that it interrupts."""
WORTH_OF_SNAPSHOTS = 0.05
"""Share of a fit's time that they may take."""


@dataclass
class Progress:
    """How far a fit is, apart from its tensors."""

    epoch: int = 0
    """Finished epochs."""
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    """Validations since the best."""
    batch_size: int = 0
    halved: bool = False
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0
    """That the fit has taken, by all processes that worked on it."""


Snapshot = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors in memory of their own, and the header."""


class CheckpointWriter:
    """Keeps a fit as it was after an epoch: in memory while that is cheap, and at `path` every `every` seconds.

    What is in memory goes to `path` too where a signal ends the block: a half-done epoch can't be gone on from.
    Without a path nothing is kept.
    """

    def __init__(self, path: Path | None, every: float):
        self.path, self.every = path, every
        self.taken = self.written = time.monotonic()
        self.latest: Snapshot | None = None
        self.cost = 0.0  # seconds that the last snapshot took

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if kind and not issubclass(kind, Exception):
            self.write("at the end")

    def after_epoch(self, epoch: int, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot where the last one is old enough, by `take`; write it where that is due."""
        if self.path is None:
            return
        now = time.monotonic()
        due = now - self.written >= self.every
        if due or now - self.taken >= max(SNAPSHOT_SECONDS, self.cost / WORTH_OF_SNAPSHOTS):
            self.latest = take()
            self.taken = time.monotonic()
            self.cost = self.taken - now
        if due:
            self.write(f"after epoch {epoch}")
            self.written = time.monotonic()

    def write(self, when: str) -> None:
        """Write the last snapshot, if there is one; a full disk costs only the checkpoint."""
        try:
            if self.path and self.latest:
                write(self.path, self.latest)
        except OSError as error:
            log.warning("no checkpoint %s: %s", when, error)


def snapshot(
    model: nn.Module,
    best_state: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    identity: str,
) -> Snapshot:
    """A fit as it is now. `identity` names it; only that fit can go on from it."""
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
    """Replace the checkpoint at `path` whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
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
    """Put model and optimizers back as `write` found them; the progress and the best state.

    None, with everything as it was, where there is no checkpoint, or a damaged one, or another fit's.
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
            raise ValueError("it has not the tensors of this model")
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
