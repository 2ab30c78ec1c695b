"""Families that are not in the repository, as the tests see them: found by dotted path, or by a planted entry point."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.models import FitContext, ModelConfig, Recommender, registry
from pipeline.training.interactions import History, Interactions


class TinyConfig(ModelConfig):
    """Hyperparameters of `Tiny`."""

    power: PositiveFloat = 0.5
    """Exponent by which popular items count less."""


class Tiny(Recommender):
    """score(u, i) = Σ_j∈history(u) c_ij / (n_i n_j)^power, c being the counts of common users."""

    Config = TinyConfig
    version = 2
    reads_history = True

    def __init__(self, config: TinyConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.weights: Tensor
        self.register_buffer("weights", torch.zeros(n_items, n_items))

    def fit(self, train: Interactions, context: FitContext) -> None:
        self.to(context.device)
        rows = train.positives()
        seen = torch.zeros(self.n_users, self.n_items, device=context.device)
        seen[rows.users, rows.items] = 1  # (U, I)
        counts = seen.T @ seen  # (I, I)
        scale = counts.diagonal().clamp(min=1) ** -self.config.power  # (I,)
        self.weights.copy_(scale[:, None] * counts * scale).fill_diagonal_(0)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        rows = torch.zeros(len(users), self.n_items, device=users.device)  # (B, I)
        rows[history.rows, history.items] = 1
        scores = rows @ self.weights
        return scores if items is None else scores.gather(1, items)


class Unfinished(Recommender):
    """Has no `score`."""

    Config = TinyConfig

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Learn nothing."""


class WithoutConfig(Tiny):
    """Has a Config that is none."""

    Config = dict


class ReservedConfig(TinyConfig):
    """Has a field that is a key of the recipe."""

    search: bool = False


class Reserved(Tiny):
    """Has a field that is a key of the recipe."""

    Config = ReservedConfig


class OfOthers(Tiny):
    """Wants to be a blend."""

    blends = True


def name_here(path: str) -> str:
    """What a child process finds at a dotted path."""
    return registry.find(path).__name__
