"""Ranking metrics: one value per user from the ranks of the holdout, then means over users with intervals.

To add one, write a function under `@metric`: MLflow, the leaderboard and the report follow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.settings import ERRORS
from pipeline.core.bootstrap import RESAMPLES, intervals
from pipeline.ranking.ranks import Ranks


@dataclass(frozen=True)
class Hits:
    """Holdout events of U users that are in the lists; a metric of depth k maps them to (U,) values."""

    ranks: Tensor  # (E,) float64, 1 is the best
    hit: Tensor  # (E,) float64, 1 where the rank is within k
    rows: Tensor  # (E,) user of every event, ascending
    n_listed: Tensor  # (U,) events of every user
    n_holdout: Tensor  # (U,) the same with those that are in no list
    k: int

    def total(self, gains: Tensor) -> Tensor:
        """Sum of the gains (E,) of hits per user, (U,)."""
        return sums_by_user(gains * self.hit, self.rows, self.n_listed)

    @property
    def n_reachable(self) -> Tensor:
        """min(k, n_holdout), (U,): hits of a perfect list."""
        return self.n_holdout.clamp(max=self.k)


def sums_by_user(values: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    """Sums of values (E,) per user, (U,); `rows` (E,): the user of every value, ascending.

    The order of additions is fixed on every device; the atomic additions of `index_add_` on CUDA have none.
    """
    if values.device.type != "cpu":
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    return torch.zeros(len(lengths), dtype=torch.float64).index_add_(0, rows, values)


@dataclass(frozen=True)
class Scope:
    """What the records of one evaluation have in common."""

    model: str
    split: str
    protocol: str = "full"
    seed: int = 42
    resamples: int = RESAMPLES
    """Bootstrap resamples of the intervals."""

    def record(self, segment: str, n: int) -> dict[str, Any]:
        """The first fields of a record of tables.METRICS."""
        return {"model": self.model, "split": self.split, "protocol": self.protocol, "segment": segment, "n": n}


Metric = Callable[[Hits], Tensor]
METRICS: dict[str, Metric] = {}  # one value per user
HIGHER_IS_BETTER: dict[str, bool] = {
    **dict.fromkeys(("coverage", "novelty", "diversity", "hit_rate_debiased"), True),
    **dict.fromkeys(("gini", *ERRORS), False),
}


def metric(higher_is_better: bool) -> Callable[[Metric], Metric]:
    """Register a function of hits under its name, without a trailing underscore."""

    def register(function: Metric) -> Metric:
        name = function.__name__.rstrip("_")
        METRICS[name], HIGHER_IS_BETTER[name] = function, higher_is_better
        return function

    return register


@metric(higher_is_better=True)
def hit_rate(hits: Hits) -> Tensor:
    """1 if any holdout item is in the list, else 0 (HR@k; He et al. 2017, sec. 4.1)."""
    return (hits.total(hits.hit) > 0).double()


@metric(higher_is_better=True)
def recall(hits: Hits) -> Tensor:
    """Hits / n_holdout. The denominator is not cut at k, so a list shorter than the holdout stays below 1."""
    return hits.total(hits.hit) / hits.n_holdout


@metric(higher_is_better=True)
def precision(hits: Hits) -> Tensor:
    """Hits / k, also where the list or the holdout is shorter."""
    return hits.total(hits.hit) / hits.k


@metric(higher_is_better=True)
def ndcg(hits: Hits) -> Tensor:
    """Σ 1 / log2(1 + rank) over hits, / the same of a perfect list, which has min(k, n_holdout) hits on top.

    Järvelin and Kekäläinen 2002, with gains of 0 or 1.
    """
    places = torch.arange(2, hits.k + 2, dtype=torch.float64, device=hits.ranks.device)  # (k,)
    ideal = torch.cumsum(1 / torch.log2(places), 0)  # (k,)
    return hits.total(1 / torch.log2(1 + hits.ranks)) / ideal[(hits.n_reachable - 1).clamp(min=0)]


@metric(higher_is_better=True)
def mrr(hits: Hits) -> Tensor:
    """1 / rank of the first hit, 0 without one (Voorhees 1999)."""
    zeros = hits.ranks.new_zeros(len(hits.n_holdout))
    return zeros.scatter_reduce_(0, hits.rows, hits.hit / hits.ranks, "amax")


@metric(higher_is_better=True)
def map_(hits: Hits) -> Tensor:
    """Mean over hits of the precision at their rank, / min(k, n_holdout) (trec_eval's AP has n_holdout)."""
    misses_last = torch.where(hits.hit > 0, hits.ranks, torch.inf)
    order = torch.argsort(misses_last, stable=True)
    order = order[torch.argsort(hits.rows[order], stable=True)]  # by user, then rank
    n_before = torch.cumsum(hits.n_listed, 0) - hits.n_listed  # (U,) events of earlier users
    place = torch.empty_like(hits.ranks)
    count = torch.arange(1, len(order) + 1, dtype=torch.float64, device=place.device)  # (E,)
    place[order] = count - n_before[hits.rows[order]]
    return hits.total(place / hits.ranks) / hits.n_reachable


def coverage(items: Tensor, popular: Tensor) -> float:
    """Share of the catalog, the items with `popular` (I,) > 0, that is in any of the lists (N, k)."""
    listed = torch.zeros(len(popular), dtype=torch.bool, device=popular.device)
    listed[items[items >= 0].to(popular.device)] = True
    return int((listed & (popular > 0)).sum()) / max(1, int((popular > 0).sum()))


def intervals_by_user(values: Tensor, users: Tensor, seed: int, *, resamples: int = RESAMPLES) -> Tensor:
    """`intervals` of the column means of (N, M) rows, (M, 2), where `users` (N,) are resampled with all their rows.

    The rows of a user resemble each other, so resampling rows would give intervals that are too narrow.
    """
    of, counts = torch.unique(users, return_inverse=True, return_counts=True)[1:]  # (N,), (U,)
    sums = torch.zeros(len(counts), values.shape[1], dtype=torch.float64)  # (U, M), added in a fixed order
    sums = sums.index_add_(0, of.cpu(), values.double().cpu()).to(values.device)
    return intervals(sums, seed, counts=counts, resamples=resamples)


def higher_is_better(name: str) -> bool:
    """Which way a metric improves; raises KeyError on an unknown one."""
    return HIGHER_IS_BETTER[name]


def sign_of(name: str) -> int:
    """1 where higher is better, else -1; multiplied by it, higher is better for every metric."""
    return 1 if higher_is_better(name) else -1


def per_user(ranks: Ranks, cutoffs: Sequence[int], names: Sequence[str] | None = None) -> dict[tuple[str, int], Tensor]:
    """(metric, cutoff) to (U,) float64 values, on the ranks' device; NaN for users without holdout.

    `names`: only these metrics.
    """
    n_holdout = ranks.n_holdout
    wanted = [(name, k) for k in cutoffs for name in names or METRICS]
    if ranks.values.keys() >= {*wanted}:
        return {key: ranks.values[key] for key in wanted}
    users = torch.arange(len(n_holdout), device=n_holdout.device)
    rows = torch.repeat_interleave(users, n_holdout, output_size=len(ranks.ranks))  # (E,)
    listed = ranks.ranks > 0  # (E,): other events count for nothing
    found, rows = ranks.ranks[listed], rows[listed]  # (F,) each
    n_found = torch.bincount(rows, minlength=len(n_holdout))  # (U,)
    for k in cutoffs:
        if not 1 <= k <= ranks.depth:
            raise ValueError(f"cutoff {k}: ranks are known from 1 to {ranks.depth}")
        hits = Hits(found.double(), (found <= k).double(), rows, n_found, n_holdout, k)
        for name in names or METRICS:
            if (name, k) not in ranks.values:
                ranks.values[name, k] = torch.where(n_holdout > 0, METRICS[name](hits), torch.nan)
    return {key: ranks.values[key] for key in wanted}


def mean_of(name: str, ranks: Ranks, cutoff: int) -> float:
    """Mean of one metric over the users with history and holdout; NaN without any."""
    values = per_user(ranks, [cutoff], [name])[name, cutoff]
    return float(values[ranks.warm].nanmean())


def summarise(
    ranks: Ranks,
    cutoffs: Sequence[int],
    scope: Scope,
    *,
    warm: Tensor | None = None,
    popular: Tensor | None = None,
    of: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Records of tables.METRICS without run_id; segment `all`: users with history, `cold_users`: the others.

    Both contain only users with holdout. `warm` (U,) defaults to users with a history. `popular` (I,), training
    interactions per item, defines the catalog; without it, or without lists, there is no coverage. `of` (U,): the user
    of each row of `ranks`, where these are events; intervals then resample users with all their events.
    """
    values = per_user(ranks, cutoffs)
    warm = ranks.warm if warm is None else warm.to(ranks.warm.device)
    has_holdout = ranks.n_holdout > 0
    records = []
    for segment, users in (("all", warm & has_holdout), ("cold_users", ~warm & has_holdout)):
        n = int(users.sum())
        if not n:
            continue
        base = scope.record(segment, n)
        matrix = torch.stack([v[users] for v in values.values()], 1)  # (n, M)
        if of is None:
            ends = intervals(matrix, scope.seed, resamples=scope.resamples).tolist()
        else:
            ends = intervals_by_user(matrix, of[users], scope.seed, resamples=scope.resamples).tolist()
        for (name, k), mean, (low, high) in zip(values, matrix.mean(0).tolist(), ends, strict=True):
            value = {"value": mean, "ci_low": low, "ci_high": high}
            records.append({**base, "metric": name, "cutoff": k, **value})
        if ranks.lists is not None and popular is not None:
            lists = ranks.lists.items[users.to(ranks.lists.items.device)]  # (n, depth)
            for k in cutoffs:
                value = {"value": coverage(lists[:, :k], popular), "ci_low": None, "ci_high": None}
                records.append({**base, "metric": "coverage", "cutoff": k, **value})
    return records
