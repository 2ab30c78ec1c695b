"""Draws the built-in sample: readers with one to three tastes read, rate and re-rate books, month by month.

What is planted: tastes (and their shifts), popularity, seasons and fashions, new books, series that pull to
the next volume, ratings that follow the taste. No clock is read.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import polars as pl

from pipeline.core.seeding import generator
from pipeline.datasets.sample_titles import N_ITEMS, TASTES, Catalog, draw_catalog

N_USERS, N_MONTHS, TARGET_ROWS = 2_000, 18, 80_000
NOISE = np.float32(0.05)
"""Pull of a book that is not to a user's taste; of one that is, up to 1 more."""
RERATINGS = 60
"""Rows in which a user rates a book for the second time; of each pair the later one counts."""
START = int(datetime(2024, 10, 1, tzinfo=UTC).timestamp())
LAST = int(datetime(2026, 3, 31, 23, 59, tzinfo=UTC).timestamp())
"""Time of the last interaction."""
MONTH = (LAST - START) // N_MONTHS  # seconds


@dataclass(frozen=True)
class Sample:
    """The sample before it is written, and the truth that was planted."""

    interactions: pl.DataFrame  # user, item, rating, timestamp (s); in time order
    items: pl.DataFrame  # item, title, genres
    tastes: np.ndarray  # (2, U, G): share of each taste in a user's reading, before and after `shift`
    shift: np.ndarray  # (U,): month in which a user's tastes shift; N_MONTHS: never


@lru_cache(maxsize=1)
def draw_sample(seed: int = 42) -> Sample:
    """The sample of a seed. A process draws it once: replays have many nights. Its arrays must not change."""
    catalog = draw_catalog(generator(seed, "sample", "catalog"))
    tastes, shift = _readers(generator(seed, "sample", "readers"))
    users, items, liking, time = _read(generator(seed, "sample", "reading"), catalog, tastes, shift)
    rng = generator(seed, "sample", "ratings")
    again = rng.choice(len(users), RERATINGS, replace=False)
    later = time[again] + 1 + rng.integers(0, LAST - time[again] - 1)
    users, items, liking = (np.append(part, part[again]) for part in (users, items, liking))
    time = np.append(time, later)
    mood = rng.normal(0, 0.4, N_USERS)[users] + rng.normal(0, 0.35, N_ITEMS)[items]  # (N,)
    mood += rng.normal(0, 0.7, len(users))
    rating = np.clip(np.round(2 * (2.7 + 1.6 * np.sqrt(liking) + mood)) / 2, 1, 5)  # half steps
    order = np.lexsort((items, users, time))
    time[order[-1]] = LAST
    frame = pl.DataFrame({"user": users, "item": items, "rating": rating, "timestamp": time})[order]
    frame = frame.with_columns(user=_id("u", pl.col("user")), item=_id("b", pl.col("item")))
    titles = pl.DataFrame({"item": np.arange(N_ITEMS), "title": catalog.titles, "genres": catalog.genres})
    return Sample(frame, titles.with_columns(item=_id("b", pl.col("item"))), tastes, shift)


