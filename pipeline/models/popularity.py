"""Popularity: the items with the most interactions, in the whole history or its last days."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.models.base import FitContext, NotServable, Recommender, pick
from pipeline.training.event_weights import WeightsConfig, row_weights
from pipeline.training.interactions import History, Interactions

DAY = 86_400_000_000  # microseconds


class PopularityConfig(WeightsConfig):
    """Hyperparameters of `Popularity`."""

    window_days: PositiveFloat | None = None
    """Count only interactions of that many days before the last one. Unset: all."""


class Popularity(Recommender):
    """score(u, i) = number of positive interactions of i in the window; ties by the whole history.

    Where the config weighs interactions, it is the sum of their weights.
    """

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
        weights = row_weights(rows, self.config)
        whole = train.item_counts().double() if weights is None else self._sum(rows.items, weights)
        if self.config.window_days is None:
            self.counts = whole
            return
        if rows.timestamps is None:
            raise NotServable("windowed popularity needs timestamps, and this data set has none")
        start = rows.timestamps.max() - round(self.config.window_days * DAY)
        late = rows.timestamps > start  # (N,)
        if weights is None:
            recent = torch.bincount(rows.items[late], minlength=self.n_items)
        else:
            recent = self._sum(rows.items[late], weights[late])
        self.counts = recent + whole / (whole.max() + 1)

    def _sum(self, items: Tensor, weights: Tensor) -> Tensor:
        """Weight of each item, (I,): added up on the CPU in the order of the rows, so that it can be recomputed."""
        summed = torch.bincount(items.cpu(), weights.double().cpu(), minlength=self.n_items)
        return summed.to(items.device)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """The same for every user; (B, I) or (B, C)."""
        return pick(self.counts.float().expand(len(users), -1), items)
