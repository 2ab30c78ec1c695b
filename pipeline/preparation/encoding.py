"""Dense indices for users and items, and the row order of the contract `encoded`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
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
_COMPARED = 2**18
"""Neighbours that are compared at a time, which fit into a cache."""
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
    parts = list(found.order(seed).parts()) or [np.zeros(0, np.int64)]
    return found.take(np.concatenate(parts)), _index("user", user.ids), _index("item", item.ids)


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
    for places in found.order(seed).parts():
        write(found.take(places))
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

    def order(self, seed: int) -> "_Order":
        """The order of the rows of `encoded`."""
        time = self.others["timestamp"]
        order = _of_runs(self.user, time) or _of_keys(self.user, time)
        tied = np.union1d(order.again, order.again + 1)  # (T,): only rows of equal user and time need a hash
        if not len(tied):
            return order
        source = order.source_of(
            tied
        )  # rows that are equal in all of it are in source order, in shards as in one piece
        pairs = pl.DataFrame({"user_idx": self.user.codes[source], "item_idx": self.item.codes[source]})
        further = {name: self.others[name][source] for name in ("event", "quantity") if name in self.others}
        equal = pl.DataFrame(
            {
                "group": np.cumsum(~np.isin(tied - 1, order.again, assume_unique=True)),
                "hash": pair_hashes(pairs, self.user.ids, self.item.ids, seed, "tie"),
                **further,
                "source": source,
            }
        )
        by_hash = equal.select(pl.arg_sort_by(*equal.columns)).to_series()
        return replace(order, moved=tied, moved_from=source[by_hash.to_numpy()])


@dataclass(frozen=True)
class _Order:
    """Which row of the source each row of `encoded` is."""

    again: np.ndarray
    """Rows that have the user and the time of the next one, (A,) ascending."""
    rows: np.ndarray | None = None
    """The places of all rows in the source, (R,); None: they are known by user."""
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Index after each user's last row, (U,)."""
    ahead: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """How far ahead of its place in `encoded` a user's row is in the source, (U,)."""
    moved: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Rows for which that does not hold, (T,) ascending,"""
    moved_from: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """and their places in the source, (T,)."""

    def source_of(self, places: np.ndarray) -> np.ndarray:
        """Places in the source of these rows (N,) of `encoded`, but for those moved, (N,)."""
        if self.rows is not None:
            return self.rows[places].astype(np.int64)
        return places + self.ahead[np.searchsorted(self.ends, places, side="right")]

    def parts(self) -> Iterator[np.ndarray]:
        """Places in the source of ROWS_AT_ONCE rows at a time, (N,), in order."""
        n_rows = len(self.rows) if self.rows is not None else int(self.ends[-1]) if len(self.ends) else 0
        for start in range(0, n_rows, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, n_rows)
            places = self._between(start, stop)
            moved = slice(*np.searchsorted(self.moved, (start, stop)))
            places[self.moved[moved] - start] = self.moved_from[moved]
            yield places

    def _between(self, start: int, stop: int) -> np.ndarray:
        if self.rows is not None:
            return self.rows[start:stop].copy()
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right")
        ends = np.minimum(self.ends[first : last + 1], stop)  # (V,): of the users in between
        return np.arange(start, stop) + np.repeat(self.ahead[first : last + 1], np.diff(ends, prepend=start))


def _of_runs(user: Coded, time: np.ndarray) -> _Order | None:
    """As `_of_keys`, for rows of which each user's come one after another and in order of time; None for others.

    Many sources are like that. Users are then sorted, and no rows.
    """
    starts = np.append(0, _where(user.codes, np.not_equal) + 1)[: len(user.codes)]  # (U,) first rows of users
    if len(starts) != len(user.ids):
        return None
    if not np.isin(_where(time, np.greater) + 1, starts, assume_unique=True).all():
        return None
    equal = _where(time, np.equal)  # (A,): rows with the time of the next one
    equal = equal[~np.isin(equal + 1, starts, assume_unique=True)]
    by_user = np.argsort(user.codes[starts])
    counts = np.diff(starts, append=len(user.codes))[by_user]
    ends = np.cumsum(counts)
    ahead = starts[by_user] - (ends - counts)  # (U,)
    of_user = user.codes[equal]
    return _Order(np.sort(equal - ahead[of_user]), ends=ends, ahead=ahead)


def _where(numbers: np.ndarray, relation: np.ufunc) -> np.ndarray:
    """Places at which a number is in this relation to the next one, ascending; found some at a time to save memory."""
    last = len(numbers) - 1
    found = [np.zeros(0, np.int64)]
    for start in range(0, last, _COMPARED):
        stop = min(start + _COMPARED, last)
        found.append(np.flatnonzero(relation(numbers[start:stop], numbers[start + 1 : stop + 1])) + start)
    return np.concatenate(found)


def _of_keys(user: Coded, time: np.ndarray) -> _Order:
    """The order of rows by user and time."""
    keys = user_time_keys(user.codes, time)
    order = keys.arg_sort().to_numpy()
    ordered = keys.to_numpy()[order]
    return _Order(_where(ordered, np.equal), order)


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
