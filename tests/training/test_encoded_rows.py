"""Interactions are the same whether encoded rows come at once or in blocks, from frames or from files."""

import datetime as dt
from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schemas import tables
from pipeline.training import encoded_rows
from pipeline.training.encoded_rows import Wanted, in_blocks, interactions_of, user_ranges
from pipeline.training.interactions import Interactions

N_USERS, N_ITEMS = 6, 5
START = dt.datetime(2026, 1, 1)


def encoded(rows: int, seed: int, weighted: bool = False, gaps: bool = False) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    hours = random.integers(0, 4, rows)
    columns = {
        "user_idx": random.integers(0, N_USERS, rows),
        "item_idx": random.integers(0, N_ITEMS, rows),
        "rating": random.normal(size=rows),
        "timestamp": [None if gaps and hour == 3 else START + dt.timedelta(hours=int(hour)) for hour in hours],
        "positive": random.random(rows) < 0.8,
        "event": random.integers(0, 2, rows),
        "quantity": random.random(rows) + 0.5,
        "target": random.random(rows) < 0.5,
        "masks": random.random(rows) < 0.5,
    }
    table = tables.ENCODED_WEIGHTED if weighted else tables.ENCODED
    frame = pl.DataFrame({name: columns[name] for name in table.columns}, schema=table.schema, strict=False)
    if gaps:
        frame = frame.with_columns(rating=pl.when(pl.col("item_idx") == 0).then(None).otherwise("rating"))
    return frame.sort("user_idx", "timestamp", maintain_order=True)


def same(a: Interactions, b: Interactions) -> bool:
    def equal(x: object, y: object) -> bool:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
            return x.dtype == y.dtype and torch.equal(x.nan_to_num(-1), y.nan_to_num(-1))
        if x is None or y is None or isinstance(x, int):
            return x is y or x == y
        return all(equal(getattr(x, f.name), getattr(y, f.name)) for f in fields(x))  # type: ignore[arg-type]

    return equal(a, b)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=3), st.integers(0, 99), st.booleans(), st.booleans(),
    st.booleans(), st.integers(1, 9),
)  # fmt: skip
def test_blocks_of_several_parts_are_the_whole(heights, seed, weighted, gaps, recency, block):
    parts = [encoded(rows, seed + place, weighted, gaps) for place, rows in enumerate(heights)]
    whole = parts[0] if len(parts) == 1 else pl.concat(parts).sort("user_idx", "timestamp", maintain_order=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded_rows, "BLOCK", block)
        blocks = list(in_blocks([part.lazy() for part in parts], N_USERS))
        assert pl.concat(blocks).equals(whole)
        found = interactions_of(blocks, (N_USERS, N_ITEMS), "cpu", Wanted(recency))
    assert same(found, Interactions.of_frame(whole, N_USERS, N_ITEMS, "cpu", recency))


def test_blocks_hold_no_more_than_they_should(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded_rows, "BLOCK", 20)
    parts = [encoded(60, 1).lazy(), encoded(40, 2).lazy()]
    heights = [block.height for block in in_blocks(parts, N_USERS)]
    one_user = max(pl.concat(parts).collect()["user_idx"].value_counts()["count"])
    assert sum(heights) == 100 and len(heights) > 3 and max(heights) <= max(20, one_user)


def test_a_part_that_is_not_ordered_by_user_is_sorted_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoded_rows, "BLOCK", 4)
    parts = [encoded(12, 1).reverse(), encoded(9, 2)]
    blocks = list(in_blocks([part.lazy() for part in parts], N_USERS))
    assert len(blocks) == 1 and blocks[0].equals(pl.concat(parts).sort("user_idx", "timestamp", maintain_order=True))


def test_ids_alone_are_narrow_and_of_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frame = encoded(30, 3)
    frame.write_parquet(tmp_path / "rows.parquet", row_group_size=7)
    monkeypatch.setattr(encoded_rows, "BLOCK", 8)
    blocks = in_blocks([pl.scan_parquet(tmp_path / "rows.parquet")], N_USERS)
    found = interactions_of(blocks, (N_USERS, N_ITEMS), wanted=Wanted(ids_only=True, narrow=True))
    whole = Interactions.of_frame(frame, N_USERS, N_ITEMS)
    assert found.users.dtype == found.items.dtype == torch.int32
    assert torch.equal(found.users.long(), whole.users) and torch.equal(found.items.long(), whole.items)
    assert found.ratings is None and found.timestamps is None and found.facts is None
    assert found.positive is not None and whole.positive is not None
    assert torch.equal(found.positive, whole.positive)
    narrow, wide = found.history().narrow(), whole.history()
    assert narrow.offsets.dtype == narrow.items.dtype == torch.int32
    for a, b in ((narrow, wide), (narrow.transposed(), wide.transposed())):
        assert torch.equal(a.offsets.long(), b.offsets) and torch.equal(a.items.long(), b.items)
    rows = torch.tensor([3, 0, 5])
    assert narrow[rows].offsets.dtype == torch.int32 and torch.equal(narrow[rows].items.long(), wide[rows].items)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("lengths", [[5, 1, 1, 1, 5, 3], [0, 0, 9], [1], [0, 0], [30, 1, 1, 1]])
def test_ranges_of_users_share_all_users_by_their_rows(lengths: list[int], n: int) -> None:
    users = [user for user, length in enumerate(lengths) for _ in range(length)]
    rows = pl.DataFrame({"user_idx": users}, schema={"user_idx": pl.Int32}).lazy()
    ranges = user_ranges(rows, len(lengths), n)
    assert len(ranges) == n and [user for part in ranges for user in part] == list(range(len(lengths)))
    most = max(sum(lengths[user] for user in part) for part in ranges)
    assert most <= sum(lengths) / n + max(lengths)