def _readers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Tastes before and after their shift, (2, U, G), and the month of the shift, (U,)."""
    n = len(TASTES)
    favour = np.linspace(1.0, 0.5, n)  # (G,): the first tastes have fewer friends
    rank = (rng.exponential(size=(2, N_USERS, n)) / (1.5 - favour)).argsort(2).argsort(2)  # (2, U, G)
    how_many = rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25], size=(N_USERS, 1))
    share = np.array([1.0, 0.6, 0.35] + [0.0] * (n - 3))[rank] * (rank < how_many)  # (2, U, G)
    shift = np.where(rng.random(N_USERS) < 0.3, rng.integers(4, N_MONTHS, N_USERS), N_MONTHS)
    return share / share.sum(2, keepdims=True), shift


def _activity(rng: np.random.Generator) -> np.ndarray:
    """Books a user reads in a month, (U, M): log-normal in all, from joining until, for some, leaving."""
    total = rng.lognormal(0.0, 0.75, N_USERS)
    total = np.clip(total * TARGET_ROWS / total.sum(), 4, 260).round().astype(np.int64)
    first = rng.integers(0, N_MONTHS - 2, N_USERS)
    last = np.where(rng.random(N_USERS) < 0.6, N_MONTHS, first + 1 + rng.integers(0, 9, N_USERS))
    month = np.arange(N_MONTHS)
    here = (month >= first[:, None]) & (month < last[:, None])  # (U, M)
    return np.minimum(rng.multinomial(total, here / here.sum(1, keepdims=True)), 120)


def _read(rng: np.random.Generator, catalog: Catalog, tastes: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, ...]:
    """Users, items, how far the item is to the user's taste (0 to 1) and time (s), (N,) each."""
    members = catalog.members.astype(np.float32)  # (I, G); float32 below: it halves the time
    fame = rng.lognormal(0.0, 0.9, N_ITEMS)  # (I,)
    old = rng.random(N_ITEMS) < 0.65
    release = np.where(old, -rng.integers(1, 24, N_ITEMS), rng.integers(1, N_MONTHS, N_ITEMS))  # (I,)
    sequels = np.flatnonzero(catalog.previous != np.arange(N_ITEMS))
    counts = _activity(rng)  # (U, M)
    taken = np.zeros((N_USERS, N_ITEMS), dtype=bool)
    parts = []
    for month in range(N_MONTHS):
        readers = np.flatnonzero(counts[:, month])  # (R,)
        age = month - release  # (I,)
        novelty = np.where(age < 0, 0.0, 0.3 + np.exp(-np.maximum(age, 0) / 4))  # (I,)
        appeal = fame * novelty * (members @ _fashion(month))  # (I,)
        liking = tastes[(shift[readers] <= month).astype(int), readers].astype(np.float32) @ members.T  # (R, I)
        seen = taken[readers]  # (R, I)
        weight = np.where(seen, np.float32(0), (NOISE + liking) * appeal.astype(np.float32))  # (R, I)
        weight[:, sequels] *= 1 + 6 * seen[:, catalog.previous[sequels]].astype(np.float32)  # volumes pull
        rows, items = _draw_distinct(rng, weight, counts[readers, month])
        users = readers[rows]
        taken[users, items] = True
        time = START + month * MONTH + rng.integers(0, MONTH, len(users))
        parts.append((users, items, liking[rows, items], time))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _fashion(month: int) -> np.ndarray:
    """How much each taste is in fashion, (G,): a season, and a slow trend. Month 0 is October."""
    season = np.array([taste.season for taste in TASTES])
    trend = np.linspace(1, -1, len(TASTES)) * (0.5 - month / N_MONTHS)
    return 1 + 0.5 * season * np.cos(2 * np.pi * (month - 3) / 12) + 0.4 * trend


def _draw_distinct(rng: np.random.Generator, weight: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """counts[r] distinct columns of each row, likelier by weight (R, I): rows and columns, (N,) each.

    The smallest of Exp(1) / weight: sampling without replacement (Efraimidis and Spirakis 2006).
    """
    keys = rng.standard_exponential(weight.shape, dtype=np.float32)  # (R, I)
    keys /= np.maximum(weight, np.float32(1e-30))
    most = int(counts.max())
    first = np.argpartition(keys, most, axis=1)[:, :most]  # (R, most)
    first = np.take_along_axis(first, np.take_along_axis(keys, first, 1).argsort(1), 1)
    rows, ranks = np.nonzero(np.arange(most) < counts[:, None])
    return rows, first[rows, ranks]


def _id(prefix: str, number: pl.Expr) -> pl.Expr:
    return prefix + (number + 1).cast(pl.String).str.zfill(4)
