"""Source ids as numbers: dense codes, and seeded hashes that order rows whatever the ids or the files."""

import numpy as np
import polars as pl

from pipeline.rng import mix, seed_of, stable_hash

LAKE_PARQUET = {"compression": "lz4", "statistics": False}  # read whole, once or twice: speed before size


def codes_of(ids: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Dense Int32 codes, and the sorted distinct ids that they index."""
    distinct = ids.unique().sort()
    return ids.cast(pl.Enum(distinct)).to_physical().cast(pl.Int32), distinct


def id_hashes(ids: pl.Series, seed: int, purpose: str) -> np.ndarray:
    """A uint64 for every id, from id, seed and purpose alone: the same on every machine and night."""
    hashes = np.fromiter((stable_hash(text) for text in ids), dtype=np.uint64, count=len(ids))  # (N,)
    return mix(np.array([seed_of(seed, purpose)], dtype=np.uint64), hashes)


def pair_hashes(
    rows: pl.DataFrame, users: pl.Series, items: pl.Series, seed: int, purpose: str
) -> np.ndarray:
    """A uint64 for every row from its user's and its item's source id; `users` and `items` by dense index."""
    user, item = rows["user_idx"].to_numpy(), rows["item_idx"].to_numpy()  # (R,) each
    return mix(id_hashes(users, seed, purpose)[user], id_hashes(items, seed, purpose)[item])
