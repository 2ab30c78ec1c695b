"""Dense indices for users and items, and the row order of the contract `encoded`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from pipeline.preparation.ids import codes_of, pair_hashes


def encode_rows(
    clean: pl.DataFrame, seed: int, kinds: Sequence[str] = ()
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Encoded rows, users and items. Indices follow the source ids, sorted by their UTF-8 bytes.

    `kinds`: the sorted event types, whose places replace them.

    Rows are ordered by user, then time, then a seeded hash of user and item: sources are often sorted by item, and a
    sequence model would learn that order from rows of equal time.
    """
    with ThreadPoolExecutor(2) as both:
        (user_idx, user_ids), (item_idx, item_ids) = both.map(codes_of, (clean["user_id"], clean["item_id"]))
    columns = {name: clean[name] for name in ("rating", "timestamp", "positive")}
    rows = pl.DataFrame({"user_idx": user_idx, "item_idx": item_idx, **columns}).cast({"rating": pl.Float32})
    ties = ["hash"]
    if "event" in clean.columns:
        rows, ties = rows.hstack(_weighted(clean, kinds)), ["hash", "event", "quantity"]
    keys = user_time_keys(rows)
    order = keys.arg_sort()
    rows = rows[order]
    user, time = rows["user_idx"].to_numpy(), rows["timestamp"].to_physical().fill_null(-1).to_numpy()  # (R,) each
    again = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    if again.any():  # rows of equal user and time: only they need a hash
        tied = np.flatnonzero(np.append(again, False) | np.append(False, again))  # (T,)
        hashes = pair_hashes(rows[tied], user_ids, item_ids, seed, "tie")
        source = order[tied]  # rows that are equal in all of it are in source order, in shards as in one piece
        equal = pl.DataFrame({"key": keys[source], "hash": hashes, "source": source}).hstack(
            rows[tied].select(ties[1:])
        )
        by_hash = equal.select(pl.arg_sort_by("key", *ties, "source"))
        places = np.arange(rows.height)
        places[tied] = tied[by_hash.to_series().to_numpy()]
        rows = rows[places]
    return rows, _index("user", user_ids), _index("item", item_ids)


def _weighted(clean: pl.DataFrame, kinds: Sequence[str]) -> pl.DataFrame:
    """Code of the event type, 0 without types, and the other columns of tables.WEIGHTED."""
    codes = {kind: code for code, kind in enumerate(kinds)}
    event = pl.col("event").replace_strict(codes, default=0, return_dtype=pl.Int8) if codes else pl.lit(0, pl.Int8)
    return clean.select(event.alias("event"), pl.col("quantity").cast(pl.Float32), "target", "masks")


def user_time_keys(rows: pl.DataFrame) -> pl.Series:
    """One Int64 per row, (R,), that sorts by user, then time, rows without a time first: one sort instead of two."""
    time = rows["timestamp"].to_physical()
    first = int(time.min() or 0)  # type: ignore[arg-type]
    since = time.fill_null(first).to_numpy(writable=True)  # (R,) microseconds; changed in place to save memory
    since -= first
    chunks = np.array_split(since, len(since) // 2**16 + 1)  # each fits the CPU cache
    # most sources count in seconds or milliseconds
    unit = next(unit for unit in (10**6, 1000, 1) if not any((chunk % unit).any() for chunk in chunks))
    since //= unit
    users = rows["user_idx"].to_numpy()  # (R,)
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
