"""Figures of parts: they cover everybody once, and agree with the whole."""

from dataclasses import replace

import pytest
import torch

from pipeline.evaluation import ranking_metrics, segments
from pipeline.evaluation.eval_task import EvalTask
from pipeline.evaluation.ranking_metrics import Scope
from pipeline.models import FitContext
from pipeline.models.ease import Ease, EaseConfig
from pipeline.ranking.ranks import Ranks, holdout_ranks
from pipeline.training.interactions import History, Interactions

N_USERS, N_ITEMS, CUTOFFS = 200, 60, (5, 10)
SCOPE = Scope("ease", "test", seed=1)


@pytest.fixture(scope="module")
def case():
    """A skewed matrix, one or two items held out of most users."""
    rng = torch.Generator().manual_seed(3)
    liking = torch.rand(N_USERS, N_ITEMS, generator=rng) < torch.linspace(0.6, 0.02, N_ITEMS)
    liking[:, 0] |= ~liking.any(1)
    rows, held = [], []
    for user in range(N_USERS):
        items = liking[user].nonzero().flatten()
        items = items[torch.randperm(len(items), generator=rng)].tolist()
        n = min(user % 3, len(items) - 1)
        held.append(items[:n])
        rows.append(items[n:])
    history, holdout = History.of_lists(rows, N_ITEMS), History.of_lists(held, N_ITEMS)
    train = Interactions(history.rows, history.items, N_USERS, N_ITEMS)
    model = Ease(EaseConfig(l2=5), N_USERS, N_ITEMS)
    model.fit(train, FitContext())
    ranks = holdout_ranks(model, torch.arange(N_USERS), history, history, holdout, 10)
    return ranks, EvalTask(torch.arange(N_USERS), history, history, holdout, train.item_counts(), history)


def value(records, metric, cutoff, segment="all"):
    (record,) = [r for r in records if (r["metric"], r["cutoff"], r["segment"]) == (metric, cutoff, segment)]
    return record


def test_deciles_of_activity_hold_every_user_once(case):
    ranks, task = case
    found = segments.by_segment(ranks, task, CUTOFFS, SCOPE)
    whole = ranking_metrics.summarise(ranks, CUTOFFS, SCOPE, popular=task.popular)
    for metric in segments.OF_SEGMENTS:
        parts = [
            r for r in found if r["metric"] == metric and r["cutoff"] == 10 and r["segment"].startswith("activity")
        ]
        total = value(whole, metric, 10)
        assert sum(r["n"] for r in parts) == total["n"]
        assert sum(r["n"] * r["value"] for r in parts) / total["n"] == pytest.approx(total["value"])
        assert all(r["ci_low"] <= r["value"] <= r["ci_high"] for r in parts)


def test_the_least_active_are_the_first(case):
    ranks, task = case
    history = task.history
    asked = ranks.n_holdout > 0
    deciles = segments.activity_deciles(history.lengths, asked)
    assert (deciles[~asked] == 0).all() and set(deciles[asked].tolist()) <= set(range(1, 11))
    assert history.lengths[deciles == 1].max() <= history.lengths[deciles == 10].min()


def test_head_and_tail_split_the_holdout(case):
    ranks, task = case
    found = segments.by_segment(ranks, task, CUTOFFS, SCOPE)
    head, tail = (value(found, "recall", 10, f"{part}_items") for part in ("head", "tail"))
    assert head["value"] > tail["value"]  # common items are easier
    assert max(head["n"], tail["n"]) <= int((ranks.n_holdout > 0).sum()) < head["n"] + tail["n"]


def test_only_some_events_by_hand():
    ranks = Ranks(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 4, 2]), 10, torch.ones(3, dtype=torch.bool))
    part = segments._only(ranks, torch.tensor([False, True, True]))
    assert part.offsets.tolist() == [0, 1, 1, 2] and part.ranks.tolist() == [4, 2]


def test_beyond_accuracy_has_every_figure_with_its_direction(case):
    ranks, task = case
    found = segments.beyond_accuracy(ranks, task, CUTOFFS, SCOPE)
    assert {r["metric"] for r in found} == {"gini", "novelty", "diversity", "hit_rate_debiased", "exposure"}
    for metric in ("gini", "novelty", "diversity", "hit_rate_debiased"):
        ranking_metrics.higher_is_better(metric)
    shares = [r["value"] for r in found if r["metric"] == "exposure" and r["cutoff"] == 10]
    assert len(shares) == 10 and sum(shares) == pytest.approx(1)
    assert 0 < value(found, "gini", 10)["value"] < 1


def test_debiased_hits_of_equal_items_are_the_plain_share(case):
    ranks, task = case
    even = replace(task, popular=torch.ones(N_ITEMS))
    found = segments.beyond_accuracy(ranks, even, CUTOFFS, SCOPE)
    hits = ((ranks.ranks > 0) & (ranks.ranks <= 10)).double().mean()
    assert value(found, "hit_rate_debiased", 10)["value"] == pytest.approx(float(hits))


def test_debiased_hits_favour_rare_items(case):
    ranks, task = case
    found = segments.beyond_accuracy(ranks, task, CUTOFFS, SCOPE)
    plain = ((ranks.ranks > 0) & (ranks.ranks <= 10)).double().mean()
    debiased = value(found, "hit_rate_debiased", 10)
    assert debiased["value"] < float(plain)  # the model is better at common ones
    asked = torch.repeat_interleave(ranks.warm, ranks.n_holdout)  # (E,)
    weights = torch.where(asked, task.popular[task.holdout.items].double() ** -0.75, 0)  # (E,)
    hit = (ranks.ranks > 0) & (ranks.ranks <= 10)  # (E,)
    assert debiased["value"] == pytest.approx(float((weights * hit).sum() / weights.sum()))
    assert debiased["ci_low"] < debiased["value"] < debiased["ci_high"]


def test_nobody_asked_has_no_figures(case):
    _, task = case
    none = History.of_lists([[] for _ in range(N_USERS)], N_ITEMS)
    ranks = Ranks(none.offsets, none.items, 10, torch.ones(N_USERS, dtype=torch.bool))
    assert segments.by_segment(ranks, replace(task, holdout=none), CUTOFFS, SCOPE) == []
