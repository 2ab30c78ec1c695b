"""Fits whose loss or parameters are not finite any more."""

import torch
from torch import nn

from pipeline.training.context import NotServable
from pipeline.training.optimizers import TrainingConfig


class Diverged(NotServable):
    """The loss or the parameters are not finite any more."""


def refuse_non_finite(model: nn.Module, config: TrainingConfig) -> None:
    """Raise Diverged if a parameter is not finite."""
    finite = {name: torch.isfinite(parameter).all() for name, parameter in model.named_parameters()}
    for name, all_are in zip(finite, torch.stack([*finite.values()]).tolist(), strict=True):  # one sync
        if not all_are:
            raise Diverged(f"{name} is no longer finite at learning rate {config.learning_rate:g}; lower the rate")
