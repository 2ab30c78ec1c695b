"""Tables of users and items are the same whether rows are counted at once or a part at a time."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.publishing import item_tables
from pipeline.schemas import tables
from pipeline.stages import export


def rows_of(n: int, timed: bool = True) -> pl.DataFrame:
    """Random raw rows with repeated pairs."""
    random = np.random.default_rng(n)
    start = dt.datetime(2026, 1, 1)
    times = [start + dt.timedelta(seconds=int(s)) if timed else None for s in random.integers(0, 9999, n)]
    columns = {"user_id": random.integers(0, 9, n).astype(str), "item_id": random.integers(0, 7, n).astype(str)}
    frame = pl.DataFrame({**columns, "timestamp": pl.Series(times, dtype=tables.TIME)})
    return frame.with_columns(pl.col("user_id", "item_id").cast(pl.String).cast(pl.Categorical))


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 100])
def test_parts_of_rows_add_up(monkeypatch: pytest.MonkeyPatch, n: int, timed: bool) -> None:
    rows, catalog = rows_of(n, timed), tables.CATALOG.empty()
    wanted = item_tables.users(rows), item_tables.items(rows, catalog)
    pairs = rows.select(pl.col("user_id", "item_id").cast(pl.String)).n_unique() if n else 0
    assert item_tables.n_pairs(rows) == pairs
    for at_once in (1, 3, 99, 100):
        monkeypatch.setattr(item_tables, "AT_ONCE", at_once)
        assert item_tables.users(rows).equals(wanted[0]) and item_tables.items(rows, catalog).equals(wanted[1])
        assert item_tables.n_pairs(rows) == pairs


def test_vectors_of_many_users_are_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, values = [f"u{number}" for number in range(7)], torch.arange(14.0).view(7, 2)
    pl.DataFrame({"user_id": ids}).write_parquet(tmp_path / "users.parquet")
    monkeypatch.setattr(export, "VECTORS_PER_PART", 3)
    export._write_user_vectors(tmp_path, tmp_path, "ials", values)
    files = sorted(tmp_path.glob("user_vectors[-.]*parquet"))
    assert [pl.read_parquet(path).height for path in files] == [3, 3, 1]
    whole = item_tables.vectors(tmp_path, "ials", "user", values)
    assert pl.concat([pl.read_parquet(path) for path in files]).equals(whole)
    assert whole["id"].to_list() == ids and whole["vector"].to_list() == values.tolist()


def test_days_count_from_the_newest_of_all_rows() -> None:
    """Also where it is none that makes an item popular, as after a day of excluded items or of views only."""
    newest = dt.datetime(2026, 3, 31)
    times = [newest - dt.timedelta(days=days) for days in (40, 20, 20, 3)]
    rows = pl.DataFrame(
        {"user_id": list("uvwx"), "item_id": ["old", "b", "c", "c"], "timestamp": times},
        schema_overrides={"timestamp": tables.TIME},
    )
    found = item_tables.popular_items(rows, [7, 30, 2], 9, newest).group_by("window_days").agg("item_id", "score")
    of_window = {days: (items, scores) for days, items, scores in found.iter_rows()}
    assert of_window == {
        7: (["c"], [1.0]),
        30: (["c", "b"], [2.0, 1.0]),
        0: (["c", "b", "old"], [2.0, 1.0, 1.0]),
    }, "a window without a row has none"
    plain = item_tables.popular_items(rows, [2], 9)
    assert plain.filter(window_days=2)["item_id"].to_list() == ["c"], "by default from the newest of these rows"
