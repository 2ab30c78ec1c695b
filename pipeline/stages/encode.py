"""Source ids become dense indices, and rows get the order that every later stage relies on."""

from pathlib import Path

import polars as pl

from pipeline import lake, tables
from pipeline.run import Run
from pipeline.stages.ids import LAKE_PARQUET, codes_of, pair_hashes

VERSION = 1


def encode_ids(run: Run, clean: Path) -> Path:
    """Write interactions.parquet (contract `encoded`), users.parquet and items.parquet (dense index, id)."""

    def write(folder: Path) -> lake.Report:
        rows, users, items = encode(pl.read_parquet(clean / "interactions.parquet"), run.settings.seed)
        rows = tables.ENCODED.check(rows, unique=False)  # the codes are one to one, and `clean` is unique
        rows.write_parquet(folder / "interactions.parquet", **LAKE_PARQUET)
        users.write_parquet(folder / "users.parquet")
        items.write_parquet(folder / "items.parquet")
        info = {**lake.info(clean), "n_users": users.height, "n_items": items.height}
        return lake.Report(rows_in=rows.height, rows_out=rows.height, ledger={"kept": rows.height}, info=info)

    spec = lake.Spec("encode", "3_encoded", VERSION, {"seed": run.settings.seed}, parents=(clean,))
    return lake.build(run, spec, write)


def encode(clean: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Rows, users and items. Indices follow the sorted source ids (by their UTF-8 bytes).

    Rows are ordered by user, then time, then a seeded hash of user and item: sources are often sorted by
    item, and a sequence model would learn that from rows of equal time.
    """
    user_idx, user_ids = codes_of(clean["user_id"])
    item_idx, item_ids = codes_of(clean["item_id"])
    codes = {"user_idx": user_idx, "item_idx": item_idx, "rating": pl.col("rating").cast(pl.Float32)}
    rows = clean.with_columns(**codes).select(tables.ENCODED.schema.names())
    tie = pl.Series("tie", pair_hashes(rows, user_ids, item_ids, seed, "tie"))
    rows = rows.with_columns(tie).sort("user_idx", "timestamp", "tie", nulls_last=False).drop("tie")
    return rows, _index("user", user_ids), _index("item", item_ids)


def _index(kind: str, ids: pl.Series) -> pl.DataFrame:
    frame = ids.alias(f"{kind}_id").to_frame().with_row_index(f"{kind}_idx")
    return frame.cast({f"{kind}_idx": pl.Int32})
