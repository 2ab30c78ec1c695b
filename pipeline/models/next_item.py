"""Next items: what followed the user's latest items in other histories, next to what is popular now.

A first-order Markov chain of items (Rendle et al., "Factorizing Personalized Markov Chains …", WWW 2010) with pairs
that are further apart, as in sequential rules (Ludewig and Jannach, "Evaluation of Session-Based Recommendation
Algorithms", UMUAI 2018, sec. 3.1), in closed form.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender, pick
from pipeline.models.ops.item_graph import TILE
from pipeline.training.interactions import DAY, History, Interactions

SMOOTHING = 0.05, 1.0
"""Added to an item's recent events and to all of its events, before they are divided."""


class NextItemConfig(ModelConfig):
    """Hyperparameters of `NextItem`."""

    reach: PositiveInt = 10
    """Two events of a user are a pair if they are at most so many places apart."""
    gap_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """A pair counts gap_decay ** (places apart - 1)."""
    backward: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of a pair from the later item to the earlier one; 0: only what came next counts."""
    source_exponent: NonNegativeFloat = 0.5
    """Pairs are divided by (all pairs from their first item) ** source_exponent."""
    item_exponent: NonNegativeFloat = 0.0
    """Pairs are divided by (events of their second item) ** item_exponent; values above 0 demote popular items."""
    neighbors: PositiveInt = 200
    """Number of pairs to keep per first item: those with the largest weights."""
    latest: PositiveInt = 30
    """So many latest events of a history are read."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """An event counts decay ** (number of later events of the user)."""
    half_life: PositiveFloat = 14.0
    """For what is popular now, an event that is so many days older than the newest one counts half."""
    trend_exponent: NonNegativeFloat = 0.75
    """Scores of pairs are multiplied by (the item's share of recent events) ** trend_exponent; 0: only pairs count."""
    popular_weight: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Weight of what is popular now; the rest is that of the pairs."""


class NextItem(Recommender):
    """score(u, j) = (1 - w) m(u, j) / Σ m(u, ·) + w r(j) / Σ r, with m(u, j) = Σ decay^k n(i_k, j) t(j) over i_k.

    i_k is the item of the user's k-th latest event, n(i, j) the weighted number of pairs, r(j) the number of events of
    j that are weighted by their age, and t(j) = (r(j) / events of j) ** trend_exponent. Users without a history get
    what is popular now.
    """

    family = "next_item"
    Config = NextItemConfig
    needs_time = True
    reads_history = True
    for_tiny_data: ClassVar[dict[str, Any]] = {"popular_weight": 0.3}

    def __init__(self, config: NextItemConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: NextItemConfig = config
        edges = min(config.neighbors, n_items)
        self.neighbors: Tensor
        self.weights: Tensor
        self.popular: Tensor
        self.register_buffer("neighbors", torch.zeros(n_items, edges, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(n_items, edges))
        self.register_buffer("popular", torch.zeros(n_items))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Count pairs, by tiles of first items, and recent events."""
        self.to(context.device)
        rows = train.positives()
        if rows.timestamps is None:
            raise NotServable("next_item learns from the order of events, and rows of this data set have no time")
        counts, recent = train.item_counts(), self._recent(rows, rows.timestamps)  # (I,) each
        self.popular = (recent / recent.sum().clamp(min=1e-30)).float()
        trend = (recent.float() + SMOOTHING[0]) / (counts + SMOOTHING[1])  # (I,)
        factor = trend**self.config.trend_exponent / counts.clamp(min=1) ** self.config.item_exponent  # (I,)
        factor = factor / factor.mean()
        history, places = train.history(), 2 * self.config.reach
        by_item = torch.argsort(history.items, stable=True)  # (E,)
        ends = torch.cumsum(torch.bincount(history.items, minlength=self.n_items), 0)  # (I,)
        tiles = context.in_time(_tiles(ends, max(1, TILE // (4 * places))), len(by_item), len)
        self.neighbors.zero_()
        self.weights.zero_()
        for events in tiles:
            self._keep(*self._pairs(history, by_item[events]), factor)

    def _recent(self, rows: Interactions, times: Tensor) -> Tensor:
        """Events of each item, weighted by their age, (I,) float64: added on the CPU in the order of the rows."""
        if not len(rows):
            return torch.zeros(self.n_items, dtype=torch.float64, device=times.device)
        ages = (times.max() - times).double() / DAY  # (N,)
        weights = torch.exp2(-ages / self.config.half_life)  # (N,)
        return torch.bincount(rows.items.cpu(), weights.cpu(), minlength=self.n_items).to(times.device)

    def _pairs(self, history: History, events: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distinct pairs from some events (T,): first items, second items and weights, (P,) each, by first item."""
        reach, rows, n = self.config.reach, history.rows, len(history.items)
        steps = torch.arange(-reach, reach + 1, device=events.device)  # (S,)
        size = self.config.gap_decay ** (steps.abs() - 1).double()  # (S,)
        size = torch.where(steps > 0, size, size * self.config.backward)
        steps, size = steps[(steps != 0) & (size > 0)], size[(steps != 0) & (size > 0)]
        at = events.unsqueeze(1) + steps  # (T, S)
        there = at.clamp(0, max(n - 1, 0))  # (T, S)
        second, first = history.items[there], history.items[events].unsqueeze(1)  # (T, S), (T, 1)
        real = (at == there) & (rows[there] == rows[events].unsqueeze(1)) & (second != first)  # (T, S)
        keys, place = torch.unique((first * self.n_items + second)[real], return_inverse=True)  # (P,), (R,)
        weights = torch.bincount(place.cpu(), size.expand_as(at)[real].cpu(), minlength=len(keys))
        return keys // self.n_items, keys % self.n_items, weights.float().to(keys.device)

    def _keep(self, first: Tensor, second: Tensor, weights: Tensor, factor: Tensor) -> None:
        """Keep the heaviest pairs (P,) of every first item, with their weights divided and times `factor` (I,)."""
        sums = torch.bincount(first.cpu(), weights.double().cpu(), minlength=self.n_items).to(weights.device)  # (I,)
        weights = weights / sums[first].float() ** self.config.source_exponent * factor[second]
        order = torch.argsort(weights, descending=True, stable=True)  # (P,)
        order = order[torch.argsort(first[order], stable=True)]
        first, second, weights = first[order], second[order], weights[order]
        counts = torch.bincount(first, minlength=self.n_items)  # (I,)
        place = torch.arange(len(first), device=first.device) - (torch.cumsum(counts, 0) - counts)[first]  # (P,)
        kept = place < self.neighbors.shape[1]
        self.neighbors[first[kept], place[kept]] = second[kept]
        self.weights[first[kept], place[kept]] = weights[kept]

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        followed = self._followed(history)  # (B, I)
        share = self.config.popular_weight
        total = followed.sum(1, keepdim=True).clamp(min=1e-30)  # (B, 1)
        return pick((1 - share) * followed / total + share * self.popular, items)

    def similar(self, items: Tensor) -> Tensor:
        """The pairs of an item, (B, I)."""
        return self._followed(History.of_single_items(items, self.n_items))

    def _followed(self, history: History) -> Tensor:
        """m(u, ·) of every row, (B, I)."""
        rows = history.rows  # (E,)
        later = history.offsets[rows + 1] - 1 - torch.arange(len(rows), device=rows.device)  # (E,)
        read = later < self.config.latest
        size = (self.config.decay ** later[read].double()).float()  # (R,)
        events, rows = history.items[read], rows[read]  # (R,) each
        scores = self.weights.new_zeros(len(history), self.n_items)  # (B, I)
        at = rows.unsqueeze(1).expand(-1, self.neighbors.shape[1]), self.neighbors[events]  # (R, K) each
        return scores.index_put_(at, self.weights[events] * size.unsqueeze(1), accumulate=True)


def _tiles(ends: Tensor, most: int) -> Iterator[Tensor]:
    """Places of all events, ordered by item, in tiles of whole items: up to `most` events, at least one item each.

    `ends` (I,): events of items up to each.
    """
    item, before = 0, 0
    while item < len(ends):
        item = max(item + 1, int(torch.searchsorted(ends, before + most, right=True)))
        stop = int(ends[item - 1])
        yield torch.arange(before, stop, device=ends.device)
        before = stop
