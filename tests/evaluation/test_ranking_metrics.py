import math
import statistics

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from pipeline.core import bootstrap
from pipeline.core.bootstrap import intervals, paired_difference
from pipeline.core.seeding import generator
from pipeline.evaluation import ranking_metrics
from pipeline.evaluation.ranking_metrics import Scope, intervals_by_user
from pipeline.evaluation.rating_metrics import RatedRows, baselines, rating_errors
from pipeline.ranking.ranks import Lists, Ranks
from pipeline.schemas import tables
from pipeline.training.interactions import Interactions

SCOPE = Scope("m", "test")


def ranks_of(rows: list[list[int]], depth: int, warm: list[bool] | None = None, lists: Lists | None = None) -> Ranks:
    offsets = torch.cumsum(torch.tensor([0, *map(len, rows)]), 0)
    flat = torch.tensor([r for row in rows for r in row], dtype=torch.long)
    return Ranks(offsets, flat, depth, torch.tensor(warm or [True] * len(rows)), lists)


def value(name: str, row: list[int], k: int) -> float:
    return ranking_metrics.per_user(ranks_of([row], max(k, 20)), [k])[name, k].item()


# ── by hand ──


@pytest.mark.parametrize(
    ("name", "row", "k", "expected"),
    [
        ("hit_rate", [0, 7], 5, 0.0),
        ("hit_rate", [2, 7, 1], 5, 1.0),
        ("recall", [1, 4, 0, 9], 5, 2 / 4),
        ("recall", [1, 2, 3, 4, 0, 0], 3, 3 / 6),
        ("precision", [1, 4, 0, 9], 5, 2 / 5),
        ("precision", [1], 10, 1 / 10),
        ("mrr", [4, 2, 0], 5, 1 / 2),
        ("mrr", [6], 5, 0.0),
        ("ndcg", [1], 10, 1.0),
        ("ndcg", [3], 10, 1 / 2),
        ("ndcg", [1, 3], 5, (1 + 1 / 2) / (1 + 1 / math.log2(3))),
        ("ndcg", [2, 1, 0], 2, 1.0),
        ("map", [3, 1], 5, (1 / 1 + 2 / 3) / 2),
        ("map", [4, 0, 2, 0], 3, (1 / 2) / 3),
        ("map", [2, 1, 0], 2, 1.0),
    ],
)
def test_metrics_by_hand(name, row, k, expected):
    assert value(name, row, k) == pytest.approx(expected, abs=1e-12)


# ── against a slow reference ──


def slow(name: str, row: list[int], k: int) -> float:
    """From a list of relevances, place by place."""
    relevant = [place in row for place in range(1, k + 1)]
    n, hits = len(row), sum(relevant)
    if name == "hit_rate":
        return float(any(relevant))
    if name == "recall":
        return hits / n
    if name == "precision":
        return hits / k
    if name == "mrr":
        return next((1 / place for place, yes in enumerate(relevant, 1) if yes), 0.0)
    if name == "ndcg":
        gain = sum(yes / math.log2(place + 1) for place, yes in enumerate(relevant, 1))
        return gain / sum(1 / math.log2(place + 1) for place in range(1, min(k, n) + 1))
    if name == "map":
        precisions = [sum(relevant[:place]) / place for place, yes in enumerate(relevant, 1) if yes]
        return sum(precisions) / min(k, n)
    raise AssertionError(f"no reference for {name}: add one")


def random_rows(rng: np.random.Generator, n: int, depth: int) -> list[list[int]]:
    rows = []
    for _ in range(n):
        held = rng.permutation(np.arange(1, 3 * depth))[: rng.integers(0, 2 * depth)]
        rows.append(np.where(held <= depth, held, 0).tolist())
    return rows


@pytest.mark.parametrize("seed", range(10))
def test_metrics_equal_a_slow_reference_and_keep_their_bounds(seed):
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 21))
    rows = random_rows(rng, 30, depth)
    cutoffs = list(range(1, depth + 1))
    values = ranking_metrics.per_user(ranks_of(rows, depth), cutoffs)
    assert {name for name, _ in values} == set(ranking_metrics.METRICS)
    for (name, k), of_users in values.items():
        expected = torch.tensor([slow(name, row, k) if row else math.nan for row in rows], dtype=torch.float64)
        torch.testing.assert_close(of_users, expected, equal_nan=True, rtol=1e-12, atol=1e-12)
        kept = of_users[~of_users.isnan()]
        assert (kept >= 0).all() and (kept <= 1 + 1e-12).all()
        if name in ("hit_rate", "recall", "mrr") and k > 1:
            before = values[name, k - 1]
            assert (kept >= before[~before.isnan()]).all()


