"""Repeats: what the user has had most often, with time decay, and is due again.

The frequency of a user's own items is a baseline that few models beat where people buy again (Hu et al., "Modeling
Personalized Item Frequency Information for Next-basket Recommendation", SIGIR 2020; Ariannezhad et al., "ReCANet",
SIGIR 2022). Recency and the usual gap between two events of an item say when (Anderson et al., "The Dynamics of Repeat
Consumption", WWW 2014, sec. 4 and 5).
"""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from pipeline.models.base import FitContext, Recommender, pick
from pipeline.training.event_weights import WeightsConfig, weigh
from pipeline.training.interactions import DAY, History, Interactions

PSEUDO_GAPS = 5.0
"""Gaps of all items together that each item's own are averaged with."""
LEAST_STD = 0.25
"""Of the logarithm of a gap, so that a few equal gaps are no certainty."""
TIE_BREAK = 1e-7
"""Largest score of an item that the user has not had; below the smallest of those that the user has had."""


class RepeatsConfig(WeightsConfig):
    """Hyperparameters of `Repeats`."""

    half_life_days: PositiveFloat | None = 60.0
    """An interaction that is so many days older than the newest one counts half. Without times, all count alike."""
    interval_weight: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    """Share of the score of an item that waits until the item is due. 0: its usual gap doesn't matter."""


class Repeats(Recommender):
    """score(u, i) = n(u, i) (1 - w + w P(gap of i < age)), w = interval_weight.

    n(u, i) is the number of the user's events with the item, each with its weight and 2 ** (-age / half-life). The age
    is that of the latest of them, and a gap is the time between two events of one user with the item: log(1 + days) is
    taken as normal, with each item's own mean and variance, shrunk towards those of all items. Items that the user has
    not had come last, by popularity: only with `seen = "allow"` is the family more than that.
    """

    family = "repeats"
    Config = RepeatsConfig
    reads_history = True
    only_own_items = True

    def __init__(self, config: RepeatsConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: RepeatsConfig = config
        self.gap_mean: Tensor
        self.gap_std: Tensor
        self.popular: Tensor
        self.register_buffer("gap_mean", torch.zeros(n_items))
        self.register_buffer("gap_std", torch.ones(n_items))
        self.register_buffer("popular", torch.zeros(n_items))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Gaps and popularity of every item."""
        self.to(context.device)
        counts = train.item_counts()  # (I,)
        self.popular = TIE_BREAK * counts / (1 + counts.max())
        rows = train.positives()
        if rows.timestamps is None:
            return
        self.gap_mean, self.gap_std = self._gaps(rows, rows.timestamps)

    def _gaps(self, rows: Interactions, times: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of log(1 + days) between two events of a pair, (I,) each."""
        pairs = rows.users * self.n_items + rows.items  # (N,)
        order = torch.argsort(pairs, stable=True)  # rows are in time order
        pairs, times, items = pairs[order], times[order], rows.items[order]  # (N,) each
        again = pairs[1:] == pairs[:-1]  # (N - 1,)
        gaps = torch.log1p((times[1:] - times[:-1])[again].double().clamp(min=0) / DAY)  # (G,)
        items = items[1:][again]  # (G,)
        if not len(gaps):
            return self.gap_mean, self.gap_std

        def total(values: Tensor) -> Tensor:
            return torch.bincount(items.cpu(), values.cpu(), minlength=self.n_items)  # (I,): CPU adds in a fixed order

        n = total(torch.ones_like(gaps)) + PSEUDO_GAPS
        mean = (total(gaps) + PSEUDO_GAPS * gaps.mean().cpu()) / n  # (I,)
        spread = (gaps - gaps.mean()).square().mean().cpu()
        square = total((gaps - mean.to(gaps.device)[items]).square())  # (I,)
        std = ((square + PSEUDO_GAPS * spread) / n).sqrt().clamp(min=LEAST_STD)  # (I,)
        return mean.float().to(rows.items.device), std.float().to(rows.items.device)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        scores = self.popular.repeat(len(users), 1)  # (B, I)
        own = torch.zeros_like(scores)
        facts, at = history.facts, (history.rows, history.items)  # (E,) each
        if history.weights is not None:
            weights = history.weights  # (E,)
        else:
            weights = torch.ones(len(history.items), device=own.device) if facts is None else weigh(facts, self.config)
        own.index_put_(at, weights.to(own.dtype), accumulate=True)
        if facts is not None and facts.ages is not None:
            age = torch.full_like(own, torch.inf)
            flat = history.rows * self.n_items + history.items  # (E,)
            age.view(-1).scatter_reduce_(0, flat, facts.ages, "amin")
            z = (torch.log1p(age[at]) - self.gap_mean[history.items]) / self.gap_std[history.items]  # (E,)
            w = self.config.interval_weight
            own[at] = own[at] * (1 - w + w * torch.special.ndtr(z))  # repeated events: the same value again
        return pick(scores + own, items)
