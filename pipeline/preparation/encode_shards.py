"""The stage `encode`, shard by shard: the rows and indices that it has of all rows at once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.preparation import shard_parts
from pipeline.preparation.encoding import encode_rows
from pipeline.preparation.shard_parts import Part
from pipeline.preparation.shards import Shards


def encode_shards(
    cleaned: Shards, seed: int, kinds: Sequence[str], scratch: Path, write: Callable[[pl.DataFrame, pl.DataFrame], None]
) -> pl.DataFrame:
    """Pass the encoded rows and the users of each shard to `write`, in order; returns all items.

    Users of a shard come before those of the next one, so their indices follow; items have one order for all.
    """
    numbers = range(len(cleaned.rows))
    per_shard = shard_parts.parts(items_of_shard, [(cleaned, number) for number in numbers], scratch)
    catalog = pl.concat([part.frames.pop("items") for part in per_shard]).unique().sort("item_id")
    catalog.write_parquet(listed := scratch / "catalog.parquet")
    n_users = 0
    calls = [(cleaned, number, listed, seed, kinds) for number in numbers]
    for part in shard_parts.parts(encode_shard, calls, scratch):
        rows, users = part.frames.pop("rows"), part.frames.pop("users")
        write(rows.with_columns(pl.col("user_idx") + n_users), users.with_columns(pl.col("user_idx") + n_users))
        n_users += users.height
        del rows
    return catalog.with_row_index("item_idx").cast({"item_idx": pl.Int32})


def items_of_shard(cleaned: Shards, number: int) -> Part:
    """The distinct items of a shard."""
    return Part({"items": cleaned.read(number, ["item_id"]).unique().cast(pl.String)})


def encode_shard(cleaned: Shards, number: int, catalog: Path, seed: int, kinds: Sequence[str]) -> Part:
    """The encoded rows and the users of a shard, with indices of users from 0 on. `catalog`: a file of all items."""
    rows, users, items = encode_rows(cleaned.read(number), seed, kinds)
    place = pl.read_parquet(catalog)["item_id"].search_sorted(items["item_id"]).to_numpy().astype(np.int32)
    item_idx = pl.Series("item_idx", place[rows["item_idx"].to_numpy()])  # (R,) from (I of the shard,)
    return Part({"rows": rows.with_columns(item_idx), "users": users})
