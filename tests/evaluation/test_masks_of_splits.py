"""Masks of a split: the earlier rows of each user, oldest first, that keep their item out of a list."""

import datetime as dt
import itertools

import polars as pl
import pytest
import torch

from pipeline.evaluation.eval_task import Splits
from pipeline.preparation.seen import SeenRule

DAY = dt.datetime(2026, 1, 1)


def frame(*records: tuple[int, int, int, bool]) -> pl.DataFrame:
    """Rows in encoded order from (user, item, day, masks)."""
    schema = {"user_idx": pl.Int32, "item_idx": pl.Int32, "day": pl.Int64, "masks": pl.Boolean}
    rows = pl.DataFrame(records, schema=schema, orient="row")
    return rows.select(
        "user_idx", "item_idx", pl.lit(None, pl.Float32).alias("rating"),
        (pl.lit(DAY, pl.Datetime("us")) + pl.duration(days="day")).alias("timestamp"),
        pl.lit(True).alias("positive"), pl.lit(0, pl.Int8).alias("event"), pl.lit(1, pl.Float32).alias("quantity"),
        pl.lit(True).alias("target"), "masks",
    )  # fmt: skip


FRAMES = {
    "train": frame((0, 3, 0, True), (0, 1, 5, False), (1, 2, 1, True)),
    "valid": frame((0, 4, 2, True), (1, 0, 9, True)),
    "test": frame((0, 5, 10, True), (1, 1, 12, True)),
}


@pytest.mark.parametrize(
    ("rule", "valid", "test"),
    [
        (SeenRule(), [[3], [2]], [[3, 4], [2, 0]]),
        (SeenRule(allow=True), [[], []], [[], []]),
        (SeenRule(allow=True, hide_days=4), [[3], []], [[], [0]]),
    ],
)
def test_what_is_masked(rule, valid, test):
    splits = Splits(FRAMES, 2, 6, torch.device("cpu"), seen=rule, kind="leave_one_out")
    for split, wanted in (("valid", valid), ("test", test)):
        mask = splits.masked(split)
        ends = mask.offsets.tolist()
        assert [mask.items[a:b].tolist() for a, b in itertools.pairwise(ends)] == wanted


def test_without_a_column_of_masks_every_row_masks():
    plain = {name: rows.drop("masks", "target", "event", "quantity") for name, rows in FRAMES.items()}
    mask = Splits(plain, 2, 6, torch.device("cpu")).masked("test")
    assert (mask.offsets.tolist(), mask.items.tolist()) == ([0, 3, 5], [3, 4, 1, 2, 0])
