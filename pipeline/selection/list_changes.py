"""How much the lists of competing models would change the published ones, for a sample of the users."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config.run import Run
from pipeline.models.serialization import load
from pipeline.publishing import business_rules, holdback, item_conditions, item_tables, rule_files, user_lists
from pipeline.publishing.churn import published_file
from pipeline.storage import lake, warehouse
from pipeline.storage.expressions import night_date
from pipeline.training.device import resolve_device
from pipeline.training.interactions import Interactions

ListChanges = Mapping[str, np.ndarray]
"""By label, 1 - Jaccard of the model's list and the published one, of the same users in the same order, (U,)."""


@dataclass(frozen=True)
class Refits:
    """Competing models as fitted on all rows, and the rows."""

    raw: Path
    encoded: Path
    by_label: Mapping[str, Path]


def measure(run: Run, live: str | None, refits: Refits) -> ListChanges:
    """Make the default lists of a sample by every model, and compare each with the list that the user has.

    The sample is drawn by seed from the active users whom the published model served, `gate.list_users` at most. Lists
    are made by tonight's rules, without reasons and without places for new items; those places count in neither list.
    Lists are compared up to the length of the published one. Empty where the published tables can't be read, or no
    user is left.
    """
    rows = pl.read_parquet(refits.raw / "interactions.parquet")
    published = _published_lists(run, live, rows["user_id"])
    if published.is_empty():
        return {}
    device, shape = resolve_device(run.settings.device), lake.info(refits.encoded)
    frame = pl.read_parquet(refits.encoded / "interactions.parquet")
    known = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device, run.settings.recency)
    settings = run.settings.model_copy(update={"export": run.settings.export.model_copy(update={"reasons": 0})})
    alone, users = run.model_copy(update={"settings": settings}), published["user_id"].unique()
    wanted, changes = _default_list(run, refits, rows), dict[str, pl.DataFrame]()
    for label, folder in refits.by_label.items():
        fitted = user_lists.Fitted(load(folder, device), known)
        parts = user_lists.recommend(alone, fitted, rows, refits.encoded, [wanted], users)
        lists = [part.lists.with_columns(pl.col("user_id").cast(pl.String)) for part in parts]
        changes[label] = changes_of(published, pl.concat(lists)) if lists else published.clear()
    shared = users.to_frame()
    for of_users in changes.values():
        shared = shared.join(of_users, on="user_id", how="semi")
    shared = shared.sort("user_id")
    found = {
        label: shared.join(of_users, on="user_id", maintain_order="left")["change"].to_numpy()
        for label, of_users in changes.items()
    }
    return found if shared.height else {}


def changes_of(published: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """user_id and change = 1 - |S ∩ T| / |S ∪ T| of the items of both lists, for users with both.

    Both have user_id, rank, item_id; `lists` count up to as many ranks as the user's published list has items.
    """
    sizes = published.group_by("user_id").agg(then=pl.len())
    cut = lists.join(sizes, on="user_id").filter(pl.col("rank") <= pl.col("then"))
    now = cut.group_by("user_id").agg(now=pl.len())
    common = cut.join(published, on=["user_id", "item_id"], how="semi").group_by("user_id").agg(common=pl.len())
    both = sizes.join(now, on="user_id").join(common, on="user_id", how="left")
    counts = [pl.col(name).cast(pl.Int64).fill_null(0) for name in ("then", "now", "common")]
    then, now_, shared = counts
    return both.select("user_id", change=1 - shared / (then + now_ - shared)).sort("user_id")


def _published_lists(run: Run, live: str | None, users: pl.Series) -> pl.DataFrame:
    """user_id, rank and item_id of the sample's published lists, without places for new items; empty without any."""
    before = published_file(run, live)
    empty = pl.DataFrame(schema={"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String})
    if before is None or not before.exists():
        return empty
    held = run.settings.export.holdback
    query = f"""
        WITH served AS (
            SELECT user_id FROM before.recommendations GROUP BY user_id
            HAVING bool_or(source = 'model') AND NOT bool_or(source = 'holdback')
        ), sample AS (
            SELECT user_id FROM served SEMI JOIN _users USING (user_id)
            WHERE NOT ({holdback.condition(held) if held else "false"})
            ORDER BY md5_number_lower(concat_ws(chr(31), 'list changes', $seed, user_id)), user_id LIMIT $users
        )
        SELECT user_id, rank, item_id FROM before.recommendations SEMI JOIN sample USING (user_id)
        WHERE source <> '{user_lists.EXPLORE}'
    """
    params = {"seed": str(run.settings.seed), "users": run.settings.gate.list_users}
    try:
        with warehouse.scratch(threads=1) as con, warehouse.attached(con, before, "before"):
            con.register("_users", users.cast(pl.String).unique().alias("user_id").to_frame().to_arrow())  # pyright: ignore
            return con.sql(query, params=params).pl().cast(empty.schema)  # type: ignore[arg-type]
    except warehouse.DatabaseError:
        return empty  # the audit of this night says why it can't be read


def _default_list(run: Run, refits: Refits, rows: pl.DataFrame) -> user_lists.Wanted:
    """The default list by the rules of `[export]`, without places for new items."""
    export, night = run.settings.export, night_date(run.as_of, run.started_at)
    ids = pl.read_parquet(refits.encoded / "items.parquet")["item_id"]
    catalog = item_tables.read_catalog(refits.raw)
    items = ids.to_frame().join(item_tables.items(rows, catalog), on="item_id", how="left", maintain_order="left")
    frame = item_conditions.of_raw(refits.raw, items, run.settings.dataset.items, night)
    listed = rule_files.read_lists(export, run.data, run.started_at.date())
    return user_lists.Wanted(business_rules.rules_of(export, listed, frame, catalog), export.top_n)
