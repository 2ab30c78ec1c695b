"""The step of a night whose tables may be live: an error is a warning then, and the stages that follow still run."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flows import outcome
from flows.step import Step, Stopped
from pipeline.config.run import Run
from pipeline.core.errors import ErrorWithIds
from pipeline.core.stage_call import StageCall, StageName
from pipeline.stages import LINE
from pipeline.storage import journal
from pipeline.storage.generations import live_run_id


def through(step: Step, run: Run) -> Step:
    """A step that ends no night whose tables are live: it returns None for the stage that failed.

    The night is closed as published, with the error as its reason, the journal has a warning, and the recipients are
    notified. Stopped and signals pass.
    """

    def guarded(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        try:
            return step(call, stage, *inputs)
        except Stopped:
            raise
        except Exception as error:
            if LINE.index(call.place) < LINE.index(StageName.PUBLISH) or not _is_live(run):
                raise
            with suppress(OSError):  # a full disk
                journal.keep_traceback(run)
                ids = error.ids if isinstance(error, ErrorWithIds) else None
                journal.close_run(run, "published", outcome.in_words(error), ids)
            outcome.warn(run, error)
            outcome.notify(run, "published", outcome.in_words(error))
            return None

    return guarded


def _is_live(run: Run) -> bool:
    return live_run_id(run.home, run.dataset) == run.run_id
