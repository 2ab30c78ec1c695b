"""Dense indices for users and items, and the row order of the contract `encoded`."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.preparation.id_columns import Coded, read_coded
from pipeline.preparation.ids import codes_of, pair_hashes

ROWS_AT_ONCE = 2**20
"""Rows that are put into their order and written at a time."""
_OTHERS = ("rating", "timestamp", "positive")
_WEIGHTED = ("event", "quantity", "target", "masks")


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
    found = _Rows(user, item, _others(clean, kinds))
    order = found.order(seed)
    return found.take(order), _index("user", user.ids), _index("item", item.ids)


def encode_file(
    clean: Path, seed: int, kinds: Sequence[str], write: Callable[[pl.DataFrame], object]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same for a file: passes the encoded rows to `write`, some at a time, and returns users and items."""
    user, item = read_coded(clean)
    stored = pl.scan_parquet(clean).collect_schema()
    others = pl.read_parquet(clean, columns=[name for name in (*_OTHERS, *_WEIGHTED) if name in stored])
    found = _Rows(user, item, _others(others, kinds).rechunk())
    del others
    order = found.order(seed)
    for start in range(0, len(order), ROWS_AT_ONCE):
        write(found.take(order[start : start + ROWS_AT_ONCE]))
    return _index("user", user.ids), _index("item", item.ids)


def _others(clean: pl.DataFrame, kinds: Sequence[str]) -> pl.DataFrame:
    """The columns of `encoded` but for the indices. Code of the event type is 0 without types."""
    others = clean.select(pl.col("rating").cast(pl.Float32), *_OTHERS[1:])
    if "event" not in clean.columns:
        return others
    codes = {kind: code for code, kind in enumerate(kinds)}
    event = pl.col("event").replace_strict(codes, default=0, return_dtype=pl.Int8) if codes else pl.lit(0, pl.Int8)
    return others.hstack(clean.select(event.alias("event"), pl.col("quantity").cast(pl.Float32), "target", "masks"))


@dataclass(frozen=True)
class _Rows:
    """Rows in the order of `clean`."""

    user: Coded
    item: Coded
    others: pl.DataFrame

    def take(self, order: np.ndarray) -> pl.DataFrame:
        """The rows at these places."""
        columns = {"user_idx": self.user.codes[order], "item_idx": self.item.codes[order]}
        return pl.DataFrame(columns).hstack(self.others[order])

    def order(self, seed: int) -> np.ndarray:
        """Place of each row of `encoded`, (R,)."""
        time = self.others["timestamp"].to_physical().fill_null(-1).to_numpy()  # (R,): rows without a time are first
        order, again = _of_runs(self.user, time) or _of_keys(self.user, self.others["timestamp"])
        before = np.append(False, again)[: len(again)]  # (R,): as the row before
        tied = np.flatnonzero(again | before)  # (T,): only rows of equal user and time need a hash
        if not len(tied):
            return order
        source = order[tied]  # rows that are equal in all of it are in source order, in shards as in one piece
        pairs = pl.DataFrame({"user_idx": self.user.codes[source], "item_idx": self.item.codes[source]})
        equal = pl.DataFrame(
            {
                "group": np.cumsum(~before[tied]),
                "hash": pair_hashes(pairs, self.user.ids, self.item.ids, seed, "tie"),
                "source": source,
            }
        )
        further = [name for name in ("event", "quantity") if name in self.others.columns]
        equal = equal.hstack(self.others.select(further)[source]) if further else equal
        by_hash = equal.select(pl.arg_sort_by("group", "hash", *further, "source")).to_series()
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


def _of_keys(user: Coded, timestamp: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The order of rows by user and time, (R,), and whether a row has the user and the time of the next one, (R,)."""
    keys = user_time_keys(user.codes, timestamp)
    order = keys.arg_sort().to_numpy(writable=True)
    ordered = keys.to_numpy()[order]
    again = np.zeros(len(order), dtype=bool)
    again[:-1] = ordered[1:] == ordered[:-1]
    return order, again


def user_time_keys(users: np.ndarray, timestamp: pl.Series) -> pl.Series:
    """One Int64 per row, (R,), that sorts by user, then time, rows without a time first: one sort instead of two."""
    time = timestamp.to_physical()
    first = int(time.min() or 0)  # type: ignore[arg-type]
    since = time.fill_null(first).to_numpy(writable=True)  # (R,) microseconds; changed in place to save memory
    since -= first
    chunks = np.array_split(since, len(since) // 2**16 + 1)  # each fits the CPU cache
    # most sources count in seconds or milliseconds
    unit = next(unit for unit in (10**6, 1000, 1) if not any((chunk % unit).any() for chunk in chunks))
    since //= unit
    if _bits(since) + _bits(users) > 62:
        since = pl.Series(since).rank("dense").to_numpy().astype(np.int64)
    since += 1
    if time.null_count():
        since[time.is_null().to_numpy()] = 0
    keys = users.astype(np.int64)
    keys <<= _bits(since)
    keys |= since
    return pl.Series(keys)


def _bits(numbers: np.ndarray) -> int:
    return int(numbers.max(initial=0)).bit_length()


def _index(kind: str, ids: pl.Series) -> pl.DataFrame:
    frame = ids.alias(f"{kind}_id").to_frame().with_row_index(f"{kind}_idx")
    return frame.cast({f"{kind}_idx": pl.Int32})
