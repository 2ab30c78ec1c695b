"""Checks tonight's source before anything is trained: volume, freshness, times, columns, drift."""

from datetime import datetime
from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.preparation.id_columns import count_rows
from pipeline.publishing import checks, drift
from pipeline.schemas import tables
from pipeline.schemas.reasons import LEFT_OUT
from pipeline.sources import incremental
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.stages.ingest import LAYER
from pipeline.storage import journal, lake, warehouse
from pipeline.storage.generations import live_run_id

WITHDRAW = (
    " Correct the files or take them away: what only refused nights have read counts no longer once no file has it."
)
NIGHTS = 8
"""Published nights that tonight's volume is compared with."""


def admit_source(run: Run, raw: Path) -> Path:
    """Run the checks of `sql/checks/input` on `1_raw`; returns `raw`. Raises Refused with the checks that failed.

    The checks read `source_rows`, `tonight` (one row of tables.INPUTS), `earlier_nights` (such rows of the last
    published nights with the same source mode), `drift` (tables.DRIFT of tonight) and `bounds`. The result depends on
    the clock and on earlier nights, so the checks run every night and the lake keeps no result.
    """
    limits = (run.settings.threads, run.settings.memory_limit)
    with journal.stage(run, "admit") as record, warehouse.scratch(*limits) as con:
        source = warehouse.literal(raw / INTERACTIONS)
        con.execute(f"CREATE TEMP VIEW source_rows AS SELECT * FROM read_parquet({source})")
        statistics = describe(run, raw, con.sql("SELECT max(timestamp) FROM source_rows").fetchall()[0][0])
        record.update(rows_in=statistics["rows"], rows_out=statistics["rows"])
        earlier = earlier_nights(run)
        newest = statistics["newest"] and statistics["newest"].isoformat(timespec="microseconds")
        journal.append(run, tables.INPUTS, [{**statistics, "newest": newest}])
        tonight = pl.DataFrame([{"run_id": run.run_id, **statistics}], schema=tables.INPUTS.schema, orient="row")
        checks.temporary(con, "tonight", tonight)
        checks.temporary(con, "earlier_nights", earlier)
        checks.temporary(con, "source_items", count_rows(raw / INTERACTIONS, "item_id"))
        checks.temporary(con, "drift", drift.measure(con, run, live_run_id(run.home, run.dataset)))
        checks.bounds(con, run)
        failed = checks.run_checks(con, run, "input")
    is_incremental = run.settings.dataset.source.mode == "incremental"
    if is_incremental:
        incremental.judge(run.home.lake(run.dataset) / LAYER, is_refused=bool(failed))
    if failed:
        raise Refused(
            "the source is not fit for a night: " + "; ".join(failed.reasons)
            + ". Nothing was trained, and the published tables are unchanged."
            + (WITHDRAW if is_incremental else ""),
            failed.ids,
        )  # fmt: skip
    return raw


def describe(run: Run, raw: Path, newest: datetime | None) -> dict:
    """Tonight's row of tables.INPUTS, without run_id."""
    manifest, dataset = lake.read_manifest(raw), run.settings.dataset
    left_out = sum(manifest["ledger"].get(reason, 0) for reason in LEFT_OUT)
    return {
        "mode": dataset.source.mode, "rows": manifest["rows_out"],
        "rejected": (manifest["rows_in"] or manifest["rows_out"]) - manifest["rows_out"] - left_out,
        "newest": newest, "rated": dataset.columns.rating is not None, "timed": dataset.columns.timestamp is not None,
    }  # fmt: skip


def earlier_nights(run: Run) -> pl.DataFrame:
    """Rows of tables.INPUTS of the last published nights before this one with the same source mode, oldest first."""
    home, dataset = run.home, run.dataset
    nights = journal.read(home, dataset, tables.RUNS).filter(
        pl.col("outcome") == "published", pl.col("run_id") < run.run_id
    )
    inputs = journal.read(home, dataset, tables.INPUTS).join(nights, on="run_id", how="semi")
    return inputs.filter(mode=run.settings.dataset.source.mode).sort("run_id").tail(NIGHTS)
