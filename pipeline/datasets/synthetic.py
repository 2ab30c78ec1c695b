"""A large, skewed, meaningless interaction file for speed and memory tests, of the shape of MovieLens 20M."""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.core.seeding import generator

CHUNK_ROWS = 1_000_000  # fewer users than 2^20 in a chunk: `distinct_items` packs bits
YEAR = 365 * 86_400  # seconds
FIRST = 852_076_800  # 1997-01-01, UTC
RATINGS = np.arange(1, 11) / 2
SHARES = [0.012, 0.034, 0.014, 0.072, 0.044, 0.214, 0.110, 0.278, 0.077, 0.145]  # of MovieLens 20M, rounded


def write_synthetic(
    path: Path, rows: int = 20_000_000, users: int = 138_000, items: int = 27_000, seed: int = 42
) -> None:
    """Write exactly `rows` lines user,item,rating,timestamp under a header; no pair of user and item twice.

    Items are Zipf-like, users log-normal (at least 20 rows each, where there are enough). Rows are grouped by
    user, with times increasing; written in chunks of CHUNK_ROWS. ValueError where the matrix would be more
    than half full, a user would have no row, or there are more than 2^20 items.
    """
    if items > 1 << 20:
        raise ValueError(f"at most {1 << 20:,} items, got {items:,}")
    if not users <= rows <= users * (items // 2):
        raise ValueError(f"{rows:,} rows don't fit {users:,} users and {items:,} items: 1 a user to half of all pairs")
    rng = generator(seed, "synthetic")
    counts = rows_of_users(rng, rows, users, items)  # (U,)
    popularity = (np.arange(items) + 10.0) ** -1.0  # Zipf-Mandelbrot: a flattened head, as catalogs have
    edges = np.cumsum(popularity)  # (I,)
    edges /= edges[-1]
    ids = rng.permutation(items) + 1  # popular items are not the low ids
    cuts = np.searchsorted(np.cumsum(counts), np.arange(CHUNK_ROWS, rows, CHUNK_ROWS))
    with path.open("wb") as file:
        for n, block in enumerate(np.split(np.arange(users), cuts)):
            user = np.repeat(block, counts[block])  # (N,)
            frame = pl.DataFrame(
                {
                    "user": user + 1,
                    "item": ids[distinct_items(rng, counts[block], edges)],
                    "rating": rng.choice(RATINGS, p=np.divide(SHARES, sum(SHARES)), size=len(user)),
                    "timestamp": _times(rng, counts[block]),
                }
            )
            frame.write_csv(file, include_header=n == 0)


def rows_of_users(rng: np.random.Generator, rows: int, users: int, items: int, floor: int = 20) -> np.ndarray:
    """Rows of each user, (U,): log-normal above `floor`, at most half the items, `rows` in all."""
    floor, most = min(floor, rows // users, items // 2), items // 2
    share = rng.lognormal(0.0, 1.2, users)
    counts = np.full(users, floor, dtype=np.int64)
    while left := rows - int(counts.sum()):
        share[counts == most] = 0
        extra = (left * (share / share.sum())).astype(np.int64)
        if not extra.any():  # less than a row each: one more for the likeliest
            extra[np.argsort(-share, kind="stable")[:left]] = 1
        counts = np.minimum(counts + extra, most)
    return counts


def distinct_items(rng: np.random.Generator, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """counts[u] distinct items of each user by popularity rank, in random order; (N,), grouped by user.

    Drawn with repetition and sorted; a repeated one then moves to the next rank that is free, x'[k] =
    max(x[k], x'[k-1] + 1), so that who reads much has read the popular ones and reads further down the list.
    """
    items = len(edges)
    total = int(counts.sum())
    user = np.repeat(np.arange(len(counts)), counts)  # (N,)
    base = user * (2 * items)  # keeps users apart in one running maximum
    place = np.arange(total)
    drawn = np.sort(base + np.searchsorted(edges, rng.random(total)))
    free = np.maximum.accumulate(drawn - place) + place - base  # (N,) strictly increasing within a user
    last = np.repeat(items - np.cumsum(counts), counts) + place  # leaves room for the user's rows that follow
    item = np.minimum(free, last)
    shuffled = (user << 43) + (rng.integers(0, 1 << 23, total) << 20) + item  # user, random, item in one int64
    shuffled.sort()
    return shuffled & ((1 << 20) - 1)


def _times(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Seconds, increasing within a user: sittings of a minute a row, sometimes a pause of days; (N,)."""
    total = int(counts.sum())
    pause = rng.random(total) < 0.03
    gap = 1 + (rng.exponential(size=total) * np.where(pause, YEAR / 52, 60)).astype(np.int64)
    elapsed = np.cumsum(gap)
    first = np.cumsum(counts) - counts  # position of a user's first row
    start = FIRST + rng.integers(0, 18 * YEAR, len(counts))
    return elapsed + np.repeat(start - elapsed[first], counts)


def main() -> None:
    """`python -m pipeline.datasets.synthetic FILE --rows N`."""
    parser = argparse.ArgumentParser(description=write_synthetic.__doc__)
    parser.add_argument("path", type=Path)
    for name, default in (("rows", 20_000_000), ("users", 138_000), ("items", 27_000), ("seed", 42)):
        parser.add_argument(f"--{name}", type=int, default=default)
    write_synthetic(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
