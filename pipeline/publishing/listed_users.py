"""The users who get lists: their history, which a model may read, and their mask, in parts of bounded size."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.config.dataset import Dataset
from pipeline.config.run import Run
from pipeline.preparation.events import codes
from pipeline.preparation.filters import take_part
from pipeline.preparation.ids import codes_of
from pipeline.preparation.row_names import RowNames
from pipeline.preparation.seen import hidden
from pipeline.publishing import active_users
from pipeline.schemas import tables
from pipeline.training.interactions import DAY, Facts, History, Interactions

USERS_PER_PART = 50_000
ROWS_PER_BLOCK = 1_000_000
"""Source rows, about, of the users whose rows are looked up together."""


@dataclass(frozen=True)
class Range:
    """Some of the parts of all users who get lists."""

    first: int
    end: int
    """The part after the last one."""
    per_part: int
    """Users of a part."""

    def of(self, listed: Tensor) -> Tensor:
        """Those of all users (A,) that are in these parts."""
        return listed[self.first * self.per_part : self.end * self.per_part]


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
    parts: Range | None = None,
) -> Iterator[Users]:
    """The users who get lists, ordered by id, at most USERS_PER_PART at once; `among`: only those of these ids.

    `parts`: only those of these parts of all users.

    Source rows are looked up for a block of users at a time, so that memory holds those of one block only.
    """
    device, own_history = known.users.device, known.history()
    source = _SourceRows.of(rows, encoded, items)
    names, newest = RowNames.of(run).learnt(rows, run.settings.dataset.feedback), rows["timestamp"].max()
    listed = active_users.places(source.users["user_id"], rows, run.settings.export)  # (A,)
    if parts is not None:
        listed = parts.of(listed)
    if among is not None:
        of = source.users["user_id"].cast(pl.String).is_in(among.implode())
        listed = listed[torch.from_numpy(of.to_numpy(writable=True))[listed]]
    for together in _blocks(listed.split(parts.per_part if parts else USERS_PER_PART), source.counts):
        first = int(together[0][0])
        block = source.of_users(first, int(together[-1][-1]) + 1, torch.cat(together).numpy())
        filtered_out = _pairs_of_filtered_out_users(rows, block, run, names)
        masking = block.pairs.filter(hidden(rows, block.pairs["row"], run.settings, newest))
        seen = _history(masking, block.users.height, items.height)
        filtered_out_history = _history(filtered_out, block.users.height, items.height)
        if own_history.facts is not None:
            until = newest if own_history.facts.ages is not None else None
            facts = facts_of(filtered_out, until)  # type: ignore[arg-type]
            filtered_out_history = replace(filtered_out_history, facts=facts)
        for at in together:
            users, here = source.users[at.numpy()], at - first
            index = torch.from_numpy(users["user_idx"].cast(pl.Int64).fill_null(-1).to_numpy(writable=True)).to(device)
            history = _first_known(own_history, filtered_out_history[here].to(device), index)
            yield Users(users["user_id"], index, history, seen[here].to(device))


def _blocks(parts: Sequence[Tensor], counts: np.ndarray) -> Iterator[list[Tensor]]:
    """Neighbouring parts of ascending users, together with about ROWS_PER_BLOCK of the source rows (U,) of users."""
    block: list[Tensor] = []
    rows = 0
    for part in parts:
        if not len(part):
            continue
        own = int(counts[part.numpy()].sum())
        if block and rows + own > ROWS_PER_BLOCK:
            yield block
            block, rows = [], 0
        block.append(part)
        rows += own
    if block:
        yield block


@dataclass(frozen=True)
class _Block:
    """Some users of the source with their index in the fit or null; `row`, `user_row` and `item_idx` of their rows."""

    users: pl.DataFrame
    pairs: pl.DataFrame


@dataclass(frozen=True)
class _SourceRows:
    """All users, by id, with their index in the fit or null, and user and item of every source row."""

    users: pl.DataFrame
    user_row: np.ndarray  # (R,) int32
    item_idx: pl.Series  # (R,) Int32; null: the item is not in the fit

    @classmethod
    def of(cls, rows: pl.DataFrame, encoded: Path, items: pl.DataFrame) -> "_SourceRows":
        """Of the raw rows."""
        user_row, user_ids = codes_of(rows["user_id"])
        item_code, item_ids = codes_of(rows["item_id"])
        known = pl.read_parquet(encoded / "users.parquet")
        users = user_ids.alias("user_id").to_frame().join(known, on="user_id", how="left", maintain_order="left")
        index = item_ids.alias("item_id").to_frame().join(items, on="item_id", how="left", maintain_order="left")
        return cls(users, user_row.to_numpy(), index["item_idx"].gather(item_code))

    @cached_property
    def counts(self) -> np.ndarray:
        """Rows of each user, (U,)."""
        return np.bincount(self.user_row, minlength=self.users.height)

    def of_users(self, first: int, end: int, listed: np.ndarray) -> _Block:
        """The users from `first` to before `end`, and the rows of those of them that are `listed` (A,).

        Rows of items that are not in the fit are left out.
        """
        if len(listed) == self.users.height:
            rows = np.arange(len(self.user_row), dtype=np.uint32)
        else:
            wanted = np.zeros(self.users.height, dtype=bool)  # (U,)
            wanted[listed] = True
            rows = np.flatnonzero(wanted[self.user_row]).astype(np.uint32)
        columns = {
            "row": rows,
            "user_row": self.user_row[rows] - np.int32(first),
            "item_idx": self.item_idx.gather(rows),
        }
        return _Block(self.users.slice(first, end - first), pl.DataFrame(columns).drop_nulls("item_idx"))


def _pairs_of_filtered_out_users(rows: pl.DataFrame, block: _Block, run: Run, names: RowNames) -> pl.DataFrame:
    """Positive pairs of the users whom the filters left out, in time order; of event types, as `clean` has them."""
    out = block.users.with_row_index("user_row").filter(pl.col("user_idx").is_null())["user_row"]
    theirs = block.pairs.filter(pl.col("user_row").is_in(out.implode()))
    return rows_to_fold_in(rows[theirs["row"]].hstack(theirs), run.settings.dataset, names, ["user_row"])


def rows_to_fold_in(rows: pl.DataFrame, dataset: Dataset, names: RowNames, by: Sequence[str] = ()) -> pl.DataFrame:
    """The history of users whom the filters left out: their positive rows as `clean` has them, in the fit's order.

    `rows`: of the source, in its order, with `item_idx`; `by`: columns that say which user it is.
    """
    taken = take_part(rows, dataset.feedback, dataset.events, names)
    if not dataset.is_weighted:
        return taken.sort(*by, "timestamp", "item_idx")
    ordered = taken.sort(*by, "timestamp", "item_idx", "event", "quantity")
    return ordered.with_columns(event=codes(ordered, dataset.events))


def _history(pairs: pl.DataFrame, n_users: int, n_items: int) -> History:
    users, items = (torch.from_numpy(pairs[name].to_numpy().astype(np.int64)) for name in ("user_row", "item_idx"))
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
    mine = own[index[known]]
    mine = replace(mine, items=mine.items.long())
    if len(mine) == len(index):
        return mine
    theirs = filtered_out[(~known).nonzero().squeeze(1)]
    both = History(
        torch.cat([mine.offsets, mine.offsets[-1] + theirs.offsets[1:]]),
        torch.cat([mine.items, theirs.items]),
        own.n_items,
        None if mine.facts is None or theirs.facts is None else mine.facts.followed_by(theirs.facts),
    )
    rows = torch.where(known, torch.cumsum(known, 0) - 1, len(mine) + torch.cumsum(~known, 0) - 1)
    return both[rows]