def test_the_order_of_users_and_events_does_not_matter():
    rng = np.random.default_rng(0)
    rows = random_rows(rng, 20, 10)
    values = ranking_metrics.per_user(ranks_of(rows, 10), [3, 10])
    order = rng.permutation(20)
    shuffled = ranking_metrics.per_user(ranks_of([rng.permutation(rows[i]).tolist() for i in order], 10), [3, 10])
    for key, of_users in values.items():
        torch.testing.assert_close(shuffled[key], of_users[order], equal_nan=True)


def test_a_cutoff_below_the_known_ranks_raises():
    with pytest.raises(ValueError, match="cutoff 11"):
        ranking_metrics.per_user(ranks_of([[1]], 10), [11])


def test_every_metric_says_which_way_is_better():
    for name in [*ranking_metrics.METRICS, "coverage"]:
        assert ranking_metrics.higher_is_better(name) and ranking_metrics.sign_of(name) == 1
    assert ranking_metrics.sign_of("gini") == ranking_metrics.sign_of("mae_scaled") == -1
    assert not ranking_metrics.higher_is_better("rmse") and not ranking_metrics.higher_is_better("mae")
    with pytest.raises(KeyError):
        ranking_metrics.higher_is_better("unheard_of")


# ── means ──


def lists_of(items: list[list[int]]) -> Lists:
    ids = torch.tensor(items)
    return Lists(ids, torch.zeros(ids.shape), torch.zeros(len(ids), dtype=torch.bool))


def test_coverage_counts_items_of_the_catalog_only():
    popular = torch.tensor([3.0, 1.0, 0.0, 2.0, 5.0])  # item 2 is not in the catalog of 4
    assert ranking_metrics.coverage(torch.tensor([[0, 2], [0, 3], [-1, -1]]), popular) == 2 / 4
    assert ranking_metrics.coverage(torch.tensor([[-1]]), torch.zeros(5)) == 0.0


def test_summary_keeps_cold_users_and_users_without_holdout_apart():
    lists = lists_of([[0, 1], [1, 0], [2, 3], [4, 4]])
    ranks = ranks_of([[1, 0], [], [2], [1]], 2, [True, True, False, True], lists)
    records = ranking_metrics.summarise(ranks, [1, 2], Scope("ials", "test", seed=1), popular=torch.ones(5))
    frame = pl.DataFrame(records).with_columns(run_id=pl.lit("r"), n=pl.col("n").cast(pl.Int64))
    tables.METRICS.check(frame.cast({"cutoff": pl.Int32}))

    def cell(metric: str, k: int, segment: str) -> tuple[float, int]:
        row = frame.filter(metric=metric, cutoff=k, segment=segment)
        return row["value"].item(), row["n"].item()

    assert cell("recall", 1, "all") == ((1 / 2 + 1) / 2, 2)
    assert cell("hit_rate", 1, "cold_users") == (0.0, 1)
    assert cell("hit_rate", 2, "cold_users") == (1.0, 1)
    assert cell("coverage", 1, "all") == (2 / 5, 2)  # user 1 has a list, but nothing to find
    assert cell("coverage", 2, "all") == (3 / 5, 2)
    assert ranking_metrics.mean_of("recall", ranks, 1) == (1 / 2 + 1) / 2
    everybody = ranking_metrics.summarise(ranks, [1], SCOPE, warm=torch.ones(4, dtype=torch.bool))
    assert {r["segment"] for r in everybody} == {"all"} and {r["n"] for r in everybody} == {3}
    assert "coverage" not in {r["metric"] for r in everybody}


def test_nobody_to_measure_gives_no_records():
    assert ranking_metrics.summarise(ranks_of([[], []], 5), [5], SCOPE) == []
    assert math.isnan(ranking_metrics.mean_of("ndcg", ranks_of([[1]], 5, [False]), 5))


# ── intervals ──


def test_intervals_are_those_of_the_normal_approximation_for_many_users():
    values = torch.from_numpy(np.random.default_rng(0).random((20_000, 2)) ** 2)
    low, high = intervals(values, seed=5)[:, 0], intervals(values, seed=5)[:, 1]
    half = 1.96 * values.std(0) / math.sqrt(len(values))
    torch.testing.assert_close(high - low, 2 * half, rtol=0.1, atol=0)
    torch.testing.assert_close((high + low) / 2, values.mean(0), rtol=0, atol=float(half.max()) / 5)
    assert torch.equal(intervals(values, 5), intervals(values, 5))
    assert not torch.equal(intervals(values, 5), intervals(values, 6))


