"""The selecting metric user by user, which models are compared by."""

from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.settings import Select
from pipeline.evaluation import ranking_metrics
from pipeline.evaluation.rating_metrics import RatedRows
from pipeline.ranking.ranks import Ranks
from pipeline.storage import lake

FILES = {"valid": "per_user.parquet", "test": "per_user_test.parquet"}
"""File in the folder of `evaluate`, by split."""


def read(evaluated: Iterable[Path], split: str) -> dict[str, pl.DataFrame]:
    """tables.PER_USER by label, from those folders of `evaluate` that have it."""
    files = {lake.info(folder)["label"]: folder / FILES[split] for folder in evaluated}
    return {label: pl.read_parquet(file) for label, file in files.items() if file.exists()}


def of_ranks(ranks: Ranks, users: Tensor, select: Select, keep: Callable[[pl.DataFrame], object]) -> None:
    """Pass tables.PER_USER of a ranking metric to `keep`, unless it is not a mean or its cutoff exceeds the ranks.

    `users` (N,): the users of the rows of `ranks`, which are one per user or one per event.
    """
    if select.metric not in ranking_metrics.METRICS or select.cutoff > ranks.depth:
        return
    values = ranking_metrics.per_user(ranks, [select.cutoff], [select.metric])[select.metric, select.cutoff]  # (N,)
    keep(_by_user(users.cpu(), values.cpu(), ranks.warm.cpu()))


def of_errors(rows: RatedRows, warm: Tensor, select: Select, keep: Callable[[pl.DataFrame], object]) -> None:
    """Pass tables.PER_USER of rmse (squared errors) or mae to `keep`; `warm` (U,) by user index."""
    users, off = rows.users, (rows.predicted.double() - rows.actual.double()).cpu()  # (N,)
    values = off.square() if select.metric.startswith("rmse") else off.abs()
    keep(_by_user(users.cpu(), values, warm[users].cpu()))


def _by_user(users: Tensor, values: Tensor, warm: Tensor) -> pl.DataFrame:
    of, row, n = torch.unique(users, return_inverse=True, return_counts=True)  # (U,), (N,), (U,)
    sums = torch.zeros(len(of), dtype=torch.float64).index_add_(0, row, values.double())  # (U,)
    is_warm = torch.zeros(len(of), dtype=torch.bool).index_put_((row,), warm)  # (U,): the same for all of a user's rows
    return pl.DataFrame(
        {
            "user_idx": pl.Series(of.numpy()).cast(pl.Int32),
            "value": (sums / n).numpy(),
            "n": n.numpy(),
            "warm": is_warm.numpy(),
        }
    )
