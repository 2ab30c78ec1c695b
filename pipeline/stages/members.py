"""Which fitted models a blend is made of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline import lake
from pipeline.models import MODELS, Recommender
from pipeline.models.blend import Blend, BlendConfig
from pipeline.models.saving import load
from pipeline.run import Run
from pipeline.settings import Settings


def blends(settings: Settings, label: str) -> bool:
    """Whether a label stands for a family that is made of other models."""
    family = MODELS.get(settings.models[label].family or label)
    return family is not None and family.blends


def members_of(config: BlendConfig, fitted: Mapping[str, Path]) -> dict[str, Path]:
    """Fits by label: those that the config names, as far as they could be fitted; by default all personal ones."""
    if config.of:
        return {label: fitted[label] for label in config.of if label in fitted}
    families = {label: MODELS[lake.info(folder)["family"]] for label, folder in fitted.items()}
    return {label: fitted[label] for label, family in families.items() if family.personal and not family.blends}


def refitted(run: Run, chosen: Path, fit: Callable[[str, Path], Path]) -> dict[str, Path]:
    """The members that have a weight in `chosen`, each fitted anew by `fit(label, its first fit)`."""
    layer, info = run.home.lake(run.dataset) / "5_models", lake.info(chosen)
    weights = info["config"]["weights"]
    return {label: fit(label, layer / name) for label, name in info["members"].items() if weights[label]}


def assemble(config: BlendConfig, members: Mapping[str, Path], device: torch.device) -> Recommender:
    """A blend of what is in those folders."""
    return Blend.of(config, {label: load(folder, device) for label, folder in members.items()})
