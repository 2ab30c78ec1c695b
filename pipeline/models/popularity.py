"""Popularity: the items with the most interactions, in the whole history or its last days."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender, pick
from pipeline.training.interactions import History, Interactions

DAY = 86_400_000_000  # microseconds


class PopularityConfig(ModelConfig):
    """Hyperparameters of `Popularity`."""

    window_days: PositiveFloat | None = None
    """Count only interactions of that many days before the last one. Unset: all."""


class Popularity(Recommender):
    """score(u, i) = number of positive interactions of i in the window; ties by the whole history."""

    family = "popularity"
    Config = PopularityConfig
    personal = False
    reads_history = True  # it needs none, so it serves users that the fit has not seen
    serves_everyone = True

    def __init__(self, config: PopularityConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: PopularityConfig = config
        self.counts: Tensor
        self.register_buffer("counts", torch.zeros(n_items, dtype=torch.float64))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Count."""
        self.to(context.device)
        rows = train.positives()
        whole = train.item_counts().double()
        if self.config.window_days is None:
            self.counts = whole
            return
        if rows.timestamps is None:
            raise NotServable("windowed popularity needs timestamps, and this data set has none")
        start = rows.timestamps.max() - round(self.config.window_days * DAY)
        recent = torch.bincount(rows.items[rows.timestamps > start], minlength=self.n_items)
        self.counts = recent + whole / (whole.max() + 1)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """The same for every user; (B, I) or (B, C)."""
        return pick(self.counts.float().expand(len(users), -1), items)
