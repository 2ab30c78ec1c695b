"""A night on a few rows, for the tests of the data stages."""

import datetime as dt
from pathlib import Path

import polars as pl

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.core.stage_call import StageCall, StageName
from pipeline.schemas import tables
from pipeline.storage import journal, lake

DAY = dt.datetime(2026, 1, 1)


def raw(*records: tuple) -> pl.DataFrame:
    """Raw rows from (user, item, rating, day or None)."""
    rows = [
        (user, item, rating, None if day is None else DAY + dt.timedelta(days=day))
        for user, item, rating, day in records
    ]
    return tables.RAW.check(pl.DataFrame(rows, schema=tables.RAW.schema, orient="row"))


def make_run(home: Path, data: Path | None = None, **tree) -> Run:
    """An open night; `tree`: settings next to the data set's name."""
    dataset = {"name": "three", **tree.pop("dataset", {})}
    settings = Settings.model_validate({"dataset": dataset, "models": {"popularity": {}}, **tree})
    run = Run(run_id="r1", home_root=home, data=data or home, settings=settings, started_at=utcnow())
    journal.open_run(run)
    return run


def store(run: Run, rows: pl.DataFrame) -> Path:
    """A raw layer with these rows."""

    def write(folder: Path) -> lake.StageResult:
        rows.write_parquet(folder / "interactions.parquet")
        return lake.StageResult(rows_out=rows.height, info={"data_hash": "d"})

    return lake.build(run, lake.Spec(StageCall(StageName.INGEST), "1_raw", 1, {}), write)
