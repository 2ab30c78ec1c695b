"""Which users get a list at night: all, or with `[export] active_days` those with a recent interaction."""

import datetime as dt

import polars as pl
import torch
from torch import Tensor

from pipeline.config.dataset import Dataset
from pipeline.config.publishing import Export
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.storage import warehouse


def check(export: Export, dataset: Dataset) -> None:
    """Raise SettingsError if the settings go by time and the data set has no times."""
    if export.active_days is not None and dataset.columns.timestamp is None:
        raise SettingsError(
            f"export.active_days = {export.active_days} goes by the time of interactions, and the data set "
            f"{dataset.name} has no times: name their column in [columns] timestamp, or remove the key"
        )


def places(users: pl.Series, rows: pl.DataFrame, export: Export) -> Tensor:
    """Places in `users` (U,) of those who get a list, ascending, (A,) int64.

    A user is active who has one of the raw `rows` at most `active_days` before the newest of them. In a replay the
    newest row is the last one before `--as-of`. Raises UnreadableInput if rows have no times.
    """
    if export.active_days is None:
        return torch.arange(len(users))
    newest = rows["timestamp"].max()
    if not isinstance(newest, dt.datetime) or rows["timestamp"].null_count():
        raise UnreadableInput("export.active_days goes by the time of interactions, and rows have no times: remove it")
    since = newest - dt.timedelta(days=export.active_days)
    active = rows.filter(pl.col("timestamp") >= since)["user_id"].unique().cast(pl.String)
    found = users.is_in(active.implode()).arg_true()
    return torch.from_numpy(found.cast(pl.Int64).to_numpy(writable=True))


def count(rows: pl.DataFrame, export: Export) -> int:
    """Number of users of the raw `rows` who get a list."""
    return len(places(rows["user_id"].unique().cast(pl.String), rows, export))


def create_view(con: warehouse.Connection, export: Export) -> None:
    """Create the temporary view `active_users` of a published database, for the audit, from its table `users`."""
    where = ""
    if export.active_days is not None:
        where = f" WHERE last_seen >= (SELECT max(last_seen) FROM users) - INTERVAL {export.active_days:d} DAY"
    con.execute(f"CREATE TEMP VIEW active_users AS SELECT user_id FROM users{where}")
