"""A profile of a data set as small JSON: for plots and reports, never for fits.

It has no user ids, since it is shown in places that outlive the tables.
"""

import math
from typing import Any

import numpy as np
import polars as pl

from pipeline.publishing import item_tables

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
FEW_VALUES = 20  # distinct values up to which each has a bar of its own
N_BINS = 40
WIDE = 100  # largest / smallest value from which bins grow with the value
TOP_SHARES = (0.01, 0.1, 0.5)


def columns(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Name, nulls, share of nulls and distinct values of each column."""
    nulls = rows.null_count().row(0, named=True)
    return [
        {"column": name, "nulls": nulls[name], "null_share": nulls[name] / max(1, rows.height),
         "distinct": rows[name].drop_nulls().n_unique()}
        for name in rows.columns
    ]  # fmt: skip


def sample(rows: pl.DataFrame, titles: pl.DataFrame, n: int = 5) -> list[dict[str, Any]]:
    """`n` rows, evenly spaced over the source, with titles; user ids are replaced by numbers."""
    places = np.unique(np.linspace(0, rows.height - 1, min(n, rows.height)).astype(int))  # (n,)
    drawn = rows[places].with_columns(pl.col("user_id", "item_id").cast(pl.String))
    drawn = drawn.join(titles.select("item_id", "title"), on="item_id", how="left", maintain_order="left")
    users = {user: f"user {at}" for at, user in enumerate(drawn["user_id"].unique(maintain_order=True), start=1)}
    named = drawn.select(
        pl.col("user_id").replace_strict(users, return_dtype=pl.String).alias("user"),
        pl.col("item_id").alias("item"), "title", "rating", pl.col("timestamp").cast(pl.String),
    )  # fmt: skip
    return named.to_dicts()


def shape(rows: pl.DataFrame) -> dict[str, Any]:
    """Rows, users, items, density."""
    return {
        name: value for name, value in item_tables.summary(rows).row(0, named=True).items() if "timestamp" not in name
    }


def distribution(values: np.ndarray) -> dict[str, Any] | None:
    """Histogram and summary of finite values (N,); None where there is none.

    `bars`: `at` and `counts`, where there are few distinct values; else `edges` (B + 1) and `counts` (B), which
    grow with the value (`log`) where all are positive and spread over orders of magnitude.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    summary: dict[str, Any] = {
        "n": len(values), "min": low, "max": high, "mean": float(values.mean()), "sd": float(values.std()),
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)},
    }  # fmt: skip
    distinct = np.unique(values[:1_000_000])
    if len(distinct) <= FEW_VALUES and len(distinct := np.unique(values)) <= FEW_VALUES:
        counts = np.unique(values, return_counts=True)[1]
        return summary | {"at": distinct.tolist(), "counts": counts.tolist(), "log": False}
    log = low > 0 and high / low >= WIDE
    edges = _edges(low, high, log, whole=bool((values == np.rint(values)).all()))  # (B + 1,)
    return summary | {"edges": edges.tolist(), "counts": np.histogram(values, edges)[0].tolist(), "log": log}


def _edges(low: float, high: float, log: bool, whole: bool) -> np.ndarray:
    """Edges of about 40 bins from low to high; for whole numbers each bin covers the same number of them."""
    if whole and not log:
        width = math.ceil((high - low + 1) / N_BINS)
        return np.arange(low, high + 1 + width, width) if width < 2**52 else np.linspace(low, high, N_BINS + 1)
    edges = np.geomspace(low, high, N_BINS + 1) if log else np.linspace(low, high, N_BINS + 1)
    edges[0], edges[-1] = low, high
    return np.unique(np.append(np.ceil(edges[:-1]), high + 1)) if whole else np.unique(edges)


def per(rows: pl.DataFrame, column: str) -> dict[str, Any] | None:
    """Rows per user or item: their distribution, and the share of rows of the top 1, 10 and 50 %."""
    counts = np.sort(rows.group_by(column).len()["len"].to_numpy())[::-1].astype(np.int64)  # (K,)
    described = distribution(counts)
    if described is None:
        return None
    cumulated = np.cumsum(counts)
    tops = {f"{share:g}": float(cumulated[math.ceil(share * len(counts)) - 1] / cumulated[-1]) for share in TOP_SHARES}
    return described | {"share_of_top": tops}
