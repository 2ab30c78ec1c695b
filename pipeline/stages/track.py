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

    First, what MLflow missed: published nights that could not be logged, and an alias that does not point to the
    night that is live.
    """
    made = {"parts": parts, "encoded": encoded, "refit": refit, "fitted": fitted, "measured": measured}
    journal.update_run(run, made={**made, "champion": champion})

    def log(tracking: Any) -> str:
        for night in _missed(run):
            journal.update_run(night, mlflow_run_id=tracking.log_night(night))
        live = live_run_id(run.home, run.dataset)
        if live and _can_be_shown(run, live):
            tracking.ensure_champion(journal.load_run(run.home, run.dataset, live))
        parent = tracking.log_night(run)
        journal.update_run(run, mlflow_run_id=parent)
        return parent

    return _tolerantly(run, "track", log)


def register_champion(run: Run) -> str | None:
    """Register the published champion, alias `champion`; returns its version, None if MLflow failed."""
    if journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id") is None:
        return None
    return _tolerantly(run, "register", lambda tracking: tracking.ensure_champion(run))


def _missed(run: Run) -> list[Run]:
    """Published nights that MLflow does not have, and whose results are still in the lake."""
    nights = [i for i in journal.run_ids(run.home, run.dataset) if i != run.run_id and _can_be_shown(run, i)]
    records = {i: journal.read_run(run.home, run.dataset, i) for i in nights}
    missed = [i for i, r in records.items() if r["outcome"] == "published" and not r.get("mlflow_run_id")]
    return [journal.load_run(run.home, run.dataset, i) for i in missed]


def _can_be_shown(run: Run, run_id: str) -> bool:
    made = journal.read_run(run.home, run.dataset, run_id).get("made")
    return made is not None and all(Path(made[key]).is_dir() for key in ("parts", "encoded", "refit"))


def _tolerantly(run: Run, name: str, deed: Callable[[Any], str]) -> str | None:
    with journal.stage(run, name):
        try:
            from pipeline import tracking  # imports mlflow, which takes seconds

            return deed(tracking)
        except Exception as error:
            journal.note(run, f"MLflow did not take this night ({name}: {type(error).__name__}: {error})")
            return None
