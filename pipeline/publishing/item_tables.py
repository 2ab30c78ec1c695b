"""Published tables about users and items, as pure functions of frames."""

from pathlib import Path

import numpy as np
import polars as pl
from torch import Tensor

from pipeline.preparation.ids import pair_keys
from pipeline.schemas import tables
from pipeline.storage import lake

AT_ONCE = 1 << 21
"""Rows that are counted at once: tables of groups of all rows take 30 bytes a row."""


def users(rows: pl.DataFrame) -> pl.DataFrame:
    """Every user with a valid row."""
    return _counted(rows, "user_id").sort("user_id")


def items(rows: pl.DataFrame, catalog: pl.DataFrame) -> pl.DataFrame:
    """Every item with a valid row or a catalog entry."""
    joined = _counted(rows, "item_id").join(catalog.select("item_id", "title"), on="item_id", how="full", coalesce=True)
    return joined.with_columns(pl.col("n_interactions").fill_null(0)).sort("item_id")


def _counted(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Number of rows of each id, and the times of its first and last one."""
    count = pl.len().cast(pl.Int64).alias("n_interactions")
    times = (pl.col("timestamp").min().alias("first_seen"), pl.col("timestamp").max().alias("last_seen"))
    if rows.height <= AT_ONCE:
        return rows.group_by(name).agg(count, *times).with_columns(pl.col(name).cast(pl.String))
    parts = [part.select(name, "timestamp").group_by(name).agg(count, *times) for part in rows.iter_slices(AT_ONCE)]
    sums = (pl.col("n_interactions").sum(), pl.col("first_seen").min(), pl.col("last_seen").max())
    return pl.concat(parts).group_by(name).agg(*sums).with_columns(pl.col(name).cast(pl.String))


def read_catalog(raw: Path) -> pl.DataFrame:
    """The item catalog of the source, empty where it has none."""
    path = raw / "catalog.parquet"
    return pl.read_parquet(path) if path.exists() else tables.CATALOG.empty()


def popular_items(rows: pl.DataFrame, windows: list[int], n: int, newest: object = None) -> pl.DataFrame:
    """The `n` items with the most rows in the whole history (0) and in the last days; ties by item id.

    `rows`: those that count, which may be some of all; `newest`: time of the newest of all, from which the days count.
    """
    newest = rows["timestamp"].max() if newest is None else newest
    timed = rows["timestamp"].null_count() == 0
    parts = []
    for days in sorted({0, *windows}) if timed else [0]:
        recent = rows
        if days:
            recent = rows.filter(pl.col("timestamp") > pl.lit(newest, tables.TIME) - pl.duration(days=days))
        counted = recent.group_by("item_id").len("score").with_columns(pl.col("item_id").cast(pl.String))
        top = counted.sort(["score", "item_id"], descending=[True, False]).head(n)
        parts.append(
            top.select(
                pl.int_range(1, pl.len() + 1, dtype=pl.Int32).alias("rank"),
                "item_id",
                pl.col("score").cast(pl.Float64),
                pl.lit(days, dtype=pl.Int32).alias("window_days"),
            )
        )
    return pl.concat(parts)


def n_pairs(rows: pl.DataFrame) -> int:
    """Number of distinct pairs of a user and an item."""
    keys = np.empty(rows.height, dtype=np.int64)  # (R,)
    start = 0
    for part in rows.select(pl.col("user_id", "item_id").cast(pl.Categorical)).iter_slices(AT_ONCE):
        keys[start : start + part.height] = pair_keys(part, "user_id", "item_id").to_numpy()
        start += part.height
    keys.sort()  # in place: half the memory of a hash table
    places = range(1, len(keys), AT_ONCE)
    return bool(len(keys)) + sum(int(np.count_nonzero(np.diff(keys[at - 1 : at - 1 + AT_ONCE + 1]))) for at in places)


def summary(rows: pl.DataFrame) -> pl.DataFrame:
    """One row about all valid rows."""
    users, items, pairs = rows["user_id"].n_unique(), rows["item_id"].n_unique(), n_pairs(rows)
    return pl.DataFrame(
        {
            "rows": rows.height,
            "users": users,
            "items": items,
            "density": pairs / (users * items),
            "first_timestamp": rows["timestamp"].min(),
            "last_timestamp": rows["timestamp"].max(),
        },
        schema=tables.INTERACTIONS_SUMMARY.schema,
    )


def biases(encoded: Path, label: str, kind: str, values: Tensor | None) -> pl.DataFrame:
    """User or item biases with the source's ids; no rows where the family has none."""
    if values is None:
        return tables.BIASES.empty()
    return pl.DataFrame(
        {"id": _ids(encoded, kind), "bias": values.double().cpu().numpy()}
    ).select(pl.lit(label).alias("model"), pl.lit(kind).alias("kind"), "id", "bias")  # fmt: skip


def vectors(encoded: Path, label: str, kind: str, values: Tensor | None, some: range | None = None) -> pl.DataFrame:
    """User or item embeddings with the source's ids; no rows where the family has none. `some`: those of `values`."""
    if values is None:
        return tables.USER_VECTORS.empty()
    vector = pl.Series("vector", values.float().cpu().numpy()).arr.to_list()
    ids = _ids(encoded, kind)
    ids = ids if some is None else ids.slice(some.start, len(some))
    return pl.DataFrame({"id": ids, "vector": vector}).select("id", pl.lit(label).alias("model"), "vector")


def predictions(encoded: Path, measured: list[Path]) -> pl.DataFrame:
    """Ratings of test and predicted ones, of every evaluated model that predicts ratings, with the source's ids."""
    users, items = _ids(encoded, "user"), _ids(encoded, "item")
    parts = [tables.PREDICTIONS.empty()]
    for folder in measured:
        rows = pl.read_parquet(folder / "predictions.parquet")
        names = pl.lit(lake.info(folder)["label"]).alias("model")
        own = (users.gather(rows["user_idx"]).alias("user_id"), items.gather(rows["item_idx"]).alias("item_id"))
        parts.append(rows.select(names, *own, "rating", "prediction"))
    return pl.concat(parts)


def _ids(encoded: Path, kind: str) -> pl.Series:
    return pl.read_parquet(encoded / f"{kind}s.parquet")[f"{kind}_id"]
