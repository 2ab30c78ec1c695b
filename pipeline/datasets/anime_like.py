"""Writes files of exactly the form of Kaggle's anime ratings, all synthetic, with known structure and noise."""

import argparse
import json
import os
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.seeding import generator
from pipeline.datasets.synthetic import distinct_items, rows_of_users

RATINGS = {
    1: 16_649, 2: 23_150, 3: 41_453, 4: 104_291, 5: 282_806,
    6: 637_775, 7: 1_375_287, 8: 1_646_019, 9: 1_254_096, 10: 955_715,
}  # fmt: skip
"""Rows of each rating in the published files."""
UNRATED, USERS, ANIME = 1_476_496, 69_600, 9_927
USER_VARIANCE, ITEM_VARIANCE, TASTE_VARIANCE, NOISE_VARIANCE = 0.18, 0.14, 0.18, 0.5
TASTES = ("Action", "Comedy", "Drama", "Fantasy", "Mystery", "Sports")
"""Genres, and dimensions of the planted structure: an anime's genres are what its vector points to."""
TYPES = ("TV", "OVA", "Movie", "Special", "ONA", "Music")
VERSION = 1
PLANTED = "planted.json"


def write_anime(folder: Path, seed: int = 42, scale: float = 1.0) -> dict[str, Any]:
    """Write rating.csv, anime.csv and, last, planted.json; return what the last says.

    At scale 1 there are 69,600 users, 9,927 anime, 6,337,241 ratings in exactly the published numbers and 1,476,496
    rows of -1; a smaller scale has so many of the users and rows, and its root of the anime. Every user and anime
    has a rating. The same seed and scale give the same bytes, and files that are there already are left alone.

    Planted: z = b_u + b_i + <p_u, q_i> + ε, all normal; the lowest z get rating 1, and so on. What no model can
    beat is in planted.json: `rmse_best` is the error of E[rating | b_u + b_i + <p_u, q_i>], `rmse_linear` that of the
    best a + b (b_u + b_i + <p_u, q_i>), which is as far as a matrix factorization can go, `rmse_constant` that of the
    mean. ValueError for a scale outside [0.005, 1].
    """
    if not 0.005 <= scale <= 1:
        raise ValueError(f"scale must be from 0.005 to 1, got {scale:g}")
    planted: dict[str, Any] = {"synthetic": True, "version": VERSION, "seed": seed, "scale": scale}
    if found := _planted(folder, planted):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    rng = generator(seed, "anime")
    counts = {rating: max(1, round(n * scale)) for rating, n in RATINGS.items()}
    users, anime = round(USERS * scale), round(ANIME * scale**0.5)
    user, item = _pairs(rng, users, anime, sum(counts.values()) + round(UNRATED * scale))  # (N,) each
    rated = _rated(rng, user, item, round(UNRATED * scale))  # (N,) bool
    tastes = rng.standard_normal((anime, len(TASTES)))  # (I, D)
    truth = _truth(rng, user[rated], item[rated], users, tastes)  # (R,)
    ratings, errors = _ratings(rng, truth, np.array(list(counts.values())))
    rating = np.full(len(user), -1)
    rating[rated] = ratings
    ids = np.sort(rng.choice(3 * anime, anime, replace=False)) + 1  # with gaps, as real ones have
    rows = pl.DataFrame({"user_id": user + 1, "anime_id": ids[item], "rating": rating})
    _whole(folder / "anime.csv", _catalog(rng, ids, tastes, rows))
    _whole(folder / "rating.csv", rows)
    planted |= {"users": users, "anime": anime, "ratings": len(ratings), "unrated": int((~rated).sum()), **errors}
    (folder / PLANTED).write_text(json.dumps(planted, indent=1) + "\n")
    return planted


