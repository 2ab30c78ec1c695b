"""The fitted models that a blend is made of."""

from collections.abc import Mapping
from pathlib import Path

import torch

from pipeline.config.run import Run
from pipeline.models import Recommender
from pipeline.models.blend import Blend, BlendConfig
from pipeline.models.serialization import load
from pipeline.selection import leaderboard
from pipeline.storage import lake


def members_of(run: Run, config: BlendConfig, fits: Mapping[str, Path]) -> dict[str, Path]:
    """The members among the night's fits on train, by label; see `leaderboard.members_of`."""
    families = {label: leaderboard.family_name(run.settings, label) for label in fits}
    ranked = leaderboard.best_first(run) if config.most else []
    return {label: fits[label] for label in leaderboard.members_of(config, families, ranked)}


def first_fits(run: Run, train_fit: Path) -> dict[str, Path]:
    """The fits on train of the members with a weight in the blend `train_fit`, by label."""
    layer, info = run.home.lake(run.dataset) / "5_models", lake.info(train_fit)
    weights = info["config"]["weights"]
    return {label: layer / name for label, name in info["members"].items() if weights[label]}


def assemble(config: BlendConfig, members: Mapping[str, Path], device: torch.device) -> Recommender:
    """A blend of the models in these folders."""
    return Blend.of(config, {label: load(folder, device) for label, folder in members.items()})
