"""Trending items: those whose share of all interactions grew most against their own past, with an interval."""

import datetime as dt
import math

import numpy as np
import polars as pl
from scipy.special import betainc, betaincinv, betaln

from pipeline.config.publishing import Trending
from pipeline.schemas import tables

COARSEST, STEP, FINEST = 2.0, 4.0, 4.0
"""Precisions of the prior: as how many interactions the average growth counts. From the first on, each is the second
times the one before, up to the third times the interactions of the largest item, where no change is left."""
EM_STEPS, EM_TOLERANCE, BISECTIONS = 300, 1e-5, 30
LEVEL = 0.95
"""Level of the interval."""


def trending(
    rows: pl.DataFrame, out: pl.Series, config: Trending, values: pl.DataFrame | None = None, newest: object = None
) -> tuple[pl.DataFrame, list[str]]:
    """Rows of tables.TRENDING_ITEMS but run_id, and why a window has none, in words.

    rows: user_id, item_id, timestamp of the interactions that count; out: ids of items that must not be listed; values:
    item_id and value of the attribute `config.by`; newest: the time of the newest interaction, by default of `rows`.
    """
    parts, problems = [tables.TRENDING_ITEMS.without("run_id").empty()], []
    newest = rows["timestamp"].max() if newest is None else newest
    if not isinstance(newest, dt.datetime) or rows["timestamp"].null_count():
        return parts[0], ["trending_items is empty: the data set has no times"]
    for days in sorted(set(config.windows)):
        counts = windows(rows, newest, days, config.past)
        if not counts["past"].sum() or not counts["recent"].sum():
            where = "before them" if counts["recent"].sum() else "in them"
            problems.append(f"trending_items has no rows of {days} days: there is no interaction {where}")
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
    grows as all do. The prior is a mixture of Beta(q m, (1 - q) m) over a grid of precisions m, from items that change
    at random to items that stay as they are. Its weights are those of maximum likelihood over all items, by EM: so one
    riser among steady items is shrunk little, and chance is shrunk much (Stephens, "False discovery rates: a new deal",
    Biostatistics 2017, with beta-binomials in place of normals).
    Growth is the odds of the posterior mean of the share, over q / (1 - q): 2 means twice the item's share of all
    interactions. The interval has the 2.5 % and 97.5 % quantiles of the posterior, as the same ratio of odds.
    """
    counts = np.stack([recent.to_numpy(), past.to_numpy()], 1).astype(float)  # (I, 2)
    counts, of_item, times = np.unique(counts, axis=0, return_inverse=True, return_counts=True)  # (P, 2), (I,), (P,)
    x, b = counts[:, :1], counts[:, 1:]  # (P, 1) each
    mean = float((times @ x).sum() / (times @ counts).sum())
    highest = math.ceil(math.log(max(counts.sum(1).max(), 2) * FINEST / COARSEST, STEP))
    precision = COARSEST * STEP ** np.arange(highest + 1.0)  # (M,)
    a, c = mean * precision, (1 - mean) * precision  # (M,): the priors
    shares = _posterior_shares(betaln(a + x, c + b) - betaln(a, c), times)  # (P, M)
    a, c = a + x, c + b  # (P, M): the posteriors
    expected = (shares * a / (a + c)).sum(1)  # (P,)
    low, high = (_quantile(a, c, shares, at) for at in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))  # (P,) each
    odds = {"growth": np.clip(expected, low, high), "ci_low": low, "ci_high": high}
    ratios = {name: share / np.maximum(1 - share, 1e-12) * (1 - mean) / mean for name, share in odds.items()}
    return [pl.Series(name, values[of_item.ravel()]) for name, values in ratios.items()]


def _posterior_shares(log_likelihood: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Share of each component in the posterior of each row, (P, M), for the weights of maximum likelihood, by EM.

    log_likelihood: (P, M); times: how many items a row stands for, (P,).
    """
    likelihood = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))  # (P, M)
    weights = np.full(likelihood.shape[1], 1 / likelihood.shape[1])  # (M,)
    for _ in range(EM_STEPS):
        joint = weights * likelihood  # (P, M)
        updated = times @ (joint / joint.sum(1, keepdims=True)) / times.sum()
        done = np.abs(updated - weights).max() < EM_TOLERANCE
        weights = updated
        if done:
            break
    joint = weights * likelihood
    return joint / joint.sum(1, keepdims=True)


def _quantile(a: np.ndarray, c: np.ndarray, shares: np.ndarray, at: float) -> np.ndarray:
    """The quantile of mixtures of Beta(a, c), (P, M) each, by bisection between those of the components, (P,)."""
    ends = np.where(shares > 1e-6, betaincinv(a, c, at), np.nan)  # (P, M)
    low, high = np.nanmin(ends, 1), np.nanmax(ends, 1)  # (P,) each
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_below = (shares * betainc(a, c, middle[:, None])).sum(1) < at
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    return (low + high) / 2


def _ranked(grown: pl.DataFrame, n: int) -> pl.DataFrame:
    """The first n of each value by the lower end of the interval, ties by item id."""
    ordered = grown.sort(["value", "ci_low", "item_id"], descending=[False, True, False], nulls_last=True)
    ranked = ordered.with_columns(
        (pl.int_range(pl.len()).over("value", mapping_strategy="group_to_rows") + 1).cast(pl.Int32).alias("rank")
    )
    return ranked.filter(pl.col("rank") <= n).select(list(tables.TRENDING_ITEMS.without("run_id").columns))