def _planted(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What planted.json says, where the files are those that are wanted."""
    try:
        found = json.loads((folder / PLANTED).read_text())
    except (OSError, ValueError):
        return None
    there = all((folder / name).exists() for name in ("rating.csv", "anime.csv"))
    return found if there and found.items() >= wanted.items() else None


def _pairs(rng: np.random.Generator, users: int, anime: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct pairs grouped by user, (N,) each; skewed activity and popularity, everybody and everything in them."""
    n = rows_of_users(rng, rows, users, anime, floor=1)  # (U,)
    edges = np.cumsum((np.arange(anime) + 0.02 * anime) ** -2.5)  # the most popular has 1 % of the rows, the last a few
    rank = distinct_items(rng, n, edges / edges[-1])  # (N,) by popularity
    absent = np.setdiff1d(np.arange(anime), rank)
    head = np.flatnonzero(rank < anime // 50)
    rank[rng.choice(head, len(absent), replace=False)] = absent
    return np.repeat(np.arange(users), n), rng.permutation(anime)[rank]


def _rated(rng: np.random.Generator, user: np.ndarray, item: np.ndarray, unrated: int) -> np.ndarray:
    """Which rows have a rating, (N,): all but `unrated` random ones, and at least one of every user and anime."""
    free = np.ones(len(user), dtype=bool)
    for index in (user, item):
        first = np.empty(index.max() + 1, dtype=np.int64)
        first[index[::-1]] = np.arange(len(index))[::-1]
        free[first] = False
    rated = np.ones(len(user), dtype=bool)
    rated[rng.choice(np.flatnonzero(free), unrated, replace=False)] = False
    return rated


def _truth(rng: np.random.Generator, user: np.ndarray, item: np.ndarray, users: int, tastes: np.ndarray) -> np.ndarray:
    """b_u + b_i + <p_u, q_i> of pairs, (R,)."""
    anime, dim = tastes.shape
    of_user = rng.normal(0, USER_VARIANCE**0.5, users)  # (U,)
    of_item = rng.normal(0, ITEM_VARIANCE**0.5, anime)  # (I,)
    likes = rng.normal(0, (TASTE_VARIANCE / dim) ** 0.5, (users, dim))  # (U, D)
    truth = of_user[user] + of_item[item]
    for d in range(dim):  # never (R, D)
        truth += likes[user, d] * tastes[item, d]
    return truth


def _ratings(rng: np.random.Generator, truth: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Integer ratings with exactly these counts, (R,), and the errors of who knows the truth."""
    noisy = truth + rng.normal(0, NOISE_VARIANCE**0.5, len(truth))
    order = np.argsort(noisy)
    ratings = np.empty(len(truth), dtype=np.int64)
    ratings[order] = np.repeat(np.arange(1, len(counts) + 1), counts)
    cuts = noisy[order][np.cumsum(counts)[:-1]]  # (9,): from here on the next rating
    noise = NormalDist(0, NOISE_VARIANCE**0.5)
    grid = np.linspace(truth.min(), truth.max(), 2001)
    expected = [1 + sum(1 - noise.cdf(cut - t) for cut in cuts) for t in grid]  # E[rating | truth]
    linear = np.polyval(np.polyfit(truth, ratings, 1), truth)
    guesses = {"best": np.interp(truth, grid, expected), "linear": linear, "constant": ratings.mean()}
    return ratings, {
        f"rmse_{name}": round(float(np.sqrt(np.mean((guess - ratings) ** 2))), 6) for name, guess in guesses.items()
    }


def _catalog(rng: np.random.Generator, ids: np.ndarray, tastes: np.ndarray, rows: pl.DataFrame) -> pl.DataFrame:
    """anime.csv: names that say they are invented, one or two genres, and numbers that agree with the rows."""
    first, second = np.argsort(-tastes, axis=1)[:, :2].T  # (I,) each
    names = np.array(TASTES)
    both = tastes[np.arange(len(ids)), second] > 0.5
    mean = pl.col("rating").filter(pl.col("rating") > 0).mean().round(2)
    counted = rows.group_by("anime_id").agg(mean, members=pl.len())
    episodes = np.where(rng.random(len(ids)) < 0.03, "Unknown", rng.geometric(0.08, len(ids)).astype(str))
    return (
        pl.DataFrame(
            {
                "anime_id": ids,
                "name": [f"Synthetic anime {number:05d}" for number in ids],
                "genre": np.where(both, np.char.add(np.char.add(names[first], ", "), names[second]), names[first]),
                "type": rng.choice(TYPES, len(ids), p=(0.4, 0.25, 0.15, 0.1, 0.05, 0.05)),
                "episodes": episodes,
            }
        )
        .join(counted, on="anime_id", how="left", maintain_order="left")
        .select("anime_id", "name", "genre", "type", "episodes", "rating", "members")
    )


def _whole(path: Path, frame: pl.DataFrame) -> None:
    """Written whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    frame.write_csv(part)
    os.replace(part, path)


def main() -> None:
    """`python -m pipeline.datasets.anime_like FOLDER --scale 0.01`."""
    parser = argparse.ArgumentParser(description=write_anime.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--scale", type=float, default=1.0)
    print(json.dumps(write_anime(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
