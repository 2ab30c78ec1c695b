"""A whole night in this process, and a query of what it published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import warehouse

QUICK = ["models.mf.epochs=2", "threads=1"]
"""Overrides of the recipe `nightly`."""
CHEAP = "[models.popularity]\n[models.ease]\n"
"""A recipe of two families that are fitted in no time."""


def without_report(call: StageCall, stage: Callable, *args: Any) -> Any:
    """A step that leaves out the report, for nights whose report no test looks at."""
    return None if call.place is StageName.REPORT else line.plainly(call, stage, *args)


def without_views(call: StageCall, stage: Callable, *args: Any) -> Any:
    """A step that leaves out the report and MLflow."""
    return None if call.place is StageName.TRACK else without_report(call, stage, *args)


def one_night(
    home: Path, dataset: str, recipe: str | Path, *overrides: str, data: Path | None = None, step=line.plainly
) -> Run:
    """Run it and assert that it publishes."""
    run = prepare(dataset, str(recipe), data and str(data), str(home), list(overrides))
    assert line.conduct(run, step) == "published"
    return run


def ask(run: Run, query: str) -> pl.DataFrame:
    """Rows of a query of the live tables."""
    return rows_of(run.home.live(run.dataset), query)


def rows_of(path: Path, query: str) -> pl.DataFrame:
    """Rows of a query of the tables in a file."""
    with warehouse.scratch() as con, warehouse.attached(con, path, "asked"):
        con.execute("USE asked")
        try:
            return con.sql(query).pl()
        finally:
            con.execute("USE memory")
