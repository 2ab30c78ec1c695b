"""A split whose files are too large to be kept is read in parts, and gives the same tasks."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.evaluation import eval_task, split_files
from pipeline.preparation.seen import SeenRule
from pipeline.schemas import tables
from pipeline.training import encoded_rows

N_USERS, N_ITEMS = 12, 9
CPU = torch.device("cpu")


def rows_of(number: int, rows: int) -> pl.DataFrame:
    random = np.random.default_rng(number)
    hours = random.integers(0, 30, rows) + 30 * number
    pairs = pl.DataFrame(
        {
            "user_idx": random.integers(0, N_USERS, rows),
            "item_idx": (random.integers(0, 3, rows) + 3 * number) % N_ITEMS,  # no item is in two splits
            "rating": random.normal(size=rows),
            "timestamp": [dt.datetime(2026, 1, 1) + dt.timedelta(hours=int(hour)) for hour in hours],
            "positive": random.random(rows) < 0.8,
        },
        schema=tables.ENCODED.schema,
        strict=False,
    )
    return pairs.unique(["user_idx", "item_idx"], maintain_order=True).sort("user_idx", "timestamp")


@pytest.fixture
def split_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(eval_task.lake, "info", lambda folder: {"n_users": N_USERS, "n_items": N_ITEMS})
    for number, name in enumerate(("train", "valid", "test")):
        rows_of(number, 60 if name == "train" else 20).write_parquet(tmp_path / f"{name}.parquet", row_group_size=9)
    yield tmp_path
    eval_task.release()


def parts_of(task: eval_task.EvalTask) -> list[torch.Tensor]:
    histories = (task.history, task.mask, task.holdout, task.fitted)
    return [task.users, task.popular, *(tensor for each in histories for tensor in (each.offsets, each.items))]


@pytest.mark.parametrize("rule", [SeenRule(), SeenRule(allow=True, hide_days=1)])
def test_tasks_of_files_are_those_of_frames(split_dir: Path, rule: SeenRule, monkeypatch: pytest.MonkeyPatch):
    files = {path.stem: path for path in split_dir.glob("*.parquet")}
    whole = eval_task.Splits(
        {n: pl.read_parquet(p) for n, p in files.items()}, N_USERS, N_ITEMS, CPU, seen=rule, kind="global_time"
    )
    monkeypatch.setattr(split_files, "IN_MEMORY", 0)
    monkeypatch.setattr(encoded_rows, "BLOCK", 16)
    frames = split_files.SplitFiles(files)
    assert frames.size == 0 and len(frames) == 3
    parts = eval_task.Splits(frames, N_USERS, N_ITEMS, CPU, seen=rule, kind="global_time")
    for split, fit in (("valid", "train"), ("test", "train"), ("test", "train+valid")):
        own, theirs = (eval_task.eval_task(splits, split, fit) for splits in (parts, whole))
        assert all(torch.equal(a, b) for a, b in zip(parts_of(own), parts_of(theirs), strict=True))
        assert own.history.items.dtype == torch.int64  # which models read
        assert torch.equal(parts.masked(split, own.users)[own.users].items, parts.masked(split)[own.users].items)
        rows = own.fitted, own.signatures(3)
        again = eval_task.eval_task(parts, "valid" if split == "test" else "test", fit)
        assert again.fitted is rows[0] and again.signatures(3) is rows[1]  # one for all splits
    assert torch.equal(parts.off_limits("valid").items, whole.off_limits("valid").items)


def test_small_files_are_read_once(split_dir: Path):
    splits = eval_task.load_splits(split_dir, CPU)
    assert splits.frames["train"] is splits.frames["train"]
    assert isinstance(splits.frames, split_files.SplitFiles) and splits.frames.size > 0
    assert splits.frames.get("candidates") is None
