"""Sends what a run logs to Prefect as well: its rows and seconds per stage, its warnings."""

import logging
from collections.abc import Mapping

from pipeline.core.console import LOGGER, log


def settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Prefect's settings that add its handler to our logger. They must be set before Prefect is imported."""
    extra = [name for name in environ.get("PREFECT_LOGGING_EXTRA_LOGGERS", "").split(",") if name]
    return {
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join([*extra, *([LOGGER] if LOGGER not in extra else [])]),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # the command logs before and after its flow run
    }


def leave_out_completed() -> None:
    """Drop Prefect's own line for each task that completed: the stage's line says so, and more."""
    logging.getLogger("prefect.task_runs").addFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of Prefect's is more than `Finished in state Completed`."""
    return record.levelno > logging.INFO or not record.getMessage().startswith("Finished in state Completed")


def detach() -> None:
    """Remove Prefect's handlers from our logger, once its API is lost."""
    for handler in list(log.handlers):
        if type(handler).__module__.startswith("prefect."):
            log.removeHandler(handler)
