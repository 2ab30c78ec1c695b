"""Writes the report of a night for people. Nothing depends on it: when it fails, the night says so and goes on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.stages import track
from pipeline.storage import journal

T = TypeVar("T")


def write_report(run: Run) -> Path | None:
    """`warehouse/reports/<dataset>/<run_id>.html`, and a copy without users in MLflow; None where it failed.

    A replay has none.
    """
    if run.as_of:
        return None
    with journal.stage(run, "report"):
        facts = _tolerantly(run, lambda: _facts(run))
        path = _tolerantly(run, lambda: _kept(facts)) if facts else None
        if path and facts and journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id"):
            _tolerantly(run, lambda: track.log_report(run, _without_users(facts), _in_short(run, facts)))
    return path


def _facts(run: Run) -> dict[str, Any]:
    from pipeline.reporting.html import page  # imports altair, which takes a second
    from pipeline.reporting.night import Night

    return page.content(Night(run.home, run.dataset, run.run_id))


def _kept(facts: dict[str, Any]) -> Path:
    from pipeline.reporting.html import page

    path = page.keep(facts)
    log.info(f"  report: {path}")
    return path


def _without_users(facts: dict[str, Any]) -> str:
    from pipeline.reporting.html import page

    return page.html(facts, personal=False)


def _in_short(run: Run, facts: dict[str, Any]) -> str:
    from pipeline.reporting import markdown

    prefect = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    there = run.flow_run_id and prefect.startswith("http")
    links = {"Prefect run": f"{prefect}/runs/flow-run/{run.flow_run_id}"} if there else {}
    return markdown.markdown(facts, links, personal=False)


def _tolerantly(run: Run, deed: Callable[[], T]) -> T | None:
    try:
        return deed()
    except Exception as error:
        journal.note(run, f"the report could not be made: {type(error).__name__}: {error}")
        return None
