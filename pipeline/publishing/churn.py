"""How much tonight's lists differ from the published ones."""

from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse

PERSISTENCE = 0.9
"""p of rank-biased overlap: the first ten ranks carry 86 % of the weight (Webber, Moffat and Zobel 2010, sec. 4.3)."""


def compare(con: warehouse.Connection, run: Run, live: str | None) -> None:
    """Journal tables.CHURN of this night: its `recommendations` in `con` compared with those of the `live` generation.

    Only users with a list in both count; `sql/2_churn.sql` has the formulas. Nothing is compared without a published
    generation, or where it can't be read; a note says so.
    """
    before = published_file(run, live)
    if live is None or before is None:
        return
    try:
        with warehouse.attached(con, before, "before"):
            con.execute("CREATE TEMP TABLE before_lists AS SELECT user_id, rank, item_id FROM before.recommendations")
    except warehouse.DatabaseError as error:
        journal.note(run, f"churn: the published tables of {live} can't be read ({str(error).splitlines()[0]})")
        return
    records = measure(con).select(pl.lit(live).alias("compared_with"), pl.all()).to_dicts()
    con.execute("DROP TABLE before_lists")
    if not records:
        journal.note(run, f"churn: no user of tonight has a list in the published tables of {live}")
        return
    journal.append(run, tables.CHURN, records)
    of = next(record for record in records if record["segment"] == "all")
    bounds = run.settings.churn
    if bounds.accept and bounds.max_change is not None and 1 - of["jaccard"] > bounds.max_change:
        journal.note(
            run, f"churn: {1 - of['jaccard']:.3f} is above churn.max_change = {bounds.max_change:g}, and accepted"
        )
    log.info(
        f"  lists against those of {live}: Jaccard@{of['cutoff']} {of['jaccard']:.3f}, RBO {of['rbo']:.3f}, mean of "
        f"{of['n']:,} users; {of['items_entered']:,} items entered, {of['items_left']:,} left"
    )


def measure(con: warehouse.Connection, p: float = PERSISTENCE) -> pl.DataFrame:
    """Columns of tables.CHURN after compared_with: `recommendations` and `users` compared with `before_lists`."""
    rows = warehouse.run_sql(con, "2_churn", p=p)
    assert rows is not None
    return rows.pl()


def published_file(run: Run, live: str | None) -> Path | None:
    """The generation of the live night, which has no stray logs; else the live file."""
    if live is None:
        return None
    generation = run.home.generation(run.dataset, live)
    return generation if generation.exists() else run.home.live(run.dataset)
