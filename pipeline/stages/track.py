"""Logs nights to MLflow. MLflow is a view of the journal: when it fails, the journal says so and the night goes on."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core import collector
from pipeline.core.console import log
from pipeline.core.fault_injection import fault
from pipeline.core.paths import Home
from pipeline.storage import journal
from pipeline.storage.generations import live_run_id
from pipeline.storage.optional_steps import best_effort

PROBLEM = "MLflow did not take it"


def log_night(
    run: Run,
    parts: Path,
    encoded: Path,
    refit: Path,
    fitted: list[Path],
    measured: list[Path],
    champion: str,
    searched: list[Path] | None = None,
) -> str | None:
    """Log parameters, curves and metrics of every family; returns MLflow's id of the night, None if it failed.

    Then logs what MLflow missed: published nights that could not be logged, and the alias where it does not point to
    the live night.
    """
    made = {"parts": parts, "encoded": encoded, "refit": refit, "fitted": fitted, "measured": measured}
    made["searched"] = searched or []
    journal.update_run(run, made={**made, "champion": champion})
    fault("track:before_log")
    with journal.stage(run, "track"):
        into_mlflow = _logged_without_plots if run.settings.budget.minutes else _logged
        parent = None if run.as_of else best_effort(run, PROBLEM, lambda: into_mlflow(run))
        if parent:
            _catch_up(run)
        return parent


def prepare(run: Run) -> None:
    """Import MLflow and open its store, which takes seconds. A budget then plans with what is left after that."""
    if not run.as_of:
        best_effort(run, PROBLEM, lambda: _tracking().prepare(run.home, run.dataset))


def register_champion(run: Run) -> str | None:
    """Register the published champion, alias `champion`; returns its version, None if MLflow failed."""
    fault("register:before_log")
    if journal.read_run(run.home, run.dataset, run.run_id).get("mlflow_run_id") is None:
        return None
    with journal.stage(run, "register"):
        version = best_effort(run, PROBLEM, lambda: _tracking().ensure_champion(run))
        best_effort(run, PROBLEM, lambda: f"realised: {_tracking().log_realised(run)}")
        return version


def log_report(run: Run, html: str, markdown: str) -> str | None:
    """Log a report to the night's run, its digest as the description; returns MLflow's id, None if MLflow failed."""
    return best_effort(run, PROBLEM, lambda: _tracking().log_report(run, html, markdown))


def end_night(run: Run, outcome: str) -> None:
    """Set the outcome of the night in MLflow, where it was logged, and log plots that publishing did not wait for."""
    record = journal.read_run(run.home, run.dataset, run.run_id)
    if record.get("mlflow_run_id"):
        if record.get("mlflow_plots_of"):
            log.info("  plots: drawn and logged to MLflow now, as publishing did not wait for them")
            started = time.perf_counter()
            best_effort(run, PROBLEM, lambda: _log_plots(run))
            log.info(f"  {'plots':<28} {' ' * 17} {f'{time.perf_counter() - started:.1f} s':>14}")
        best_effort(run, PROBLEM, lambda: _tracking().end_night(run, outcome))


def _logged(night: Run) -> str:
    """Log a night; its plots are drawn while MLflow is imported and written to."""
    from pipeline.reporting.plots import night as night_plots  # imports torch
    from pipeline.reporting.plots.worker import Drawer

    with Drawer() as drawer:
        record = journal.read_run(night.home, night.dataset, night.run_id)
        drawer.ask(night_plots.of_night(record, night.settings.select.metric))
        tracking = _tracking()
        parent, runs = tracking.log_night(night)
        tracking.log_plots(night, runs, drawer)
        if record["outcome"] == "published":
            tracking.end_night(night, "published", parent)
    journal.update_run(night, mlflow_run_id=parent)
    return parent


def _logged_without_plots(night: Run) -> str:
    """Log a night with a budget. Its plots are logged after publishing, which does not wait for them."""
    parent, runs = _tracking().log_night(night)
    journal.update_run(night, mlflow_run_id=parent, mlflow_plots_of={label or "": run for label, run in runs.items()})
    return parent


def _log_plots(night: Run) -> None:
    """Draw and log the plots of a night that was logged without them."""
    from pipeline.reporting.plots import night as night_plots  # imports torch
    from pipeline.reporting.plots.worker import Drawer

    record = journal.read_run(night.home, night.dataset, night.run_id)
    with Drawer() as drawer:
        drawer.ask(night_plots.of_night(record, night.settings.select.metric))
        _tracking().log_plots(night, {label or None: run for label, run in record["mlflow_plots_of"].items()}, drawer)
    journal.update_run(night, mlflow_plots_of=None)


def _catch_up(run: Run) -> None:
    """Log published nights that MLflow lacks and whose results still exist; repair the alias."""
    for run_id in journal.run_ids(run.home, run.dataset):
        record = journal.read_run(run.home, run.dataset, run_id)
        missed = record["outcome"] == "published" and not record.get("mlflow_run_id")
        if missed and _is_there(record) and journal.read_settings(run.home, run.dataset, run_id):
            best_effort(run, PROBLEM, lambda i=run_id: _logged(journal.load_run(run.home, run.dataset, i)))
        elif run_id != run.run_id and record.get("mlflow_plots_of") and _is_there(record):
            best_effort(run, PROBLEM, lambda i=run_id: _log_plots(journal.load_run(run.home, run.dataset, i)))
    best_effort(run, PROBLEM, lambda: _followed(_tracking(), run.home, run.dataset))
    best_effort(run, PROBLEM, lambda: _end_stale(run.home, run.dataset))


def follow_live(home: Home, dataset: str) -> str:
    """Point the alias `champion` to the live night, as after a rollback; returns a message about it.

    Where MLflow has no model of that night, as after `forget`, the alias is removed: it would name another night's.
    """
    try:
        version = _followed(_tracking(), home, dataset)
        was_there = version is None and _tracking().without_champion(home, dataset)
    except Exception as error:
        return f"alias champion did not follow ({type(error).__name__}: {error}); the next night repairs it"
    if version:
        return f"alias champion is version {version}"
    removed = ", so alias champion is removed; the next night that is published sets it" if was_there else ""
    return f"it has no model of that night{removed}"


def end_stale(home: Home, dataset: str) -> None:
    """End the runs that killed nights left RUNNING in MLflow. Where MLflow fails, a later night does it."""
    with suppress(Exception):
        _end_stale(home, dataset)


def _end_stale(home: Home, dataset: str) -> str:
    from pipeline.tracking import cleanup

    nights = {i: journal.read_run(home, dataset, i)["outcome"] for i in journal.run_ids(home, dataset)}
    return f"{cleanup.end_stale(home, dataset, nights)} runs"


def _followed(tracking: Any, home: Home, dataset: str) -> str | None:
    live = live_run_id(home, dataset)
    record = journal.read_run(home, dataset, live) if live in journal.run_ids(home, dataset) else {}
    if live is None or not record.get("mlflow_run_id"):
        return None
    return tracking.ensure_champion(journal.load_run(home, dataset, live), _is_there(record))


def _is_there(record: dict[str, Any]) -> bool:
    made = record.get("made")
    return made is not None and all(
        Path(folder).is_dir()
        for key in ("parts", "encoded", "refit", "fitted", "measured", "searched")
        for folder in _listed(made.get(key, []))
    )


def _listed(folders: str | list[str]) -> list[str]:
    return [folders] if isinstance(folders, str) else folders


def _tracking() -> Any:
    """The module that imports mlflow, which takes seconds and may fail."""
    with collector.paused():
        from pipeline.tracking import nights

    return nights
