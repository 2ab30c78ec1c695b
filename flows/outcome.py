"""What people and MLflow are told of a night that is over. None of it may fail the night."""

from contextlib import suppress

from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.reporting import notifications
from pipeline.storage import journal


def tell(run: Run, outcome: str, reason: str) -> None:
    """Send word to whoever the environment names, where a night did not go well; see pipeline/notify.py."""
    about = {"dataset": run.dataset, "run_id": run.run_id, "outcome": outcome, "home": str(run.home.root)}
    for failed in notifications.tell(f"nightrecs: the night of {run.dataset} is {outcome}: {reason}", about):
        log.info(failed)


def report_shortly(run: Run) -> None:
    """The report of a night that did not publish: what the journal knows of it."""
    from pipeline.stages import report

    with suppress(Exception):
        report.write_report(run)


def end_in_mlflow(run: Run, outcome: str) -> None:
    """The night's run there carries its outcome."""
    from pipeline.stages import track

    track.end_night(run, outcome)


def end_stale_in_mlflow(run: Run, closed: list[str]) -> None:
    """Nights that were killed after they began to show themselves there left runs behind."""
    if any("made" in journal.read_run(run.home, run.dataset, run_id) for run_id in closed):
        from pipeline.stages import track

        track.end_stale(run.home, run.dataset)
