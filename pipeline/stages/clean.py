"""Which rows take part: the latest of each user and item, kept by condition, sampled, and dense enough."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config.dataset import Feedback, Filter
from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation.filters import mark
from pipeline.preparation.ids import LAKE_PARQUET, any_twice, codes_of, id_hashes, pair_keys
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.storage import lake

VERSION = 2


def clean_interactions(run: Run, raw: Path) -> Path:
    """Apply `feedback` and `filter` to raw/interactions.parquet.

    Writes interactions.parquet (contract `clean`, in source order) and a ledger of every raw row.
    Raises Refused where nothing is left, SettingsError for a condition that can't be read.
    """
    feedback, filters = run.settings.dataset.feedback, run.settings.dataset.filter

    def write(folder: Path) -> lake.StageResult:
        source = pl.read_parquet(raw / "interactions.parquet")
        rows, ledger = clean(source, feedback, filters, run.settings.seed)
        rows = tables.CLEAN.check(rows, unique=False)  # unique by construction
        rows.write_parquet(folder / "interactions.parquet", **LAKE_PARQUET)
        info = {"data_hash": lake.info(raw).get("data_hash")}
        return lake.StageResult(rows_in=source.height, rows_out=rows.height, ledger=ledger, info=info)

    return lake.build(run, spec(run, raw), write)


def spec(run: Run, raw: Path) -> lake.Spec:
    """Key of `clean_interactions`."""
    feedback, filters = run.settings.dataset.feedback, run.settings.dataset.filter
    settings = {"keep_if": feedback.keep_if, "positive_if": feedback.positive_if, **filters.model_dump()}
    if filters.user_fraction < 1:
        settings["seed"] = run.settings.seed
    return lake.Spec(StageCall(StageName.CLEAN), "2_clean", VERSION, settings, parents=(raw,))


def clean(raw: pl.DataFrame, feedback: Feedback, filters: Filter, seed: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Rows that take part, in source order, with `positive`; and the rows by reason, summing to `raw`."""
    raw = raw.cast({"user_id": pl.Categorical, "item_id": pl.Categorical})  # as the lake stores them
    steps: dict[Reason, Callable[[pl.DataFrame], pl.DataFrame]] = {
        Reason.DUPLICATE: keep_latest,
        Reason.KEEP_IF: lambda rows: mark(rows, feedback).filter("kept").drop("kept"),
        Reason.USER_NOT_SAMPLED: lambda rows: sample_users(rows, filters.user_fraction, seed),
        Reason.BELOW_MIN_INTERACTIONS: lambda rows: k_core(
            rows, filters.min_user_interactions, filters.min_item_interactions
        ),
    }
    rows, ledger = raw, {}
    for reason, step in steps.items():
        before = rows.height
        rows = step(rows)
        ledger[str(reason)] = before - rows.height
    if rows.is_empty():
        removed = ", ".join(f"{reason} removed {n:,}" for reason, n in ledger.items() if n)
        raise Refused(f"nothing is left of {raw.height:,} valid source rows: {removed or 'there were none'}")
    if not rows["positive"].any():
        raise Refused(f"none of {rows.height:,} kept rows is positive (positive_if = {feedback.positive_if!r})")
    return rows, {str(Reason.KEPT): rows.height, **ledger}


def keep_latest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row a user and item: the latest; at equal times, or without times, the last in the source."""
    pairs = pair_keys(rows, "user_id", "item_id").alias("pair")
    if not any_twice(pairs):
        return rows
    repeated = rows.select("timestamp", pairs).with_row_index("row").filter(pairs.is_duplicated())
    latest = repeated.sort("timestamp", "row", nulls_last=False).unique("pair", keep="last", maintain_order=True)
    stays = np.ones(rows.height, dtype=bool)  # (R,)
    stays[repeated["row"].to_numpy()] = False
    stays[latest["row"].to_numpy()] = True
    return rows.filter(stays)


def sample_users(rows: pl.DataFrame, fraction: float, seed: int) -> pl.DataFrame:
    """All rows of about `fraction` of the users; who is drawn depends on id and seed, on nothing else."""
    if fraction >= 1:
        return rows
    users = rows["user_id"].unique().cast(pl.String)
    drawn = id_hashes(users, seed, "user sample") < np.uint64(fraction * 2**64)  # (U,)
    return rows.filter(pl.col("user_id").is_in(users.filter(drawn).cast(pl.Categorical).implode()))


def k_core(rows: pl.DataFrame, min_user: int, min_item: int) -> pl.DataFrame:
    """The largest set of rows in which every user has `min_user` rows and every item `min_item`."""
    if max(min_user, min_item) <= 1:
        return rows
    user = codes_of(rows["user_id"])[0].to_numpy()  # (R,)
    item = codes_of(rows["item_id"])[0].to_numpy()  # (R,)
    stays = np.arange(rows.height)
    while True:
        dense = (np.bincount(user)[user] >= min_user) & (np.bincount(item)[item] >= min_item)
        if dense.all():
            return rows[stays]
        stays, user, item = stays[dense], user[dense], item[dense]
