"""Dense indices for users and items, and the row order of the contract `encoded`."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from pipeline.preparation.id_columns import Coded, read_coded
from pipeline.preparation.ids import codes_of, pair_hashes
from pipeline.schemas import tables
from pipeline.sources.parsing import END_OF_TIME

ROWS_AT_ONCE = 2**20
"""Rows that are put into their order and written at a time."""
NO_TIME = -1
"""Stands for a null: times are 1970 or later. For ratings, which are finite, NaN does."""
_COLUMNS = {
    "rating": np.float32, "timestamp": np.int64, "positive": np.bool_,
    "event": np.int8, "quantity": np.float32, "target": np.bool_, "masks": np.bool_,
}  # fmt: skip
"""The columns of `encoded` but for the indices, and how they are held; those from `event` on are of weighted rows."""


def encode_rows(
    clean: pl.DataFrame, seed: int, kinds: Sequence[str] = ()
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Encoded rows, users and items. Indices follow the source ids, sorted by their UTF-8 bytes.

    `kinds`: the sorted event types, whose places replace them.

    Rows are ordered by user, then time, then a seeded hash of user and item: sources are often sorted by item, and a
    sequence model would learn that order from rows of equal time.
    """
    with ThreadPoolExecutor(2) as both:
        user, item = (
            Coded(codes.to_numpy(), ids) for codes, ids in both.map(codes_of, (clean["user_id"], clean["item_id"]))
        )
    found = _Rows(user, item, _others([clean], clean.height, kinds))
    return found.take(found.order(seed)), _index("user", user.ids), _index("item", item.ids)


