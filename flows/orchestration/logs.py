"""What a night says, in Prefect's logs too: rows and seconds of each stage, and what a person should know."""

import logging
from collections.abc import Mapping
from contextlib import suppress

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from pipeline.core import progress


def is_news(record: logging.LogRecord) -> bool:
    """A stage's own line says that it is done, and more."""
    return record.levelno > logging.INFO or not record.getMessage().startswith("Finished in state Completed")


class Echo(progress.Watcher):
    """Hands everything on to whoever watched before."""

    def __init__(self, before: progress.Watcher):
        self.before, self.watches = before, before.watches
        logging.getLogger("prefect.task_runs").addFilter(is_news)

    def say(self, text: str, ids: str = "") -> None:
        """Also into the log of the task that is running, or of the flow, but without ids."""
        self.before.say(text, ids)
        with suppress(MissingContextError):
            log = get_run_logger()
            (log.warning if text.startswith("warning: ") else log.info)(text.strip())

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self.before.begin(stage)

    def rows(self, rows: int) -> None:
        """So many rows go into it."""
        self.before.rows(rows)

    def at(
        self, unit: str, done: int, of: int | None, figures: Mapping[str, float] | None = None, rows: int | None = None
    ) -> None:
        """How far it is."""
        self.before.at(unit, done, of, figures, rows)

    def end(self) -> None:
        """The stage is over."""
        self.before.end()
