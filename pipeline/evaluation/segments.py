"""Metrics for segments of users and items, and metrics beyond accuracy; protocol `full`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.core.bootstrap import intervals
from pipeline.core.seeding import seed_of
from pipeline.evaluation import beyond_accuracy as beyond
from pipeline.evaluation import ranking_metrics
from pipeline.evaluation.eval_task import EvalTask
from pipeline.evaluation.ranking_metrics import Scope
from pipeline.ranking.ranks import Ranks

Records = list[dict[str, Any]]
OF_SEGMENTS = ("hit_rate", "recall", "ndcg")
HEAD_DECILES = 5
"""Popularity deciles that form the head: items that together have half of all rows; the others are the tail."""
DIVERSITY_USERS = 10_000
"""Number of evenly spaced users that the mean is computed over."""


def by_segment(ranks: Ranks, task: EvalTask, cutoffs: Sequence[int], scope: Scope) -> Records:
    """Accuracy by activity of users and by popularity of held-out items, records of tables.METRICS.

    activity_decile_1 (the least active) … 10 divide the users with history by its number of rows; equal numbers stay
    together. head_items and tail_items count only those holdout events, over the users who have one.
    """
    records: Records = []
    values = ranking_metrics.per_user(ranks, cutoffs, OF_SEGMENTS)
    asked = ranks.warm & (ranks.n_holdout > 0)
    popular = task.popular
    deciles = activity_deciles(task.history.lengths.cpu(), asked.cpu()).to(asked.device)
    for number in range(1, 11):
        records += _means(values, deciles == number, f"activity_decile_{number}", scope)
    head = (popular > 0) & (beyond.popularity_deciles(popular) <= HEAD_DECILES)  # (I,)
    for segment, events in (("head_items", head[task.holdout.items]), ("tail_items", ~head[task.holdout.items])):
        part = _only(ranks, events.to(ranks.ranks.device))
        own = ranking_metrics.per_user(part, cutoffs, OF_SEGMENTS)
        records += _means(own, part.warm & (part.n_holdout > 0), segment, scope)
    return records


def of_new_items(ranks: Ranks, task: EvalTask, cutoffs: Sequence[int], scope: Scope, days: int) -> Records:
    """Accuracy for holdout events of items that the fit knew no row of, or that were new to it; with `[attributes]`.

    cold_items: without a row in the fit. new_items, of timed data: those, and items whose first row is at most so many
    `days` before the newest row of the fit. Only these events count, over the users who have one; lists are those of
    all items, so a model that can't serve them has 0.
    """
    records: Records = []
    if task.new is None:
        return records
    chosen = {"cold_items": task.new.unseen}
    if task.new.ages is not None:
        chosen["new_items"] = task.new.ages <= days
    for segment, items in chosen.items():
        part = _only(ranks, items[task.holdout.items].to(ranks.ranks.device))
        own = ranking_metrics.per_user(part, cutoffs, OF_SEGMENTS)
        records += _means(own, part.warm & (part.n_holdout > 0), segment, scope)
    return records


def beyond_accuracy(ranks: Ranks, task: EvalTask, cutoffs: Sequence[int], scope: Scope) -> Records:
    """Metrics beyond accuracy of the lists of users with history.

    They are Gini, novelty, diversity, popularity-debiased hit rate and exposure by popularity decile.
    """
    assert ranks.lists is not None
    asked = ranks.warm & (ranks.n_holdout > 0)
    n, seed, popular = int(asked.sum()), scope.seed, task.popular
    if not n:
        return []
    base = scope.record("all", n)
    lists = ranks.lists.items[asked]  # (n, depth)
    signatures = task.signatures(seed_of(seed, "diversity"))
    sample = lists[:: max(1, n // DIVERSITY_USERS)]
    weights = beyond.debiased_weights(task.holdout.items, popular)  # (E,)
    owners = popular if task.owners is None else task.owners  # (I,)
    means = {
        "novelty": _over_lists(beyond.novelty(lists, owners, len(task.fitted), cutoffs), seed),
        "diversity": _over_lists(beyond.diversity(sample, signatures, cutoffs), seed),
    }
    total = _by_user(ranks, weights)[asked]  # (n,)
    hit = torch.stack([_by_user(ranks, weights * _hits(ranks, k))[asked] for k in cutoffs], 1)  # (n, K)
    debiased = intervals(hit, seed, counts=total)  # (K, 2)
    records: Records = []
    for at, k in enumerate(cutoffs):
        shown = lists[:, :k]

        def add(metric: str, value: Any, ends: Tensor | None = None, k: int = k, **other: Any) -> None:
            low, high = ends[0].tolist() if ends is not None else (None, None)
            records.append(
                {**base, "metric": metric, "cutoff": k, "value": float(value), "ci_low": low, "ci_high": high, **other}
            )

        add("gini", beyond.gini(shown, popular))
        for name, of_cutoffs in means.items():
            if (found := of_cutoffs[at]) is not None:
                value, ends, counted = found
                add(name, value, ends, n=counted)
        add("hit_rate_debiased", hit[:, at].sum() / total.sum(), debiased[at : at + 1])
        for number, share in enumerate(beyond.exposure_by_decile(shown, popular), start=1):
            add("exposure", share, segment=f"popularity_decile_{number}")
    return records


def _over_lists(values: Tensor, seed: int) -> list[tuple[Tensor, Tensor, int] | None]:
    """Mean, interval (1, 2) and number of lists of each column of (N, K) values, lists with NaN left out; None: none.

    Columns of the same lists share their resamples.
    """
    found: list[tuple[Tensor, Tensor, int] | None] = [None] * values.shape[1]
    missing = values.isnan()  # (N, K)
    for at in range(values.shape[1]):
        same = [other for other in range(values.shape[1]) if torch.equal(missing[:, at], missing[:, other])]
        kept = ~missing[:, at]
        if at == same[0] and bool(kept.any()):
            ends = intervals(values[kept][:, same], seed)  # (J, 2)
            for place, other in enumerate(same):
                found[other] = values[kept, other].mean(), ends[place : place + 1], int(kept.sum())
    return found


def activity_deciles(lengths: Tensor, asked: Tensor) -> Tensor:
    """1 (the least active) … 10, (N,); 0 for users outside `asked`. Users of equal lengths stay together."""
    known = lengths[asked].double()
    if not len(known):
        return torch.zeros_like(lengths)
    edges = torch.quantile(_thinned(known), torch.arange(1, 10, dtype=torch.float64) / 10)
    return torch.where(asked, torch.searchsorted(edges, lengths.double()) + 1, 0)


def _thinned(values: Tensor, most: int = 1_000_000) -> Tensor:
    """An evenly spaced sample of sorted values: torch.quantile accepts at most 16 million."""
    return values.sort().values[:: max(1, len(values) // most)]


def _means(values: dict[tuple[str, int], Tensor], users: Tensor, segment: str, scope: Scope) -> Records:
    n = int(users.sum())
    if not n:
        return []
    matrix = torch.stack([v[users] for v in values.values()], 1)  # (n, M)
    ends = intervals(matrix, scope.seed).tolist()
    base = scope.record(segment, n)
    return [
        {**base, "metric": name, "cutoff": k, "value": mean, "ci_low": low, "ci_high": high}
        for (name, k), mean, (low, high) in zip(values, matrix.mean(0).tolist(), ends, strict=True)
    ]


def _only(ranks: Ranks, events: Tensor) -> Ranks:
    """The ranks of the selected events, (E,) bool; all users are kept."""
    before = torch.cat([ranks.offsets[:1], torch.cumsum(events.long(), 0)])  # (E + 1,)
    return Ranks(before[ranks.offsets], ranks.ranks[events], ranks.depth, ranks.warm)


def _hits(ranks: Ranks, k: int) -> Tensor:
    """1 where an event's rank is within k, (E,) float64."""
    return ((ranks.ranks > 0) & (ranks.ranks <= k)).double()


def _by_user(ranks: Ranks, values: Tensor) -> Tensor:
    """Sums of the events' values (E,) per user, (N,)."""
    users = torch.arange(len(ranks.n_holdout), device=values.device)
    rows = torch.repeat_interleave(users, ranks.n_holdout, output_size=len(values))  # (E,)
    return ranking_metrics.sums_by_user(values, rows, ranks.n_holdout)
