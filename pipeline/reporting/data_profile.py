"""A profile of a data set as small JSON: for plots and reports, never for fits.

It has no user ids, since it is shown in places that outlive the tables.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.publishing import item_tables

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
FEW_VALUES = 20  # distinct values up to which each has a bar of its own
N_BINS = 40
LOOK = 100_000  # rows that show whether a column has few distinct values
WIDE = 100  # largest / smallest value from which bins grow with the value
TOP_SHARES = (0.01, 0.1, 0.5)


@dataclass(frozen=True)
class Counts:
    """The counts of one table that several parts of its profile need; counted once."""

    rows: int
    per_user: np.ndarray
    """Rows per user, descending, (U,)."""
    per_item: np.ndarray
    """Rows per item, descending, (I,)."""
    pairs: int
    """Distinct pairs of a user and an item."""

    @classmethod
    def of(cls, rows: pl.DataFrame, whole: "Counts | None" = None) -> "Counts":
        """Of rows with user_id and item_id; `whole` are those of a table that these rows are part of."""
        if whole is not None and whole.rows == rows.height:
            return whole
        unique = whole is not None and whole.pairs == whole.rows
        pairs = rows.height if unique else item_tables.n_pairs(rows)
        return cls(rows.height, _rows_per(rows, "user_id"), _rows_per(rows, "item_id"), pairs)

    def shape(self) -> dict[str, Any]:
        """Rows, users, items, density."""
        users, items = len(self.per_user), len(self.per_item)
        return {"rows": self.rows, "users": users, "items": items, "density": self.pairs / (users * items)}


def columns(rows: pl.DataFrame, counts: Counts | None = None) -> list[dict[str, Any]]:
    """Name, nulls, share of nulls and distinct values of each column; `counts`: of these rows, if they are known."""
    nulls = rows.null_count().row(0, named=True)
    known = {} if counts is None else {"user_id": len(counts.per_user), "item_id": len(counts.per_item)}
    return [
        {"column": name, "nulls": nulls[name], "null_share": nulls[name] / max(1, rows.height),
         "distinct": known[name] if name in known else rows[name].drop_nulls().n_unique()}
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
    return Counts.of(rows).shape()


@dataclass(frozen=True)
class Values:
    """Finite numbers, ascending, and how often each is there, (K,) each."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, column: pl.Series | np.ndarray) -> "Values":
        """Of a column, nulls left out: distinct values where a look at the first rows finds few, else all of them."""
        values = pl.Series(column).drop_nulls().cast(pl.Float64)
        if values.head(LOOK).n_unique() > LOOK // 10:
            sorted_values = np.sort(values.to_numpy())
            return cls(sorted_values, np.ones(len(sorted_values), dtype=np.int64))._finite()
        counted = values.value_counts(name="count").sort(values.name)
        return cls(counted[values.name].to_numpy(), counted["count"].cast(pl.Int64).to_numpy())._finite()

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Values":
        """The values of a function that keeps their order, e.g. a scaling; some may become equal."""
        values = function(self.values).astype(np.float64)
        distinct, at = np.unique(values, return_inverse=True)
        return Values(distinct, np.bincount(at, self.counts, len(distinct)).astype(np.int64))._finite()

    def _finite(self) -> "Values":
        kept = np.isfinite(self.values)
        return self if kept.all() else Values(self.values[kept], self.counts[kept])

    def quantile(self, q: float) -> float:
        """Linear between the two nearest numbers, as numpy's default."""
        ends = np.cumsum(self.counts)
        place = q * (ends[-1] - 1)
        low, high = self.values[np.searchsorted(ends, [math.floor(place), math.ceil(place)], side="right")]
        return float(np.quantile([low, high], place - math.floor(place)))


def distribution(given: Values | np.ndarray) -> dict[str, Any] | None:
    """Histogram and summary of finite values, or of all of an array (N,); None where there is none.

    `bars`: `at` and `counts`, where there are few distinct values; else `edges` (B + 1) and `counts` (B), which
    grow with the value (`log`) where all are positive and spread over orders of magnitude.
    """
    found = given if isinstance(given, Values) else Values.of(np.asarray(given, dtype=np.float64))
    values, counts = found.values, found.counts
    if not len(values):
        return None
    low, high, n = float(values[0]), float(values[-1]), int(counts.sum())
    mean = float((values * counts).sum() / n)
    summary: dict[str, Any] = {
        "n": n, "min": low, "max": high, "mean": mean, "sd": math.sqrt(((values - mean) ** 2 * counts).sum() / n),
        "quantiles": {f"{q:g}": found.quantile(q) for q in QUANTILES},
    }  # fmt: skip
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)  # of runs of equal values
    if len(starts) <= FEW_VALUES:
        bars = np.add.reduceat(counts, starts)
        return summary | {"at": values[starts].tolist(), "counts": bars.tolist(), "log": False}
    log = low > 0 and high / low >= WIDE
    edges = _edges(low, high, log, whole=bool((values == np.rint(values)).all()))  # (B + 1,)
    heights = np.histogram(values, edges, weights=counts)[0]
    return summary | {"edges": edges.tolist(), "counts": heights.tolist(), "log": log}


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
    return concentration(_rows_per(rows, column))


def concentration(counts: np.ndarray) -> dict[str, Any] | None:
    """`per` from the numbers of rows, descending, (K,)."""
    described = distribution(counts)
    if described is None:
        return None
    cumulated = np.cumsum(counts)
    tops = {f"{share:g}": float(cumulated[math.ceil(share * len(counts)) - 1] / cumulated[-1]) for share in TOP_SHARES}
    return described | {"share_of_top": tops}


def _rows_per(rows: pl.DataFrame, column: str) -> np.ndarray:
    """Rows per value, descending, (K,)."""
    return np.sort(rows.group_by(column).len()["len"].to_numpy())[::-1].astype(np.int64)
