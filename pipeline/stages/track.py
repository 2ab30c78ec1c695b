"""Shows the night in MLflow. MLflow is a view: when it fails, the night says so and goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import journal
from pipeline.run import Run


def log_night(run: Run, parts: Path, fitted: list[Path], measured: list[Path], champion: str) -> str | None:
    """Log parameters, curves and metrics of every family; returns MLflow's id of the night, None if it failed."""
    return _tolerantly(
        run, "track", lambda tracking: tracking.log_night(run, parts, fitted, measured, champion)
    )


def register_champion(run: Run, encoded: Path, refit: Path) -> str | None:
    """Register the published champion, alias `champion`; returns its version, None if MLflow failed."""
    parent = journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id")
    if parent is None:
        return None
    return _tolerantly(
        run, "register", lambda tracking: tracking.register_champion(run, encoded, refit, parent)
    )  # fmt: skip


def _tolerantly(run: Run, name: str, deed: Callable[[Any], str]) -> str | None:
    with journal.stage(run, name):
        try:
            from pipeline import tracking  # imports mlflow, which takes seconds

            return deed(tracking)
        except Exception as error:
            journal.note(run, f"MLflow did not take this night ({name}: {type(error).__name__}: {error})")
            return None