def test_equal_values_have_no_spread():
    assert intervals(torch.full((5, 1), 0.25), 0).tolist() == [[0.25, 0.25]]
    assert intervals(torch.tensor([[0.5]]), 0).tolist() == [[0.5, 0.5]]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = intervals(torch.from_numpy(rng.random((100, 1))), seed=trial, resamples=400)[0].tolist()
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 199  # 95 % +- three standard errors


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e4])
def test_intervals_of_weighted_means_do_not_depend_on_the_unit_of_the_weights(scale):
    """Weights against popularity sum to far less than 1 where held-out items are popular."""
    weights = torch.tensor(generator(5, "weights").random(60))
    hits = (weights * torch.tensor(generator(5, "hits").random(60) < 0.3)).unsqueeze(1)
    scaled = intervals(scale * hits, 1, counts=scale * weights)
    torch.testing.assert_close(scaled, intervals(hits * 1e6, 1, counts=weights * 1e6))


def test_the_events_of_a_user_are_drawn_together():
    """As if each user had the mean of the events, with their number as weight; one event each: as `intervals`."""
    rng = generator(3, "clustered")
    level = torch.tensor(rng.random((300, 2)))  # (U, M): users differ, their events don't
    times = torch.tensor(rng.integers(1, 6, 300))
    users = torch.repeat_interleave(torch.arange(300) * 7, times)
    rows = level.repeat_interleave(times, 0)  # (N, M)
    found = intervals_by_user(rows, users, 1)
    assert torch.allclose(found, intervals(level * times[:, None], 1, counts=times))
    shuffled = torch.randperm(len(users))
    assert torch.allclose(intervals_by_user(rows[shuffled], users[shuffled], 1), found)
    assert torch.equal(intervals_by_user(level, torch.arange(300), 1), intervals(level, 1))
    width, of_rows = (ends.diff(dim=1) for ends in (found, intervals(rows, 1)))
    assert (width > 1.4 * of_rows).all(), "events of one user are one piece of evidence"


def test_a_summary_of_events_has_their_means_and_the_intervals_of_users():
    ranks = ranks_of([[1], [1], [1], [9], [9], [2]], 10)
    plain = ranking_metrics.summarise(ranks, [5], SCOPE)
    users = torch.tensor([4, 4, 4, 6, 6, 8])
    of_users = ranking_metrics.summarise(ranks, [5], SCOPE, of=users)
    for event, user in zip(plain, of_users, strict=True):
        assert (event["value"], event["n"], event["metric"]) == (user["value"], user["n"], user["metric"])
    values = ranking_metrics.per_user(ranks, [5], ["ndcg"])["ndcg", 5].unsqueeze(1)
    low, high = intervals_by_user(values, users, SCOPE.seed)[0].tolist()
    ndcg = next(record for record in of_users if record["metric"] == "ndcg")
    assert (ndcg["ci_low"], ndcg["ci_high"]) == (low, high)


