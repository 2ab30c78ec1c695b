"""A whole night in this process, and a query of what it published."""

from pathlib import Path

import polars as pl

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.storage import warehouse

QUICK = ["models.mf.epochs=2", "threads=1"]
"""Overrides of the recipe `nightly`."""


def one_night(
    home: Path, dataset: str, recipe: str | Path, *overrides: str, data: Path | None = None, step=line.plainly
) -> Run:
    """Run it and assert that it publishes."""
    run = prepare(dataset, str(recipe), data and str(data), str(home), list(overrides))
    assert line.conduct(run, step) == "published"
    return run


def ask(run: Run, query: str) -> pl.DataFrame:
    """Rows of a query of the live tables."""
    with warehouse.connect(run.home.live(run.dataset), read_only=True) as con:
        return con.sql(query).pl()
