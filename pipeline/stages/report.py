"""Writes the HTML report of a night. Nothing depends on it: when it fails, a note says so and the night goes on."""

import os
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core import collector
from pipeline.core.console import log
from pipeline.stages import track
from pipeline.storage import journal
from pipeline.storage.optional_steps import best_effort

PROBLEM = "the report could not be made"
NOT_COPIED = "the report could not be logged to MLflow"


def write_report(run: Run) -> Path | None:
    """`warehouse/reports/<dataset>/<run_id>.html`, and a copy without users in MLflow; None where it failed.

    A replay has no report.
    """
    if run.as_of:
        return None
    with journal.stage(run, "report"):
        facts = best_effort(run, PROBLEM, lambda: _facts(run))
        path = best_effort(run, PROBLEM, lambda: _kept(facts)) if facts else None
        if path and facts and journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id"):
            best_effort(run, NOT_COPIED, lambda: track.log_report(run, _without_users(facts), _digest(run, facts)))
    return path


def _facts(run: Run) -> dict[str, Any]:
    with collector.paused():
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


def _digest(run: Run, facts: dict[str, Any]) -> str:
    """The report in short, as Markdown, with a link to Prefect's run where the night has one."""
    from pipeline.reporting import markdown

    prefect = os.environ.get("PREFECT_UI_URL") or os.environ.get("PREFECT_API_URL", "").removesuffix("/api")
    has_page = run.flow_run_id and prefect.startswith("http")
    links = {"Prefect run": f"{prefect}/runs/flow-run/{run.flow_run_id}"} if has_page else {}
    return markdown.markdown(facts, links, personal=False)
