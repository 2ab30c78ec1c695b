"""The step of a night under Prefect: a task per stage; once Prefect is lost, plain calls."""

import functools
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prefect.events.worker import EventsWorker
from prefect.task_engine import TaskRunTimeoutError

from flows.orchestration import prefect_logs
from flows.step import Step
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall
from pipeline.storage import journal


class Reporting:
    """Calls stages as tasks made by `as_task`. A stage that has run does not run again if Prefect fails afterwards.

    Only errors of stages are raised: a family must not be left out because Prefect was lost.
    """

    def __init__(self, run: Run, as_task: Step):
        self.run, self.as_task, self.lost = run, as_task, False

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Return the stage's result; it runs as a task while Prefect is available."""
        if self.lost:
            return stage(*inputs)
        own = Remembered(stage)
        try:
            return self.as_task(call, own.called, *inputs)
        except Exception as error:
            if own.error is not None and not isinstance(error, TaskRunTimeoutError):
                self.lost = error is not own.error and of_prefect(error)
                raise own.error from None
            if not of_prefect(error):
                raise
            self.lost = True
            self.say_so(error)
            return own.result if own.ended else stage(*inputs)
        finally:
            if self.lost:
                let_go()

    def say_so(self, error: Exception) -> None:
        """Note it in the journal."""
        why = (str(error) or type(error).__name__).splitlines()[0]
        journal.note(self.run, f"Prefect was lost on the way ({why}); the night goes on without it")


class Remembered:
    """A stage with the result or error of its last call."""

    def __init__(self, stage: Callable):
        self.ended, self.result, self.error = False, None, None

        @functools.wraps(stage)
        def called(*args: Any, **named: Any) -> Any:
            self.ended, self.error = False, None
            try:
                self.result = stage(*args, **named)
            except Exception as error:
                self.error = error
                raise
            self.ended = True
            return self.result

        self.called = called


def of_prefect(error: BaseException) -> bool:
    """Whether an error is Prefect's, not a stage's."""
    ours = isinstance(error, TaskRunTimeoutError)
    return not ours and type(error).__module__.split(".")[0] in ("prefect", "httpx", "httpcore", "anyio")


def let_go() -> None:
    """Drop Prefect's pending events and its logging: the process would retry each event for 10 s."""
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "prefect"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    prefect_logs.detach()
    with suppress(Exception):  # Prefect's private names, pinned in constraints.txt
        for worker in tuple(EventsWorker._instances.values()):
            with suppress(Exception):
                while True:
                    worker._queue.get_nowait()
