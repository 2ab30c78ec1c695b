"""Source ids as numbers: dense codes, and seeded hashes that order rows independently of the order of the files."""

import numpy as np
import polars as pl

from pipeline.core.seeding import mix, seed_of, stable_hash

LAKE_PARQUET = {"compression": "lz4", "statistics": False, "row_group_size": 2**21}
"""Files that are read whole, once or twice: speed over size. Every row group repeats the ids, so groups are large."""
ENCODED_PARQUET = {
    **LAKE_PARQUET, "compression": "uncompressed",
    "repeated": ("user_idx", "rating"), "required": ("user_idx", "item_idx", "positive"),
}  # fmt: skip
"""For RowsWriter, files of numbers only: not compressed, since that takes longer than to write a third more bytes."""


def codes_of(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Dense Int32 codes (R,), and the sorted distinct ids that they index."""
    stored = ids.cast(pl.Categorical)
    found = stored.unique()  # unordered
    order = found.cast(pl.String).arg_sort()
    distinct, places = found.cast(pl.String)[order], found.to_physical()[order].to_numpy()  # (N,) each
    code_at = np.zeros(int(places.max()) + 1 if len(places) else 0, dtype=np.int32)
    code_at[places] = np.arange(len(places), dtype=np.int32)
    return pl.Series(ids.name, code_at[stored.to_physical().to_numpy()]), distinct


def pair_keys(rows: pl.DataFrame, user: str = "user_idx", item: str = "item_idx") -> pl.Series:
    """One Int64 per pair of user and item, (R,), from indices or from ids that are Categorical."""
    user_code, item_code = (pl.col(name).to_physical().cast(pl.Int64) for name in (user, item))
    return rows.select(user_code * 2**32 + item_code).to_series()


def any_twice(keys: pl.Series) -> bool:
    """Whether a value occurs more than once."""
    ordered = keys.sort().to_numpy()  # (R,): faster than a hash table
    return bool((ordered[1:] == ordered[:-1]).any())


def id_hashes(ids: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """A uint64 per id, from id, seed and purpose only: the same on every machine and night."""
    hashes = np.fromiter((stable_hash(text) for text in ids), dtype=np.uint64, count=len(ids))  # (N,)
    return mix(np.array([seed_of(seed, purpose)], dtype=np.uint64), hashes)


def pair_hashes(rows: pl.DataFrame, users: pl.Series, items: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """A uint64 per row from the source ids of its user and item; `users` and `items` are source ids by dense index."""
    user, item = rows["user_idx"].to_numpy(), rows["item_idx"].to_numpy()  # (R,) each
    return mix(id_hashes(users, seed, purpose)[user], id_hashes(items, seed, purpose)[item])
