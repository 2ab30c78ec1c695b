"""What a report reads from the published tables: users served, items shown, examples of users and items."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.core import paths
from pipeline.storage import reader, warehouse

LISTED, REMEMBERED, NEIGHBOURS, WELL_KNOWN = 10, 10, 6, 6
"""Lengths of the lists shown: recommendations, history, similar items, items with similar ones."""
DECILES, POINTS = 10, 600

EXAMPLES = """
with listed as (
    select users.user_id, users.n_interactions,
        any_value(recommendations.source order by source in ('promoted', 'explore')) as source
    from users join recommendations using (user_id)
    group by users.user_id, users.n_interactions
),
placed as (
    select *, row_number() over (order by n_interactions desc, user_id) as place, count(*) over () as n from listed
),
chosen as (
    select 'most active' as why, 1 as turn, * from placed where place = 1
    union all select 'among the most active quarter', 2, * from placed where place = cast(ceil(n * 0.25) as bigint)
    union all select 'of median activity', 3, * from placed where place = cast(ceil(n * 0.5) as bigint)
    union all select 'least active', 4, * from placed where place = n
    union all (
        select 'served by popular items', 5, * from placed where source = 'fallback' order by place limit 1
    )
)
select user_id, n_interactions, source, first(why order by turn desc) as why
from chosen group by user_id, n_interactions, source order by min(turn)
"""
SIMILAR = """
with known as (
    select item_id, title, n_interactions from items
    where item_id in (select item_id from similar_items)
    order by n_interactions desc, item_id limit $n
)
select known.*, s.rank, s.similar_item_id, s.similar_title
from known join similar_items_titled as s using (item_id)
where s.rank <= $neighbours
order by known.n_interactions desc, known.item_id, s.rank
"""


def look(file: Path, raw: Path | None) -> dict[str, Any]:
    """Everything that the report shows of a published database; histories only where the source rows (`raw`) exist."""
    with reader.open_file(file) as con:
        served = con.sql(
            "select count(distinct user_id) as users, count(*) as rows, "
            "count(distinct user_id) filter (source = 'fallback') as fallback, "
            "(select count(*) from users anti join recommendations using (user_id)) as unlisted, "
            "count(*) filter (source = 'explore') as explored, "
            "count(distinct item_id) filter (source = 'explore') as new_items from recommendations"
        ).pl()
        exposure = _view(con, "item_exposure")
        suppressed = con.sql(
            "select s.item_id, items.title, s.rule, s.reason, s.users from suppressed as s "
            "left join items using (item_id) order by s.users desc, s.item_id limit 10"
        ).pl()
        return {
            "served": served.row(0, named=True),
            "coverage": _view(con, "coverage").row(0, named=True),
            "top_n": con.sql("select max(rank) from recommendations").fetchall()[0][0],
            "most_shown": exposure.head(10).to_dicts(),
            "by_decile": by_decile(exposure),
            "exposure": thinned(exposure).to_dicts(),
            "suppressed": suppressed.to_dicts(),
            "similar": _similar(con),
            "examples": _examples(con, raw),
        }


def _view(con: warehouse.Connection, name: str) -> pl.DataFrame:
    """A view as this version defines it: the file of an earlier night has the view of its time, with other columns."""
    text = warehouse.read_sql(paths.SQL / "views" / f"{name}.sql")
    return con.sql(text.partition(f"create view {name} as")[2]).pl()


def by_decile(exposure: pl.DataFrame) -> list[dict[str, Any]]:
    """Share of the places in lists, and of the interactions, by popularity decile, the most popular items first.

    Each decile holds items with about a tenth of all interactions, so without popularity bias each has 10 %; an item
    that has more than a tenth is a decile by itself.
    """
    ranked = exposure.filter(pl.col("n_interactions") > 0).sort("popularity_rank", "item_id")
    counts = ranked["n_interactions"]
    before = (counts.cum_sum() - counts) / max(counts.sum(), 1)
    placed = ranked.with_columns(decile=(before * DECILES).floor().clip(0, DECILES - 1).cast(pl.Int64) + 1)
    summed = placed.group_by("decile").agg(pl.col("lists", "n_interactions").sum(), items=pl.len()).sort("decile")
    total = max(int(summed["lists"].sum()), 1)
    return [
        {"decile": row["decile"], "items": row["items"], "share": row["lists"] / total,
         "interactions": row["n_interactions"] / max(counts.sum(), 1)}
        for row in summed.to_dicts()
    ]  # fmt: skip


def thinned(exposure: pl.DataFrame) -> pl.DataFrame:
    """At most POINTS items: the most shown ones, and others evenly by popularity."""
    columns = ["item_id", "title", "n_interactions", "lists", "share_of_users"]
    known = exposure.filter(pl.col("n_interactions") > 0)
    if known.height > POINTS:
        rest = known[POINTS // 3 :].sort("popularity_rank", "item_id")
        known = pl.concat([known[: POINTS // 3], rest.gather_every(math.ceil(rest.height / (POINTS * 2 // 3)))])
    return known.select(columns)


def _similar(con: warehouse.Connection) -> list[dict[str, Any]]:
    rows = con.sql(SIMILAR, params={"n": WELL_KNOWN, "neighbours": NEIGHBOURS}).pl()
    groups = rows.group_by("item_id", "title", "n_interactions", maintain_order=True)
    return [
        dict(zip(("item_id", "title", "n_interactions"), key, strict=True)) | {"neighbours": of.to_dicts()}
        for key, of in groups
    ]


def _examples(con: warehouse.Connection, raw: Path | None) -> list[dict[str, Any]]:
    """Example users with their newest interactions and their lists."""
    users = con.sql(EXAMPLES).pl()
    params = {"users": users["user_id"].to_list(), "n": LISTED}
    lists = con.sql(
        "select user_id, rank, item_id, title, source from recommendations_titled "
        "where user_id in (select unnest($users)) and rank <= $n order by user_id, rank",
        params=params,
    ).pl()
    titles = con.sql("select item_id, title from items").pl()
    history = _histories(raw, params["users"], titles)
    return [
        {**user, "listed": lists.filter(user_id=user["user_id"]).to_dicts(),
         "history": None if history is None else history.filter(user_id=user["user_id"]).to_dicts()}
        for user in users.iter_rows(named=True)
    ]  # fmt: skip


def _histories(raw: Path | None, users: list[str], titles: pl.DataFrame) -> pl.DataFrame | None:
    """Newest interactions of these users; without times the highest rated, else the last lines of the source."""
    if raw is None:
        return None
    rows = pl.scan_parquet(raw / "interactions.parquet").with_row_index("line")
    rows = rows.with_columns(pl.col("user_id", "item_id").cast(pl.String)).filter(pl.col("user_id").is_in(users))
    newest = ["timestamp", "rating", "line"]
    found = rows.collect().sort(newest, descending=True, nulls_last=True).unique(["user_id", "item_id"], keep="first")
    found = found.sort(newest, descending=True, nulls_last=True).group_by("user_id", maintain_order=True)
    return found.head(REMEMBERED).join(titles, on="item_id", how="left", maintain_order="left")