def test_paired_difference():
    rng = np.random.default_rng(2)
    a = torch.from_numpy(rng.random(2000))
    noise = torch.from_numpy(rng.normal(0, 0.05, 2000))
    better = paired_difference(a + 0.01 + noise, a)
    assert better.value == pytest.approx(0.01, abs=0.005) and 0 < better.ci_low < better.value < better.ci_high
    assert better.p_value < 0.01 and better.n == 2000
    same = paired_difference(a, a)
    assert (same.value, same.ci_low, same.ci_high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    swapped = paired_difference(a, a + 0.01 + noise)
    assert swapped.value == -better.value and swapped.p_value == better.p_value
    with_gap = a.clone()
    with_gap[:500] = math.nan
    assert paired_difference(with_gap, a).n == 1500


def test_pure_noise_is_rarely_a_difference():
    rng = np.random.default_rng(3)
    p = [paired_difference(torch.from_numpy(rng.normal(size=80)), torch.zeros(80), t, 300).p_value for t in range(200)]
    assert 0 < sum(x < 0.05 for x in p) <= 21 and statistics.median(p) == pytest.approx(0.5, abs=0.15)


def test_what_cannot_be_paired_raises():
    with pytest.raises(ValueError, match="same users"):
        paired_difference(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="no user"):
        paired_difference(torch.tensor([math.nan]), torch.zeros(1))


# ── rating errors ──


def as_dict(records: list[dict]) -> dict[str, float]:
    return {r["metric"]: r["value"] for r in records}


def test_rating_errors_by_hand():
    predicted, actual = torch.tensor([3.0, 4.0, 2.0]), torch.tensor([4.0, 4.0, 0.0])
    simple = {"mean": torch.tensor([2.0, 2.0, 2.0])}
    records = rating_errors(RatedRows(predicted, actual, torch.tensor([0, 0, 1]), simple), SCOPE)
    values = as_dict(records)
    assert values["rmse"] == pytest.approx(math.sqrt(5 / 3)) and values["mae"] == pytest.approx(1.0)
    assert values["target_variance"] == pytest.approx(32 / 9)
    assert values["rmse_mean"] == pytest.approx(2.0) and values["mae_mean"] == pytest.approx(2.0)
    assert all(r["n"] == 3 and r["cutoff"] == 0 and r["protocol"] == "error" for r in records)
    assert all(r["ci_low"] <= r["value"] <= r["ci_high"] for r in records if r["ci_low"] is not None)


def test_the_interval_of_errors_resamples_users():
    rng = np.random.default_rng(4)
    off = torch.from_numpy(np.repeat(rng.random(100), 20))  # the rows of a user are all alike

    def width(users: Tensor) -> float:
        record = next(r for r in rating_errors(RatedRows(off, torch.zeros(2000), users), SCOPE) if r["metric"] == "mae")
        return record["ci_high"] - record["ci_low"]

    ratio = width(torch.arange(100).repeat_interleave(20)) / width(torch.arange(2000))
    assert ratio == pytest.approx(math.sqrt(20), rel=0.2)


def test_rating_baselines():
    train = Interactions(
        torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 3, 3, ratings=torch.tensor([5.0, 1.0, math.nan])
    )
    found = baselines(train, torch.tensor([0, 2, -1, 0]), torch.tensor([0, 0, 2, 2]))
    b_0 = 2 / 26  # (5 - 3) / (25 + 1); item 1 has the opposite, so user 0 has none
    assert found["mean"].tolist() == [3.0] * 4
    assert found["bias"].tolist() == pytest.approx([3 + b_0, 3 + b_0, 3.0, 3.0])


def test_ratings_that_are_not_finite_raise_and_no_rows_give_no_records():
    with pytest.raises(ValueError, match="1 predicted"):
        rating_errors(RatedRows(torch.tensor([math.nan]), torch.ones(1), torch.zeros(1)), SCOPE)
    nothing = torch.zeros(0)
    assert rating_errors(RatedRows(nothing, nothing, nothing.long()), SCOPE) == []


@pytest.mark.parametrize("resamples", [1000, 7])
@pytest.mark.parametrize("n", [5, 4096, 4099])
def test_how_often_users_are_drawn_is_numpys_stream_kept_or_not(n: int, resamples: int):
    rng, cpu = generator(3, "bootstrap", n), torch.device("cpu")
    expected = [
        bootstrap._POISSON[rng.integers(0, 1 << 16, (resamples, min(4096, n - start)), dtype=np.uint16)]
        for start in range(0, n, 4096)
    ]
    for drawn in (bootstrap._drawn(3, n, resamples, cpu), bootstrap._CACHE.get(3, n, resamples, cpu)):
        assert all(np.array_equal(got.double(), right) for got, right in zip(drawn, expected, strict=True))


def test_draws_are_kept_within_a_budget_and_not_by_turns(monkeypatch: pytest.MonkeyPatch):
    cache, cpu, made = bootstrap._Cache(), torch.device("cpu"), []
    drawn = bootstrap._drawn
    monkeypatch.setattr(bootstrap, "_drawn", lambda *args: made.append(args[1]) or drawn(*args))
    monkeypatch.setattr(bootstrap, "KEPT", 100)
    monkeypatch.setattr(bootstrap, "RECENT", 5)
    for _ in range(2):
        for n in (4, 5, 3, 20):  # 4 and 5 fit at 10 resamples; then there is no room for 3, and never for 20
            assert sum(part.shape[1] for part in cache.get(1, n, 10, cpu)) == n
    assert made == [4, 5, 3, 20, 3, 20]
    for _ in range(3):
        cache.get(1, 5, 10, cpu)
    cache.get(1, 3, 10, cpu)  # 4 has not been used lately
    cache.get(1, 3, 10, cpu)
    assert made[6:] == [3] and [key[1] for key in cache.held] == [5, 3]


def test_sums_by_user_in_segments_are_those_by_index():
    """As CUDA has them; users without an event in front, between and behind."""
    lengths = torch.tensor([0, 2, 0, 3, 1, 0])
    values = torch.rand(6, dtype=torch.float64)
    rows = torch.repeat_interleave(torch.arange(6), lengths)
    segments = torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    torch.testing.assert_close(segments, ranking_metrics.sums_by_user(values, rows, lengths))


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_records_on_cuda_are_those_of_the_cpu():
    rng = np.random.default_rng(0)
    here = ranks_of([rng.integers(0, 12, rng.integers(0, 5)).tolist() for _ in range(300)], 10)
    there = Ranks(here.offsets.cuda(), here.ranks.cuda(), here.depth, here.warm.cuda())
    ours, theirs = (ranking_metrics.summarise(ranks, [3, 10], SCOPE) for ranks in (there, here))
    assert len(ours) == len(theirs) > 0
    for got, expected in zip(ours, theirs, strict=True):
        assert got == pytest.approx(expected, abs=1e-9)
