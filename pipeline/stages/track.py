"""Shows nights in MLflow. MLflow is a view of the journal: when it fails, the night says so and goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import journal
from pipeline.run import Run
from pipeline.stages.publish import live_run_id


def log_night(
    run: Run, parts: Path, encoded: Path, refit: Path, fitted: list[Path], measured: list[Path], champion: str
) -> str | None:
    """Log parameters, curves and metrics of every family; returns MLflow's id of the night, None if it failed.

    Then what MLflow missed: published nights that could not be logged, and an alias that does not point to the
    night that is live.
    """
    made = {"parts": parts, "encoded": encoded, "refit": refit, "fitted": fitted, "measured": measured}
    journal.update_run(run, made={**made, "champion": champion})
    with journal.stage(run, "track"):
        parent = _tolerantly(run, lambda tracking: _logged(tracking, run))
        if parent:
            _catch_up(run)
        return parent


def register_champion(run: Run) -> str | None:
    """Register the published champion, alias `champion`; returns its version, None if MLflow failed."""
    if journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id") is None:
        return None
    with journal.stage(run, "register"):
        return _tolerantly(run, lambda tracking: tracking.ensure_champion(run))


def end_night(run: Run, outcome: str) -> None:
    """Tell MLflow how the night ended, where it knows of the night."""
    if journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id"):
        _tolerantly(run, lambda tracking: tracking.end_night(run, outcome))


def _logged(tracking: Any, night: Run) -> str:
    parent = tracking.log_night(night)
    journal.update_run(night, mlflow_run_id=parent)
    return parent


def _catch_up(run: Run) -> None:
    """Log published nights that MLflow does not have and whose results are still there; repair the alias."""
    for run_id in journal.run_ids(run.home, run.dataset):
        record = journal.read_run(run.home, run.dataset, run_id)
        missed = record["outcome"] == "published" and not record.get("mlflow_run_id")
        if missed and _is_there(record):
            _tolerantly(run, lambda tracking, i=run_id: _logged(tracking, journal.load_run(run.home, run.dataset, i)))
    live = live_run_id(run.home, run.dataset)
    if live and _is_there(journal.read_run(run.home, run.dataset, live)):
        _tolerantly(run, lambda tracking: tracking.ensure_champion(journal.load_run(run.home, run.dataset, live)))


def _is_there(record: dict[str, Any]) -> bool:
    made = record.get("made")
    return made is not None and all(
        Path(folder).is_dir()
        for folder in (made["parts"], made["encoded"], made["refit"], *made["fitted"], *made["measured"])
    )


def _tolerantly(run: Run, deed: Callable[[Any], str]) -> str | None:
    try:
        from pipeline import tracking  # imports mlflow, which takes seconds

        return deed(tracking)
    except Exception as error:
        journal.note(run, f"MLflow did not take it: {type(error).__name__}: {error}")
        return None
