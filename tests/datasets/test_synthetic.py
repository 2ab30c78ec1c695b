"""The large file for speed tests: exact counts, no pair twice, skewed, in chunks, the same for a seed."""

import numpy as np
import polars as pl
import pytest

from pipeline.datasets import synthetic
from pipeline.datasets.synthetic import write_synthetic


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "big.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "CHUNK_ROWS", 30_000)  # several chunks
        write_synthetic(path, rows=100_000, users=900, items=1_500)
    return pl.read_csv(path)


def test_exact_counts_and_no_pair_twice(frame):
    assert frame.columns == ["user", "item", "rating", "timestamp"]
    assert frame.height == 100_000
    assert frame["user"].unique().sort().to_list() == list(range(1, 901))
    assert frame["item"].min() >= 1 and frame["item"].max() <= 1_500
    assert not frame.select("user", "item").is_duplicated().any()
    assert set(frame["rating"].unique()) == {x / 2 for x in range(1, 11)}


def test_skew(frame):
    items = frame["item"].value_counts(sort=True)["count"]
    users = frame["user"].value_counts(sort=True)["count"]
    assert items[:150].sum() > 0.3 * frame.height, "the top tenth of items"
    assert users.min() >= 20 and users.max() > 5 * users.median()
    assert users.max() <= 750, "no user has more than half of the items"


def test_grouped_by_user_with_times_increasing_and_items_shuffled(frame):
    assert frame["user"].is_sorted()
    step = frame.select(pl.col("timestamp").diff().over("user")).to_series().drop_nulls()
    assert step.min() >= 1
    position = frame.with_columns(
        at=pl.int_range(pl.len()).over("user") / pl.len().over("user"), fame=pl.len().over("item")
    )
    assert abs(np.corrcoef(position["at"], position["fame"])[0, 1]) < 0.02, "time tells nothing of popularity"


def test_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic(tmp_path / name, rows=2_000, users=50, items=300, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize(("rows", "users", "items"), [(50, 10, 10), (10, 10, 2), (1, 1, 2), (7, 7, 1_048_576)])
def test_tightest_shapes(tmp_path, rows, users, items):
    write_synthetic(tmp_path / "x.csv", rows, users, items)
    frame = pl.read_csv(tmp_path / "x.csv")
    assert frame.height == rows and frame["user"].n_unique() == users
    assert not frame.select("user", "item").is_duplicated().any()
    assert frame["item"].is_between(1, items).all()


@pytest.mark.parametrize(("rows", "users", "items"), [(51, 10, 10), (9, 10, 10), (10, 10, 1), (10, 10, 2_000_000)])
def test_impossible_shapes_are_refused(tmp_path, rows, users, items):
    with pytest.raises(ValueError, match=r"at most|don't fit"):
        write_synthetic(tmp_path / "x.csv", rows, users, items)
    assert not (tmp_path / "x.csv").exists()
