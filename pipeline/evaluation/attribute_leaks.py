"""Attributes of the catalog that know what was held out, such as the number of sales up to today."""

import math
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.sources.model_attributes import NUMBERS

TOTAL, BEYOND = 0.6, 0.3
"""Least rank correlation with all events of an item, and with its held-out ones beyond what train explains."""
FEWEST, Z = 30, 4.0
"""Items to judge by, and standard errors that the second one is above 0."""


def leaking(split_dir: Path) -> dict[str, tuple[float, float]]:
    """Numbers of the catalog that leak: name to both correlations, see TOTAL and BEYOND; {} without `[attributes]`.

    The second one is Spearman's partial correlation of the number with the rows of valid and test per item, given those
    of train, over items with a row in train. Popularity from before the cut has none: train explains it.
    """
    path = split_dir / NUMBERS
    if not path.exists():
        return {}
    counts = {name: _counts(pl.read_parquet(split_dir / f"{name}.parquet")) for name in ("train", "valid", "test")}
    known = counts["train"].rename({"n": "train"})
    for name in ("valid", "test"):
        known = known.join(counts[name].rename({"n": name}), on="item_idx", how="left")
    known = (
        known.fill_null(0)
        .with_columns(held=pl.col("valid") + pl.col("test"))
        .with_columns(total=pl.col("held") + pl.col("train"))
    )
    found = {}
    for (name,), column in pl.read_parquet(path).group_by("attribute", maintain_order=True):
        rows = known.join(column, on="item_idx")
        if rows.height < FEWEST:
            continue
        ranks = rows.select(pl.col("number", "train", "held", "total").rank("average"))
        with np.errstate(invalid="ignore", divide="ignore"):
            c = np.corrcoef(ranks.to_numpy().T)  # (4, 4)
            beyond = (c[0, 2] - c[0, 1] * c[1, 2]) / np.sqrt((1 - c[0, 1] ** 2) * (1 - c[1, 2] ** 2))
        if not np.isfinite([c[0, 3], beyond]).all() or abs(c[0, 3]) < TOTAL or abs(beyond) < BEYOND:
            continue
        if math.atanh(min(abs(beyond), 0.999999)) * math.sqrt(rows.height - 4) > Z:
            found[str(name)] = (float(c[0, 3]), float(beyond))
    return found


def _counts(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("item_idx").agg(pl.len().cast(pl.Int64).alias("n"))
