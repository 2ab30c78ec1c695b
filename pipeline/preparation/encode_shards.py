"""The stage `encode`, shard by shard: the rows and indices that it has of all rows at once."""

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from pipeline.preparation.encoding import encode_rows
from pipeline.preparation.shards import Shards


def encode_shards(
    cleaned: Shards, seed: int, kinds: Sequence[str], write: Callable[[pl.DataFrame, pl.DataFrame], None]
) -> pl.DataFrame:
    """Pass the encoded rows and the users of each shard to `write`, in order; returns all items.

    Users of a shard come before those of the next one, so their indices follow; items have one order for all.
    """
    numbers = range(len(cleaned.rows))
    per_shard = [cleaned.read(number, ["item_id"])["item_id"].unique().cast(pl.String) for number in numbers]
    catalog = pl.concat(per_shard).unique().sort()
    del per_shard
    n_users = 0
    for clean in cleaned:
        rows, users, items = encode_rows(clean, seed, kinds)
        place = catalog.search_sorted(items["item_id"]).to_numpy().astype(np.int32)  # (I of the shard,)
        item_idx = pl.Series("item_idx", place[rows["item_idx"].to_numpy()])
        rows = rows.with_columns(pl.col("user_idx") + n_users, item_idx)
        write(rows, users.with_columns(pl.col("user_idx") + n_users))
        n_users += users.height
    items = catalog.alias("item_id").to_frame().with_row_index("item_idx")
    return items.cast({"item_idx": pl.Int32})
