"""Reports the outcome of a night to people and to MLflow. None of it may fail the night."""

import datetime as dt
from contextlib import suppress

import polars as pl

from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import ErrorWithIds
from pipeline.core.filesystem import ADVICE, is_full
from pipeline.reporting import notifications
from pipeline.schemas import tables
from pipeline.storage import journal

ALARM = "realised_above_floor"
"""Check that sends a message about a night that is published."""
TOLERANCE = 1.05
"""A night that takes up to this part of its budget has kept it."""


def warn(run: Run, error: Exception) -> None:
    """Note an error that came after the outcome; on a full disk, print it."""
    text = f"the night's outcome stands, but what follows it was not finished: {in_words(error)}"
    if is_full(error):
        text = f"{text}. {ADVICE}"
    try:
        journal.note(run, f"{journal.WARNING}{text}", error.ids if isinstance(error, ErrorWithIds) else None)
    except OSError:
        log.warning(text)


def in_words(error: BaseException) -> str:
    """`ValueError: bad value`."""
    return f"{type(error).__name__}: {error}".rstrip(": ")


def notify(run: Run, outcome: str, reason: str) -> None:
    """Notify the recipients that the environment names; for nights that did not publish. Not of replays."""
    if run.as_of:
        return
    about = {"dataset": run.dataset, "run_id": run.run_id, "outcome": outcome, "home": str(run.home.root)}
    for failed in notifications.send(f"nightrecs: the night of {run.dataset} is {outcome}: {reason}", about):
        log.info(failed)


def alarm(run: Run) -> None:
    """Notify the recipients if earlier lists were significantly worse than popularity on what users did since."""
    with suppress(Exception):
        checks = journal.read(run.home, run.dataset, tables.CHECKS, run.run_id)
        if checks.filter(pl.col("check_name") == ALARM, ~pl.col("passed")).height:
            notify(run, "published", "lists of an earlier night were significantly worse than popularity on what users "
                   "did since: see the table realised, and the report")  # fmt: skip


def notify_undelivered(run: Run) -> None:
    """Notify the recipients if a destination does not have the tables of a night that is published."""
    with suppress(Exception):
        names = journal.read_run(run.home, run.dataset, run.run_id).get("undelivered")
        if names:
            where = ", ".join(names)
            notify(run, "published", f"its tables could not be copied to {where}: see `nightrecs status`")


def note_overrun(run: Run) -> None:
    """Note in the journal that the night was published after its budget had ended, and which stages took longest."""
    minutes = run.settings.budget.minutes
    with suppress(Exception):
        record = journal.read_run(run.home, run.dataset, run.run_id)
        seconds = (dt.datetime.fromisoformat(record["finished_at"]) - run.started_at).total_seconds()
        if minutes is None or seconds <= TOLERANCE * 60 * minutes:
            return
        stages = journal.read(run.home, run.dataset, tables.STAGES, run.run_id).filter(~pl.col("skipped"))
        longest = stages.sort("seconds", descending=True).head(3).rows_by_key("stage", named=True, unique=True)
        taken = ", ".join(f"{stage} {row['seconds']:.0f} s" for stage, row in longest.items())
        journal.note(
            run,
            f"warning: published after {seconds:.0f} s, and the budget was {60 * minutes:.0f} s: stages took longer "
            f"than expected and can't be stopped (longest: {taken})",
        )


def report_shortly(run: Run) -> None:
    """Write the report of a night that did not publish, from what the journal has."""
    from pipeline.stages import report

    with suppress(Exception):
        report.write_report(run)


def end_in_mlflow(run: Run, outcome: str) -> None:
    """Set the outcome of the night's MLflow run."""
    from pipeline.stages import track

    track.end_night(run, outcome)


def end_stale_in_mlflow(run: Run, closed: list[str]) -> None:
    """End the MLflow runs of nights that were killed after they had started one."""
    if any("made" in journal.read_run(run.home, run.dataset, run_id) for run_id in closed):
        from pipeline.stages import track

        track.end_stale(run.home, run.dataset)
