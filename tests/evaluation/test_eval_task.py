"""Splits and tasks of a night are made once, as long as the files are the same and memory allows."""

import datetime as dt
import math
from pathlib import Path

import polars as pl
import pytest
import torch

from pipeline.evaluation import beyond_accuracy, eval_task, evaluator, segments
from pipeline.evaluation.eval_task import EvalTask, Splits
from pipeline.evaluation.ranking_metrics import Scope
from pipeline.ranking.ranks import LeakError, Lists, Ranks
from pipeline.schemas import tables
from pipeline.training.interactions import History

CPU = torch.device("cpu")
N_ITEMS = 5


def frame(*pairs: tuple[int, int]) -> pl.DataFrame:
    rows = [
        {"user_idx": user, "item_idx": item, "timestamp": dt.datetime(2026, 1, 1, place), "positive": True}
        for place, (user, item) in enumerate(pairs)
    ]
    named = pl.DataFrame(rows).with_columns(pl.lit(None).alias(n) for n in tables.ENCODED.columns if n not in rows[0])
    return named.select(*tables.ENCODED.columns).cast(tables.ENCODED.schema)  # type: ignore[arg-type]


@pytest.fixture
def frames() -> dict[str, pl.DataFrame]:
    return {
        "train": frame((0, 1), (0, 2), (1, 1), (2, 4)),
        "valid": frame((0, 3), (1, 2)),
        "test": frame((0, 4), (2, 1)),
    }


def test_a_task_is_made_once_for_all_models(frames, monkeypatch: pytest.MonkeyPatch):
    splits = Splits(frames, 3, N_ITEMS, CPU)
    task = eval_task.eval_task(splits, "test", "train")
    assert eval_task.eval_task(splits, "test", "train") is task
    both = eval_task.eval_task(splits, "test", "train+valid")
    assert both is not task and len(both.fitted.items) == 6 and len(task.fitted.items) == 4
    assert task.users.tolist() == [0, 2] and task.mask.lengths.tolist() == [3, 1]
    monkeypatch.setattr(eval_task, "KEPT", task.size + both.size)
    eval_task.eval_task(splits, "valid", "train")
    assert splits.tasks.keys() == {("test", "train"), ("test", "train+valid")}


def test_the_sketch_of_the_items_is_shared(frames, monkeypatch: pytest.MonkeyPatch):
    splits, made = Splits(frames, 3, N_ITEMS, CPU), []
    whole = beyond_accuracy.signatures
    monkeypatch.setattr(beyond_accuracy, "signatures", lambda *args: made.append(args) or whole(*args))
    task = eval_task.eval_task(splits, "test", "train")
    drawn = task.signatures(7)
    assert task.of(torch.tensor([1])).signatures(7) is drawn and len(made) == 1
    assert torch.equal(drawn, whole(task.fitted, torch.Generator().manual_seed(7)))
    assert not torch.equal(task.signatures(8), drawn)


def test_novelty_counts_users_and_not_their_rows():
    """A user who buys an item every week is one user who has it; views of others are no purchases."""
    weighted = pl.DataFrame(
        [(0, 1, True), (0, 1, True), (0, 1, True), (1, 2, True), (2, 2, True), (2, 1, False)],
        schema={"user_idx": pl.Int32, "item_idx": pl.Int32, "target": pl.Boolean}, orient="row",
    )  # fmt: skip
    same = weighted.with_columns(
        pl.lit(None, pl.Float32).alias("rating"), pl.lit(dt.datetime(2026, 1, 1)).alias("timestamp"),
        pl.lit(True).alias("positive"), (~pl.col("target")).cast(pl.Int8).alias("event"),
        pl.lit(1, pl.Float32).alias("quantity"), pl.lit(False).alias("masks"),
    )  # fmt: skip
    held = same.head(1).with_columns(item_idx=pl.lit(3, pl.Int32))
    splits = Splits({"train": same, "valid": held, "test": held}, 3, N_ITEMS, CPU)
    task = eval_task.eval_task(splits, "valid", "train")
    assert task.popular.tolist() == [0, 3, 2, 0, 0], "rows"
    assert task.owners is not None and task.owners.tolist() == [0, 1, 2, 0, 0], "users"
    lists = Lists(torch.tensor([[1, 2]]), torch.zeros(1, 2), torch.zeros(1, dtype=torch.bool))
    ranks = Ranks(torch.tensor([0, 1]), torch.tensor([0]), 2, torch.ones(1, dtype=torch.bool), lists)
    records = segments.beyond_accuracy(ranks, task, [1, 2], Scope("m", "valid"))
    found = {record["cutoff"]: record["value"] for record in records if record["metric"] == "novelty"}
    assert found == {1: pytest.approx(-math.log2(1 / 3)), 2: pytest.approx(-math.log2(1 / 3 * 2 / 3) / 2)}


def test_negatives_are_drawn_for_users_whom_the_published_ones_leave_out(frames):
    """Users 0 and 2 are in test; without negatives every model would rank the event of user 2 first."""
    published = pl.DataFrame({"user_idx": [0], "item_idx": [[0]]}, schema_overrides={"item_idx": pl.List(pl.Int32)})
    splits = Splits({**frames, "candidates": published}, 3, N_ITEMS, CPU)
    task = eval_task.eval_task(splits, "test", "train")
    of_users = [[item for item in row if item >= 0] for row in evaluator.negatives_of(splits, task, 1, "test").tolist()]
    assert of_users[0] == [0] and sorted(of_users[1]) == [0, 2, 3], "the items that user 2 never had"
    everybody = evaluator.negatives_of(Splits(frames, 3, N_ITEMS, CPU), task, 1, "test")
    assert (everybody[0] >= 0).sum() == 1 and (everybody[1] >= 0).sum() == 3


def test_without_repeats_the_rows_of_an_item_are_its_users(frames):
    assert eval_task.eval_task(Splits(frames, 3, N_ITEMS, CPU), "test", "train").owners is None


def test_a_leak_is_found_also_in_a_part_of_a_task():
    users, history = torch.arange(2), History.of_lists([[0], [1]], N_ITEMS)
    leaking = EvalTask(users, history, history, History.of_lists([[2], [1]], N_ITEMS), torch.ones(N_ITEMS), history)
    assert leaking.of(users[:1]).without_leak
    for task in (leaking, leaking, leaking.of(users[1:])):
        with pytest.raises(LeakError, match="1 holdout events are masked as well, first: user 1, item 1"):
            _ = task.without_leak


def test_splits_are_read_again_when_a_file_changes(frames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eval_task.lake, "info", lambda folder: {"n_users": 3, "n_items": N_ITEMS})
    for name, rows in frames.items():
        rows.write_parquet(tmp_path / f"{name}.parquet")
    first = eval_task.load_splits(tmp_path, CPU)
    assert eval_task.load_splits(tmp_path, CPU) is first
    frames["test"].head(1).write_parquet(tmp_path / "test.parquet")
    second = eval_task.load_splits(tmp_path, CPU)
    assert second.frames["test"].height == 1
    monkeypatch.setattr(eval_task, "KEPT", 10)
    frames["test"].write_parquet(tmp_path / "test.parquet")
    assert eval_task.load_splits(tmp_path, CPU) is not eval_task.load_splits(tmp_path, CPU)
