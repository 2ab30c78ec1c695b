"""The sample: same bytes for a seed, planted tastes can be found, broken lines are where they say."""

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.config.loader import load_settings
from pipeline.core import paths
from pipeline.datasets.sample import FAULTS, write_sample
from pipeline.datasets.sample_reading import LAST, MONTH, N_MONTHS, RERATINGS, START, draw_sample
from pipeline.datasets.sample_titles import TASTES
from pipeline.models.base import FitContext
from pipeline.models.ease import Ease
from pipeline.models.popularity import Popularity
from pipeline.schemas.reasons import Reason
from pipeline.training.interactions import Interactions

GENRES = [taste.genre for taste in TASTES]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "new" / "folder"
    return folder, write_sample(folder)


@pytest.fixture(scope="module")
def sample():
    return draw_sample()


def digest(folder):
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("interactions.csv", "items.csv")]


def test_same_seed_same_bytes_in_another_process(written, tmp_path):
    code = "import sys, pathlib; from pipeline.datasets.sample import *; write_sample(pathlib.Path(sys.argv[1]))"
    environ = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=60, cwd=paths.CHECKOUT, env=environ)
    assert digest(tmp_path) == digest(written[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["interactions.csv", "items.csv"]


@pytest.mark.long
def test_another_seed_differs_and_replaces(written, tmp_path):
    write_sample(tmp_path, seed=1)
    assert all(a != b for a, b in zip(digest(tmp_path), digest(written[0]), strict=True))
    write_sample(tmp_path)
    assert digest(tmp_path) == digest(written[0])


def test_counts_range_and_end(sample):
    rows = sample.interactions
    assert rows["user"].n_unique() == 2_000
    assert 780 <= rows["item"].n_unique() <= 800
    assert 75_000 < rows.height < 85_000
    assert set(rows["rating"].unique()) == {x / 2 for x in range(2, 11)}
    assert rows["timestamp"].is_sorted()
    assert datetime.fromtimestamp(rows["timestamp"].max(), UTC).date().isoformat() == "2026-03-31"
    assert rows["timestamp"].max() == LAST
    assert rows.height - rows.select("user", "item").unique().height == RERATINGS


def test_last_tenth_has_enough_warm_users(sample):
    cut = int(0.9 * sample.interactions.height)
    before, after = sample.interactions[:cut], sample.interactions[cut:]
    assert after.join(before, on="user", how="semi")["user"].n_unique() >= 600
    assert after.join(before, on="item", how="anti").height > 0, "new books appear to the end"


def test_catalog_is_whole_and_titles_are_unique(written, sample):
    items = pl.read_csv(written[0] / "items.csv")
    assert items.equals(sample.items)
    assert items["title"].n_unique() == items["item"].n_unique() == items.height == 800
    genres = [row.split("|") for row in items["genres"]]
    assert {g for row in genres for g in row} == set(GENRES)
    assert {len(row) for row in genres} == {1, 2} and all(len(set(row)) == len(row) for row in genres)


def test_broken_lines_are_where_they_say(written):
    folder, broken = written
    lines = (folder / "interactions.csv").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "user,item,rating,timestamp" and lines[-1] == ""
    found = [(n, reason) for n, line in enumerate(lines[:-1], 1) if n > 1 and (reason := fault(line))]
    assert found == broken
    assert Counter(reason for _, reason in broken) == {reason: len(forms) for reason, forms in FAULTS.items()}
    assert len(broken) == 25


def fault(line):
    """What is wrong with a line, found without the generator's help."""
    fields = next(csv.reader([line]))
    if len(fields) != 4:
        return Reason.TOO_FEW_FIELDS if len(fields) < 4 else Reason.TOO_MANY_FIELDS
    user, item, rating, timestamp = fields
    if not user or not item:
        return Reason.EMPTY_ITEM if user else Reason.EMPTY_USER
    try:
        if not np.isfinite(float(rating)):
            return Reason.RATING_NOT_FINITE
    except ValueError:
        return Reason.RATING_NOT_A_NUMBER
    return None if timestamp.isdecimal() else Reason.TIMESTAMP_UNREADABLE


def test_readers_read_their_tastes_and_the_shift_is_seen(sample):
    rows = sample.interactions.join(sample.items, on="item", maintain_order="left")
    user = rows["user"].str.slice(1).cast(pl.Int64).to_numpy() - 1
    has = np.stack([rows["genres"].str.contains(genre, literal=True).to_numpy() for genre in GENRES], axis=1)
    liked = sample.tastes > 0  # (2, U, G)

    def share(tastes, of):
        return (has & tastes)[of].any(1).mean()

    late = rows["timestamp"].to_numpy() >= START + sample.shift[user] * MONTH
    others = np.random.default_rng(0).permutation(user)
    assert share(liked[0][user], ~late) > max(0.6, 2 * share(liked[0][others], ~late))
    assert share(liked[1][user], late) > max(0.6, 2 * share(liked[0][user], late))


def test_ratings_follow_the_taste(sample):
    genre = pl.col("genres").str.split("|").list.first().replace_strict(GENRES, range(len(GENRES)))
    rows = sample.interactions.join(sample.items.with_columns(g=genre), on="item")
    user = rows["user"].str.slice(1).cast(pl.Int64).to_numpy() - 1
    never = sample.shift[user] == N_MONTHS
    likes = sample.tastes[0][user, rows["g"].to_numpy()] > 0.3
    rating = rows["rating"].to_numpy()
    assert rating[never & likes].mean() > rating[never & ~likes].mean() + 0.4


def test_personal_lists_beat_popularity_but_not_trivially(sample):
    """nDCG@10 and hit rate@10 of everybody's last book, computed here from their definition."""
    rows = sample.interactions.unique(["user", "item"], keep="last", maintain_order=True)
    rows = rows.with_columns(pl.col("user", "item").rank("dense").cast(pl.Int64) - 1).sort("user", "timestamp")
    held = rows.group_by("user", maintain_order=True).tail(1)
    train = rows.join(held, on=["user", "item"], how="anti", maintain_order="left")
    n_users, n_items = 2_000, rows["item"].max() + 1
    users, items = (train[name].to_numpy(writable=True) for name in ("user", "item"))
    data = Interactions(torch.from_numpy(users), torch.from_numpy(items), n_users, n_items)
    target = torch.from_numpy(held["item"].to_numpy(writable=True))[:, None]  # (U, 1)
    ndcg, hit_rate = {}, {}
    for family in (Popularity, Ease):
        model = family(family.Config(), n_users, n_items)
        model.fit(data, FitContext())
        score = model.score(torch.arange(n_users), data.history()).clone()  # (U, I)
        score[data.users, data.items] = -torch.inf
        rank = (score > score.gather(1, target)).sum(1) + 1  # (U,)
        hit = (rank <= 10).float()
        ndcg[family], hit_rate[family] = float((hit / torch.log2(rank + 1)).mean()), float(hit.mean())
    assert ndcg[Ease] > 1.5 * ndcg[Popularity]
    assert hit_rate[Popularity] > 0.03 and 0.1 < hit_rate[Ease] < 0.5


def test_settings_say_what_it_is():
    settings, file = load_settings("sample", environ={})
    data = settings.dataset
    assert file == paths.DATASETS / "sample.toml" and data.name == "sample"
    assert data.description.startswith("Synthetic")
    assert (data.columns.rating, data.columns.timestamp, data.columns.timestamp_unit) == (
        "rating",
        "timestamp",
        "s",
    )
    assert data.items and data.items.attributes == {"genres": "|"} and data.items.title == "title"
    assert data.source.files == ["interactions.csv"] and data.items.files == ["items.csv"]
