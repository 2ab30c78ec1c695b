"""The users who get lists: their history, which a model may read, and their mask, in parts of bounded size."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.run import Run
from pipeline.preparation.events import codes
from pipeline.preparation.filters import mark, take_part
from pipeline.preparation.ids import codes_of
from pipeline.preparation.row_names import RowNames
from pipeline.preparation.seen import hidden
from pipeline.publishing import active_users
from pipeline.schemas import tables
from pipeline.training.interactions import DAY, Facts, History, Interactions

USERS_PER_PART = 50_000


@dataclass(frozen=True)
class Users:
    """Some users: their ids, their index in the fit or -1, what the model may read, and what must not be listed."""

    ids: pl.Series
    index: Tensor  # (B,)
    history: History  # B rows
    mask: History  # B rows

    def some(self, rows: Tensor) -> "Users":
        """Those at `rows` (R,)."""
        return Users(self.ids.gather(rows.cpu().numpy()), self.index[rows], self.history[rows], self.mask[rows])


def users_of(
    run: Run,
    known: Interactions,
    rows: pl.DataFrame,
    encoded: Path,
    items: pl.DataFrame,
    among: pl.Series | None = None,
) -> Iterator[Users]:
    """The users who get lists, ordered by id, at most USERS_PER_PART at once; `among`: only those of these ids."""
    device = known.users.device
    all_users, pairs = _source_pairs(rows, encoded, items)
    filtered_out = _pairs_of_filtered_out_users(rows, pairs, all_users, run)
    masking = pairs.filter(hidden(rows, pairs["row"], run.settings, rows["timestamp"].max()))
    seen = _history(masking, all_users.height, items.height)
    own_history = known.history()
    filtered_out_history = _history(filtered_out, all_users.height, items.height)
    if own_history.facts is not None:
        newest = rows["timestamp"].max() if own_history.facts.ages is not None else None
        filtered_out_history = replace(filtered_out_history, facts=facts_of(filtered_out, newest))  # type: ignore
    listed = active_users.places(all_users["user_id"], rows, run.settings.export)  # (A,)
    if among is not None:
        of = all_users["user_id"].cast(pl.String).is_in(among.implode())
        listed = listed[torch.from_numpy(of.to_numpy(writable=True))[listed]]
    for at in listed.split(USERS_PER_PART):
        users = all_users[at.numpy()]
        index = torch.from_numpy(users["user_idx"].cast(pl.Int64).fill_null(-1).to_numpy(writable=True)).to(device)
        history = _first_known(own_history, filtered_out_history[at].to(device), index)
        yield Users(users["user_id"], index, history, seen[at].to(device))


def _source_pairs(rows: pl.DataFrame, encoded: Path, items: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All users, by id, with their index in the fit or null; and `row`, `user_row`, `item_idx` of the source rows.

    Rows of items that are not in the fit are left out of the pairs.
    """
    user_row, user_ids = codes_of(rows["user_id"])
    item_code, item_ids = codes_of(rows["item_id"])
    known = pl.read_parquet(encoded / "users.parquet")
    all_users = user_ids.alias("user_id").to_frame().join(known, on="user_id", how="left", maintain_order="left")
    index = (
        item_ids.alias("item_id").to_frame().join(items, on="item_id", how="left", maintain_order="left")["item_idx"]
    )
    pairs = pl.DataFrame({"user_row": user_row, "item_idx": index.gather(item_code)}).with_row_index("row")
    return all_users, pairs.drop_nulls("item_idx")


def _pairs_of_filtered_out_users(
    rows: pl.DataFrame, pairs: pl.DataFrame, all_users: pl.DataFrame, run: Run
) -> pl.DataFrame:
    """Positive pairs of the users whom the filters left out, in time order; of event types, as `clean` has them."""
    out = all_users.with_row_index("user_row").filter(pl.col("user_idx").is_null())["user_row"]
    theirs = pairs.filter(pl.col("user_row").is_in(out.implode()))
    dataset = run.settings.dataset
    names = RowNames.of(run).learnt(rows, dataset.feedback)
    if dataset.is_weighted:
        taken = take_part(rows[theirs["row"]].hstack(theirs), dataset.feedback, dataset.events, names)
        ordered = taken.filter("positive").sort("user_row", "timestamp", "item_idx", "event", "quantity")
        return ordered.with_columns(event=codes(ordered, dataset.events))
    marked = mark(rows[theirs["row"]].hstack(theirs), dataset.feedback, names).filter("kept", "positive")
    ordered = marked.sort("user_row", "timestamp", "item_idx")
    return ordered.unique(["user_row", "item_idx"], keep="last", maintain_order=True)


def _history(pairs: pl.DataFrame, n_users: int, n_items: int) -> History:
    users = torch.from_numpy(pairs["user_row"].cast(pl.Int64).to_numpy(writable=True))
    items = torch.from_numpy(pairs["item_idx"].cast(pl.Int64).to_numpy(writable=True))
    return History.of(users, items, n_users, n_items)


def facts_of(rows: pl.DataFrame, newest: dt.datetime | None) -> Facts:
    """Facts of events as encoded (`event`, `quantity`, if they are there); ages count from `newest`; None: no ages."""
    is_weighted, ages = "event" in rows.columns, None
    if newest is not None and not rows["timestamp"].null_count():
        since = (pl.lit(newest, tables.TIME) - pl.col("timestamp")).dt.total_microseconds() / DAY
        ages = torch.from_numpy(rows.select(since.clip(lower_bound=0)).to_series().to_numpy(writable=True)).float()
    return Facts(
        kinds=torch.from_numpy(rows["event"].cast(pl.Int64).to_numpy(writable=True)) if is_weighted else None,
        quantities=torch.from_numpy(rows["quantity"].to_numpy(writable=True)).float() if is_weighted else None,
        ages=ages,
    )


def _first_known(own: History, filtered_out: History, index: Tensor) -> History:
    """Row b: the history of user index[b] that the fit saw, or, for an index of -1, row b of `filtered_out`."""
    known = index >= 0
    both = History(
        torch.cat([own.offsets, own.offsets[-1] + filtered_out.offsets[1:]]),
        torch.cat([own.items, filtered_out.items]),
        own.n_items,
        None if own.facts is None or filtered_out.facts is None else own.facts.followed_by(filtered_out.facts),
    )
    rows = torch.where(known, index, len(own) + torch.arange(len(index), device=index.device))
    return both[rows]
