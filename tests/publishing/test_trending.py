"""Trending items: planted growth is found, chance is not, and intervals hold what they promise."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from pipeline.config.publishing import Trending
from pipeline.publishing.trending import growth, trending

NEWEST = dt.datetime(2026, 3, 1)
NONE = pl.Series([], dtype=pl.String)


def log(counts: dict[str, tuple[int, int]]) -> pl.DataFrame:
    """Rows of items with so many interactions in the last 7 days, and in the 28 days before."""
    rows = []
    for item, (recent, past) in counts.items():
        rows += [("u", item, NEWEST - dt.timedelta(days=7 * (n + 0.5) / recent)) for n in range(recent)]
        rows += [("u", item, NEWEST - dt.timedelta(days=7 + 28 * (n + 0.5) / past)) for n in range(past)]
    rows.append(("u", "last", NEWEST))
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us")},
                        orient="row")  # fmt: skip


STEADY = {f"s{n:03d}": (10 + n % 5, 40 + 3 * (n % 7)) for n in range(100)}


def test_a_planted_riser_is_first_and_chance_is_shrunk():
    counts = STEADY | {"riser": (90, 80), "big": (420, 800), "lucky": (3, 0), "fading": (1, 90)}
    found, problems = trending(log(counts), NONE, Trending())
    assert problems == [] and found["item_id"][0] == "riser"
    rows = {row["item_id"]: row for row in found.to_dicts()}
    mean = sum(r for r, _ in counts.values()) / sum(p for _, p in counts.values())
    assert 0.7 * 90 / 80 / mean < rows["riser"]["growth"] < 90 / 80 / mean, "shrunk, since most items are steady"
    assert rows["riser"]["ci_low"] > 2
    assert rows["big"]["ci_low"] > 1 and rows["big"]["rank"] < rows.get("lucky", {"rank": 99})["rank"]
    assert "fading" not in rows and all(row["ci_low"] < 1.5 for item, row in rows.items() if item.startswith("s"))
    assert rows["riser"]["recent"] == 90 and rows["riser"]["past"] == 80


def test_the_recent_days_end_with_the_newest_of_all_interactions():
    """Views of today belong to a window in which nothing was bought; growth is that of what was."""
    rows = log(STEADY | {"riser": (90, 80)})
    later = NEWEST + dt.timedelta(days=3)
    found, _ = trending(rows, NONE, Trending(), newest=later)
    riser = found.filter(item_id="riser").row(0, named=True)
    since = later - dt.timedelta(days=7)
    assert riser["recent"] == rows.filter(pl.col("timestamp") > since, item_id="riser").height < 90
    found, problems = trending(rows, NONE, Trending(), newest=NEWEST + dt.timedelta(days=8))
    assert found.is_empty() and "no rows of 7 days: there is no interaction in them" in problems[0]


def test_an_item_that_grows_as_the_shop_does_has_growth_1():
    recent, past = pl.Series([200] * 50), pl.Series([20] * 50)
    values, low, high = growth(recent, past)
    assert values.to_numpy() == pytest.approx(1) and (low < 1).all() and (high > 1).all()


def risers(draw: np.random.Generator, n: int) -> np.ndarray:
    """Growth of n items: one of a hundred grows, the others stay as they are."""
    return np.where(np.arange(n) < n // 100, draw.uniform(3, 8, n), 1.0)


@pytest.mark.parametrize(
    ("shape", "least", "most"), [(1.5, 0.92, 0.98), (8.0, 0.92, 0.98), (400.0, 0.92, 0.99), (None, 0.95, 1.0)]
)
def test_intervals_cover_the_true_growth(shape, least, most):
    """Items with gamma rates, Poisson counts: 95 % intervals hold about that many true values, however items change.

    shape: of gamma growth; None: `risers`. So do the intervals of those that are ranked first.
    """
    draw = np.random.default_rng(3)
    rate = draw.gamma(1.0, 30.0, 2000)
    true = risers(draw, 2000) if shape is None else draw.gamma(shape, 1 / shape, 2000)
    recent, past = draw.poisson(rate * true), draw.poisson(4 * rate)
    seen = recent + past > 0
    values, low, high = (s.to_numpy() for s in growth(pl.Series(recent[seen]), pl.Series(past[seen])))
    relative = true[seen] / ((rate * true).sum() / rate.sum())
    covered = (low <= relative) & (relative <= high)
    assert least <= covered.mean() <= most
    assert covered[np.argsort(-low)[:60]].mean() >= 0.85
    raw = np.maximum(recent[seen], 0.5) / np.maximum(past[seen] / 4, 0.125)
    error = np.abs(np.log(values) - np.log(relative)).mean()
    assert error < 0.9 * np.abs(np.log(raw) - np.log(true[seen])).mean(), "shrunk estimates are nearer"
    assert ((low <= values) & (values <= high)).all()


def test_a_few_risers_among_steady_items_are_found_and_nothing_else():
    """A prior of one precision would have to fit both: it shrinks the risers, or lets chance rise."""
    draw = np.random.default_rng(5)
    rate, true = draw.gamma(2.0, 20.0, 2000), risers(draw, 2000)
    _, low, high = (
        s.to_numpy() for s in growth(pl.Series(draw.poisson(rate * true)), pl.Series(draw.poisson(4 * rate)))
    )
    relative = true / ((rate * true).sum() / rate.sum())
    assert ((low <= relative) & (relative <= high))[true > 1].mean() >= 0.9
    assert (low[true > 1] > 1).mean() > 0.8 and not (low[true == 1] > 1).any()


def test_lists_by_value_windows_and_rules():
    values = pl.DataFrame({"item_id": ["riser", "other", "other", "s000"], "value": ["x", "x", "y", "y"]})
    counts = STEADY | {"riser": (90, 80), "other": (60, 80)}
    config = Trending(windows=[28, 7], by="kind", top_n=2, past=1)
    found, _ = trending(log(counts), pl.Series(["riser"]), config, values)
    assert "riser" not in set(found["item_id"])
    week = found.filter(window_days=7)
    of_value = {(value, item) for value, item in week.filter(attribute="kind").select("value", "item_id").rows()}
    assert {("x", "other"), ("y", "other")} <= of_value
    overall = week.filter(pl.col("attribute").is_null())
    assert overall["item_id"][0] == "other" and overall["rank"].to_list() == [1, 2]
    for _, rows in found.group_by("window_days", "attribute", "value", maintain_order=True):
        assert rows["rank"].to_list() == list(range(1, rows.height + 1)) and rows.height <= 2


def test_without_times_or_a_past_the_reason_is_given():
    rows = log({"a": (5, 0)})
    found, problems = trending(rows, NONE, Trending())
    assert found.is_empty() and "no rows of 7 days: there is no interaction before them" in problems[0]
    untimed = rows.with_columns(timestamp=pl.lit(None, pl.Datetime("us")))
    found, problems = trending(untimed, NONE, Trending())
    assert found.is_empty() and problems == ["trending_items is empty: the data set has no times"]