def encode_file(
    clean: Path, seed: int, kinds: Sequence[str], write: Callable[[pl.DataFrame], object]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same for a file: passes the encoded rows to `write`, some at a time, and returns users and items."""
    user, item = read_coded(clean)
    with pq.ParquetFile(clean) as file:
        stored = [name for name in _COLUMNS if name in file.schema_arrow.names]
        groups = (file.read_row_group(number, columns=stored) for number in range(file.num_row_groups))
        others = _others((pl.DataFrame(pl.from_arrow(group)) for group in groups), len(user.codes), kinds)
    found = _Rows(user, item, others)
    order = found.order(seed)
    for start in range(0, len(order), ROWS_AT_ONCE):
        write(found.take(order[start : start + ROWS_AT_ONCE]))
    return _index("user", user.ids), _index("item", item.ids)


def _others(parts: Iterable[pl.DataFrame], n_rows: int, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of `encoded` but for the indices, (R,) each, of rows that come in parts."""
    found: dict[str, np.ndarray] = {}
    start = 0
    for part in parts:
        for name in _COLUMNS:
            if name in part.columns:
                column = found.setdefault(name, np.empty(n_rows, dtype=_COLUMNS[name]))
                column[start : start + part.height] = _held(part[name], kinds)
        start += part.height
    return found


def _held(column: pl.Series, kinds: Sequence[str]) -> np.ndarray:
    """A column as `_COLUMNS` has it, (N,). The code of an event type is 0 without types."""
    if column.name == "rating":
        return column.cast(pl.Float32).fill_null(np.nan).to_numpy()
    if column.name == "timestamp":
        return column.to_physical().fill_null(NO_TIME).to_numpy()
    if column.name == "event":
        codes = {kind: code for code, kind in enumerate(kinds)}
        if not codes:
            return np.zeros(len(column), dtype=np.int8)
        return column.replace_strict(codes, default=0, return_dtype=pl.Int8).to_numpy()
    return column.to_numpy()


@dataclass(frozen=True)
class _Rows:
    """Rows in the order of `clean`."""

    user: Coded
    item: Coded
    others: dict[str, np.ndarray]

    def take(self, order: np.ndarray) -> pl.DataFrame:
        """The rows at these places."""
        rows = pl.DataFrame(
            {
                "user_idx": self.user.codes[order],
                "item_idx": self.item.codes[order],
                **{name: column[order] for name, column in self.others.items()},
            }
        )
        time = pl.col("timestamp")
        known = pl.when(time != NO_TIME).then(time).cast(tables.TIME) if self.untimed else time.cast(tables.TIME)
        return rows.with_columns(pl.col("rating").fill_nan(None), timestamp=known)

    @cached_property
    def untimed(self) -> bool:
        """Whether a row has no time."""
        return bool(self.others["timestamp"].min(initial=0) == NO_TIME)

    def order(self, seed: int) -> np.ndarray:
        """Place of each row of `encoded`, (R,)."""
        time = self.others["timestamp"]
        order, again = _of_runs(self.user, time) or _of_keys(self.user, time)
        before = np.append(False, again)[: len(again)]  # (R,): as the row before
        tied = np.flatnonzero(again | before)  # (T,): only rows of equal user and time need a hash
        if not len(tied):
            return order
        source = order[tied]  # rows that are equal in all of it are in source order, in shards as in one piece
        pairs = pl.DataFrame({"user_idx": self.user.codes[source], "item_idx": self.item.codes[source]})
        further = {name: self.others[name][source] for name in ("event", "quantity") if name in self.others}
        equal = pl.DataFrame(
            {
                "group": np.cumsum(~before[tied]),
                "hash": pair_hashes(pairs, self.user.ids, self.item.ids, seed, "tie"),
                **further,
                "source": source,
            }
        )
        by_hash = equal.select(pl.arg_sort_by(*equal.columns)).to_series()
        order[tied] = source[by_hash.to_numpy()]
        return order


def _of_runs(user: Coded, time: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """As `_of_keys`, for rows of which each user's come one after another and in order of time; None for others.

    Many sources are like that. Users are then sorted, and no rows.
    """
    codes = user.codes
    starts = np.flatnonzero(codes[1:] != codes[:-1]) + 1  # first rows of users, but for the first user
    if len(starts) + 1 != len(user.ids):
        return None
    earlier = time[1:] < time[:-1]  # (R - 1,)
    earlier[starts - 1] = False
    if earlier.any():
        return None
    again = np.append(time[1:] == time[:-1], False)  # (R,)
    again[starts - 1] = False
    starts = np.append(0, starts)  # (U,)
    by_user = np.argsort(codes[starts])
    counts = np.diff(starts, append=len(codes))[by_user]
    ahead = starts[by_user] - (np.cumsum(counts) - counts)  # (U,): how far a user's rows are from their new place
    order = np.arange(len(codes), dtype=np.int32 if len(codes) < 2**31 else np.int64)
    order += np.repeat(ahead.astype(order.dtype), counts)
    return order, again[order]


def _of_keys(user: Coded, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rows by user and time, (R,), and whether a row has the user and the time of the next one, (R,)."""
    keys = user_time_keys(user.codes, time)
    order = keys.arg_sort().to_numpy(writable=True)
    ordered = keys.to_numpy()[order]
    again = np.zeros(len(order), dtype=bool)
    again[:-1] = ordered[1:] == ordered[:-1]
    return order, again


def user_time_keys(users: np.ndarray, time: np.ndarray) -> pl.Series:
    """One Int64 per row, (R,), that sorts by user, then time, rows without a time first: one sort instead of two.

    `time`: microseconds since 1970, or NO_TIME.
    """
    untimed = time == NO_TIME  # (R,)
    some = untimed.any()
    first = int(time[~untimed].min(initial=END_OF_TIME) if some else time.min(initial=END_OF_TIME))
    since = np.where(untimed, first, time) if some else time.copy()  # (R,); changed in place to save memory
    since -= first
    chunks = np.array_split(since, len(since) // 2**16 + 1)  # each fits the CPU cache
    # most sources count in seconds or milliseconds
    unit = next(unit for unit in (10**6, 1000, 1) if not any((chunk % unit).any() for chunk in chunks))
    since //= unit
    if _bits(since) + _bits(users) > 62:
        since = pl.Series(since).rank("dense").to_numpy().astype(np.int64)
    since += 1
    since[untimed] = 0
    keys = users.astype(np.int64)
    keys <<= _bits(since)
    keys |= since
    return pl.Series(keys)


def _bits(numbers: np.ndarray) -> int:
    return int(numbers.max(initial=0)).bit_length()


def _index(kind: str, ids: pl.Series) -> pl.DataFrame:
    frame = ids.alias(f"{kind}_id").to_frame().with_row_index(f"{kind}_idx")
    return frame.cast({f"{kind}_idx": pl.Int32})
