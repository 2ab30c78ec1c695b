"""A gradient fit at rest, between two epochs: one safetensors file whose header holds the rest as JSON."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)


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


def write(
    path: Path,
    model: nn.Module,
    best_state: dict[str, Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Progress,
    identity: str,
) -> None:
    """Replace the checkpoint at `path` whole. `identity` names the fit; only that fit can go on from it."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best_state.items()}
    plain: dict[str, Any] = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                into = tensors if isinstance(value, Tensor) else plain
                into[f"optimizer/{number}/{parameter}/{name}"] = value
    header = {"identity": identity, "progress": json.dumps(asdict(progress)), "plain": json.dumps(plain)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        save_file(copies, temporary, metadata=header)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
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


def _below(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
