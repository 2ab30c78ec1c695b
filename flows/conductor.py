"""Conducts a night: takes the lock, repairs what earlier nights left, runs the line, records how it ended."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from flows import outcome
from flows.engine_step import after_engine
from flows.live_night import through
from flows.nightly import night
from flows.step import Step, Stopped, plainly, stopping
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import ErrorWithIds, Refused
from pipeline.core.filesystem import is_full
from pipeline.maintenance.rollback import finish_forgetting
from pipeline.storage import journal, lake
from pipeline.storage.generations import live_run_id, restore_live
from pipeline.storage.lock import lock


def conduct(
    run: Run,
    step: Step = plainly,
    until: str | None = None,
    at_start: Callable[[], Any] | None = None,
    overrides: Sequence[str] | None = None,
) -> str:
    """Run one night from lock to outcome: `published` or `stopped`. Raises Refused, Locked, or the error that ended it.

    A night whose tables are live is published, whatever fails afterwards: an error then is a warning in the journal.

    `at_start` is called once the lock is held and nights that never ended are closed. `until` and `overrides` (the
    KEY=VALUE that a user set for this run) go into the journal: `status` recognizes experiments by them.
    """
    with lock(run.home, run.dataset, run.run_id):
        _open(run, until, overrides)
        try:
            if at_start:
                at_start()
            night(run, through(stopping(after_engine(step, run), until), run))
        except Stopped:
            journal.close_run(run, "stopped", f"--until {until}")
            if journal.read_run(run.home, run.dataset, run.run_id)["outcome"] == "stopped":
                _follow(run, lambda: outcome.end_in_mlflow(run, "stopped"))  # of a night with a budget: its plots, too
                return "stopped"
        except Refused as reason:
            with suppress(OSError):
                journal.close_run(run, "refused", str(reason), reason.ids)
            _follow(run, lambda: outcome.end_in_mlflow(run, "refused"))
            outcome.report_shortly(run)
            outcome.notify(run, "refused", str(reason))
            raise
        except BaseException as error:
            is_live = live_run_id(run.home, run.dataset) == run.run_id
            ended, reason = "published" if is_live else "crashed", outcome.in_words(error)
            with suppress(OSError):  # a full disk; the next night closes this one
                journal.keep_traceback(run)
                journal.close_run(run, ended, reason, error.ids if isinstance(error, ErrorWithIds) else None)
            if is_live and isinstance(error, Exception):
                outcome.warn(run, error)
            if isinstance(error, Exception) and not is_full(error):  # the sender of a signal waits
                outcome.report_shortly(run)
            outcome.notify(run, ended, reason)
            if not (is_live and isinstance(error, Exception)):
                raise
        _follow(
            run,
            lambda: journal.close_run(run, "published"),  # where a full disk kept it open
            lambda: _say_what_is_needed(run),
            lambda: outcome.end_in_mlflow(run, "published"),
            lambda: outcome.note_overrun(run),
            lambda: outcome.alarm(run),
            lambda: outcome.notify_undelivered(run),
        )
    return "published"


def _follow(run: Run, *steps: Callable[[], object]) -> None:
    """Steps after the outcome, which none of them changes: an error is a warning."""
    for step in steps:
        try:
            step()
        except Exception as error:
            outcome.warn(run, error)


def _open(run: Run, until: str | None, overrides: Sequence[str] | None) -> None:
    """Clean up after earlier nights, then open this night's journal. The caller holds the lock."""
    restored = restore_live(run.home, run.dataset, run.run_id)
    closed = journal.close_stale(run.home, run.dataset, live_run_id(run.home, run.dataset))
    if removed := lake.remove_leftovers(run.home, run.dataset):
        log.info(f"{len(removed)} unfinished folders of earlier nights are removed")
    for stale, ended in closed.items():
        log.info(f"night {stale} never ended; it is closed as {ended}")
    outcome.end_stale_in_mlflow(run, list(closed))
    open_forgets = finish_forgetting(run.home, run.dataset, prove=False)
    journal.open_run(run, until, overrides)
    if run.settings.lake and not run.as_of:
        from pipeline.maintenance import gc, shared_results

        restored += shared_results.begin(run, gc.needed_folders(run.home, run.dataset))
    for line in restored:
        journal.note(run, f"warning: {line}")
    for line in open_forgets:
        journal.note(run, f"warning: a user who is to be forgotten is still there: {line}")


def _say_what_is_needed(run: Run) -> None:
    """Tell other homes of a shared lake which results this one needs."""
    if run.settings.lake and not run.as_of:
        from pipeline.maintenance import gc, shared_results

        shared_results.end(run, gc.needed_folders(run.home, run.dataset))
