"""A fitted model at rest: `model.safetensors` and `config.json`, never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.core.errors import SettingsError
from pipeline.models import registry
from pipeline.models.base import Recommender

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MAPPED = 1 << 26
"""Bytes from which a loaded buffer stays where it is, in the file's pages in memory, instead of being copied."""


def save(model: Recommender, folder: Path) -> None:
    """Write a model into a folder that exists."""
    save_file(_copied_where_shared(model.state_dict()), folder / WEIGHTS)
    about = {
        "family": registry.name_of(type(model)),
        "config": model.config.model_dump(mode="json"),
        "n_users": model.n_users,
        "n_items": model.n_items,
        "best_epoch": model.best_epoch,
        **({"reads_attributes": True} if model.reads_attributes else {}),
    }
    (folder / CONFIG).write_text(json.dumps(about, indent=2))


def _copied_where_shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, of which no two share memory; copied only where they do: some fill half of it."""
    apart: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        if (place := own.untyped_storage().data_ptr()) in held:
            own = own.clone()
        held.add(place)
        apart[name] = own
    return apart


def load(folder: Path, device: torch.device | str = "cpu") -> Recommender:
    """The model that `save` wrote, ready to score; ValueError: a file is damaged or of another version."""
    about = json.loads((folder / CONFIG).read_text())
    try:
        family = registry.find(about["family"])
    except SettingsError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    model = family(family.Config.model_validate(about["config"]), about["n_users"], about["n_items"])
    try:
        state = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: {error}") from None
    restore(model, state, shared_from=MAPPED)
    model.best_epoch = about["best_epoch"]
    model.reads_attributes = about.get("reads_attributes", False)
    return model.to(device).eval()


def restore(model: Recommender, state: dict[str, Tensor], shared_from: int | None = None) -> None:
    """Put a state into a model of the same config; buffers take the shape and type that the fit gave them.

    Tensors are copied. With `shared_from`, buffers of so many bytes and more are those of `state` itself.
    """
    buffers = {name for name, _ in model.named_buffers()}
    for name in buffers & state.keys():
        owner, _, leaf = name.rpartition(".")
        module, given = model.get_submodule(owner), state[name]
        device = getattr(module, leaf).device
        if shared_from is None or given.nbytes < shared_from or given.device != device:
            given = torch.empty_like(given, device=device)
        setattr(module, leaf, given)
    model.load_state_dict(state)  # copies nothing onto itself
