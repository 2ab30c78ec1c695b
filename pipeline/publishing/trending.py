"""Trending items: those whose share of all interactions grew most against their own past, with an interval."""

import datetime as dt

import numpy as np
import polars as pl
from scipy.special import betaincinv

from pipeline.config.publishing import Trending
from pipeline.schemas import tables

PRECISION = (2.0, 200.0)
"""Bounds of the prior's precision: as how many interactions of each item the average growth counts. The upper one keeps
a real rise visible where all other items are steadier than chance."""
LEVEL = 0.95
"""Level of the interval."""


def trending(
    rows: pl.DataFrame, out: pl.Series, config: Trending, values: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, list[str]]:
    """Rows of tables.TRENDING_ITEMS but run_id, and why a window has none, in words.

    rows: user_id, item_id, timestamp of the interactions that count; out: ids of items that must not be listed; values:
    item_id and value of the attribute `config.by`.
    """
    parts, problems = [tables.TRENDING_ITEMS.without("run_id").empty()], []
    newest = rows["timestamp"].max()
    if not isinstance(newest, dt.datetime) or rows["timestamp"].null_count():
        return parts[0], ["trending_items is empty: the data set has no times"]
    for days in sorted(set(config.windows)):
        counts = windows(rows, newest, days, config.past)
        if not counts["past"].sum() or not counts["recent"].sum():
            problems.append(f"trending_items has no rows of {days} days: there is no interaction before them")
            continue
        grown = counts.with_columns(growth(counts["recent"], counts["past"]))
        grown = grown.filter(~pl.col("item_id").is_in(out.implode()), pl.col("growth") > 1)
        grown = grown.with_columns(pl.lit(days, pl.Int32).alias("window_days"))
        none = pl.lit(None, pl.String)
        parts.append(_ranked(grown.with_columns(attribute=none, value=none), config.top_n))
        if values is not None:
            own = grown.join(values, on="item_id").with_columns(pl.lit(config.by, pl.String).alias("attribute"))
            parts.append(_ranked(own, config.top_n))
    return pl.concat(parts), problems


def windows(rows: pl.DataFrame, newest: dt.datetime, days: int, past: int) -> pl.DataFrame:
    """item_id, and interactions in the last `days` (recent) and in the `past` such windows before them (past)."""
    start = newest - dt.timedelta(days=days)
    used = rows.filter(pl.col("timestamp") > start - dt.timedelta(days=days * past))
    is_recent = pl.col("timestamp") > start
    counted = used.group_by("item_id").agg(
        is_recent.sum().cast(pl.Int64).alias("recent"), (~is_recent).sum().cast(pl.Int64).alias("past")
    )
    return counted.with_columns(pl.col("item_id").cast(pl.String)).sort("item_id")


def growth(recent: pl.Series, past: pl.Series) -> list[pl.Series]:
    """Growth of each item, shrunk towards 1, and the ends of its interval: growth, ci_low, ci_high.

    Let x and b be the Poisson counts of an item in the recent and the past period, X and B those of all items. With
    gamma priors on both rates, x of x + b is beta-binomial with the mean q = X / (X + B), the share of an item that
    grows as all do. Its prior Beta(a, c) has that mean and the precision a + c = (1 - r) / r; r, the correlation within
    an item, is estimated from all items by moments, within PRECISION (Kleinman, "Proportions with
    extraneous variance", JASA 1973):
    r = (S / q(1 - q) - (N - 1)) / (n - Σ n_i² / n - (N - 1)), with S = Σ n_i (x_i / n_i - q)², n_i = x_i + b_i.
    Growth is the posterior odds (a + x) / (c + b), over the prior odds a / c: 2 means twice the item's share of all
    interactions. The interval has the 2.5 % and 97.5 % quantiles of the posterior, as the same ratio of odds.
    """
    x, b = recent.to_numpy().astype(float), past.to_numpy().astype(float)  # (I,) each
    n = x + b
    mean = x.sum() / n.sum()
    spread = (n * (x / n - mean) ** 2).sum() / (mean * (1 - mean)) - (len(n) - 1)
    room = n.sum() - (n**2).sum() / n.sum() - (len(n) - 1)
    correlation = spread / room if room > 0 else 0.0
    precision = (1 - correlation) / correlation if correlation > 0 else PRECISION[1]
    precision = min(max(precision, PRECISION[0]), PRECISION[1])
    a, c = mean * precision + x, (1 - mean) * precision + b  # (I,): the posterior
    odds = mean / (1 - mean)
    tail = (1 - LEVEL) / 2
    ends = [betaincinv(a, c, at) for at in (tail, 1 - tail)]
    low, high = (np.clip(end / np.maximum(1 - end, 1e-12) / odds, 0, None) for end in ends)
    found = {"growth": a / c / odds, "ci_low": low, "ci_high": high}
    return [pl.Series(name, values) for name, values in found.items()]


def _ranked(grown: pl.DataFrame, n: int) -> pl.DataFrame:
    """The first n of each value by the lower end of the interval, ties by item id."""
    ordered = grown.sort(["value", "ci_low", "item_id"], descending=[False, True, False], nulls_last=True)
    ranked = ordered.with_columns(
        (pl.int_range(pl.len()).over("value", mapping_strategy="group_to_rows") + 1).cast(pl.Int32).alias("rank")
    )
    return ranked.filter(pl.col("rank") <= n).select(list(tables.TRENDING_ITEMS.without("run_id").columns))
