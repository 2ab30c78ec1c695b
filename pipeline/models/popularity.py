"""Popularity: the items with the most interactions, in the whole history or its last days."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender, pick
from pipeline.training.event_weights import WeightsConfig, row_weights
from pipeline.training.interactions import History, Interactions

DAY = 86_400_000_000  # microseconds


class PopularityConfig(WeightsConfig):
    """Hyperparameters of `Popularity`."""

    window_days: PositiveFloat | None = None
    """Count only interactions of that many days before the last one. Unset: all."""


class Popularity(Recommender):
    """score(u, i) = number of positive interactions of i in the window; ties by the whole history.

    Where the config weighs interactions, it is the sum of their weights. What the whole history adds is less than any
    difference between two sums of the window.
    """

    family = "popularity"
    Config = PopularityConfig
    personal = False
    reads_history = True  # it needs none, so it serves users that the fit has not seen
    serves_everyone = True

    @classmethod
    def version_at(cls, rows: int | None, config: ModelConfig | None = None) -> int:
        """2 where a window is weighed: the whole history could outweigh the window in version 1."""
        own = isinstance(config, PopularityConfig) and config.window_days is not None and config.weighs
        return 2 if own else super().version_at(rows, config)

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
            recent, gap = torch.bincount(rows.items[late], minlength=self.n_items), 1.0
        else:
            recent = self._sum(rows.items[late], weights[late])
            gap = _smallest_gap(recent)
        self.counts = recent + gap * (whole / (whole.max() + 1))

    def _sum(self, items: Tensor, weights: Tensor) -> Tensor:
        """Weight of each item, (I,): added up on the CPU in the order of the rows, so that it can be recomputed."""
        summed = torch.bincount(items.cpu(), weights.double().cpu(), minlength=self.n_items)
        return summed.to(items.device)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """The same for every user; (B, I) or (B, C)."""
        return pick(self.counts.float().expand(len(users), -1), items)


def _smallest_gap(sums: Tensor) -> float:
    """The smallest difference between two sums of weights, (I,), at most 1; differences by rounding don't count."""
    gaps = sums.unique().diff()  # (at most I - 1,)
    gaps = gaps[gaps > 1e-9 * sums.max()]
    return min(1.0, float(gaps.min())) if len(gaps) else 1.0
