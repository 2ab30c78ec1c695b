"""How tonight's users, items and activity differ from the live tables, and whether that is usual for this data set."""

import polars as pl

from pipeline.config.run import Run
from pipeline.publishing import churn
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse

NIGHTS = 30
"""Published nights that a value is compared with."""
FEWEST = 5
"""With fewer nights, no value is unusual."""
WIDENED, LEAST = 0.5, 0.01
"""How far outside the range a value may be: a share of the range's width; at least a share of the larger of its end and
1, so that a history without any change does not make the first small one unusual."""
MEASURES = {
    "rows_change": "rows, against the live tables: 0.1 is 10 % more",
    "users_new": "share of users that the live tables do not have",
    "users_lost": "share of the live tables' users that are gone",
    "users_active": "share of users with a row in the 7 days before the newest one",
    "items_new": "share of items that the live tables do not have",
    "items_lost": "share of the live tables' items that are gone",
    "items_top_share": "share of rows of the 1 % most popular items",
    "rows_per_user": "rows per user",
    "rating_mean": "mean rating",
}


def measure(con: warehouse.Connection, run: Run, live: str | None) -> pl.DataFrame:
    """Measure and journal tables.DRIFT of this night, of `source_rows` and `source_items` in `con`; which is returned.

    Without live tables, or where they can't be read (a note says so), only what needs none is measured.
    """
    compared_with = _take_over_live(con, run, live)
    measured = warehouse.run_sql(con, "3_drift")
    assert measured is not None
    rows = compare(measured.pl(), history(run)).with_columns(
        run_id=pl.lit(run.run_id), compared_with=pl.lit(compared_with, pl.String)
    )
    rows = tables.DRIFT.check(rows.select(*tables.DRIFT.columns))
    journal.append(run, tables.DRIFT, rows.drop("run_id").to_dicts())
    con.execute("DROP TABLE before_users; DROP TABLE before_items; DROP TABLE before_rows")
    return rows


def compare(measured: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """`measured` (measure, value) with the usual range of each measure: usual_low, usual_high, nights, unusual.

    The range is that of the `earlier` values (rows of tables.DRIFT), widened; null for fewer than FEWEST.
    """
    low, high = pl.col("value").min(), pl.col("value").max()
    slack = pl.max_horizontal(WIDENED * (high - low), LEAST * pl.max_horizontal(high.abs(), low.abs(), pl.lit(1.0)))
    enough, is_share = pl.len() >= FEWEST, pl.col("measure").str.contains("^(users|items)_")
    ranges = earlier.group_by("measure").agg(
        usual_low=pl.when(enough).then(low - slack),
        usual_high=pl.when(enough).then(high + slack),
        nights=pl.len().cast(pl.Int32),
    )
    ranges = ranges.with_columns(
        usual_low=pl.when(is_share).then(pl.col("usual_low").clip(lower_bound=0.0)).otherwise("usual_low")
    )
    outside = (pl.col("value") < pl.col("usual_low")) | (pl.col("value") > pl.col("usual_high"))
    rows = measured.join(ranges, on="measure", how="left", maintain_order="left")
    return rows.with_columns(nights=pl.col("nights").fill_null(0), unusual=outside.fill_null(False))


def history(run: Run) -> pl.DataFrame:
    """Rows of tables.DRIFT of the last published nights before this one with the same source mode."""
    home, dataset, mode = run.home, run.dataset, run.settings.dataset.source.mode
    nights = journal.read(home, dataset, tables.RUNS).filter(
        pl.col("outcome") == "published", pl.col("run_id") < run.run_id
    )
    nights = nights.join(journal.read(home, dataset, tables.INPUTS).filter(mode=mode), on="run_id", how="semi")
    last = nights.sort("run_id").tail(NIGHTS)["run_id"]
    parts = [journal.read(home, dataset, tables.DRIFT, run_id) for run_id in last]
    return pl.concat(parts) if parts else tables.DRIFT.empty()


def _take_over_live(con: warehouse.Connection, run: Run, live: str | None) -> str | None:
    """Copy the live users and items into `con`; returns `live`, or None where there is nothing to compare with."""
    con.execute("CREATE OR REPLACE TEMP TABLE before_users (user_id VARCHAR)")
    con.execute("CREATE OR REPLACE TEMP TABLE before_items (item_id VARCHAR)")
    con.execute("CREATE OR REPLACE TEMP TABLE before_rows (rows BIGINT)")
    before = churn.published_file(run, live)
    if before is None:
        return None
    try:
        with warehouse.attached(con, before, "before"):
            con.execute("INSERT INTO before_rows SELECT rows FROM before.interactions_summary")
            con.execute("INSERT INTO before_items SELECT item_id FROM before.items WHERE n_interactions > 0")
            con.execute("INSERT INTO before_users SELECT user_id FROM before.users")
    except warehouse.DatabaseError as error:
        journal.note(run, f"drift: the published tables of {live} can't be read ({str(error).splitlines()[0]})")
        return None
    return live
