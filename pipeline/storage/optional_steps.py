"""Steps that a night can do without: when one fails, the journal says so and the night goes on."""

from collections.abc import Callable
from typing import TypeVar

from pipeline.config.run import Run
from pipeline.storage import journal

T = TypeVar("T")


def best_effort(run: Run, problem: str, action: Callable[[], T]) -> T | None:
    """The result of `action`; None where it raises, with a note `problem: type of the error: its message`."""
    try:
        return action()
    except Exception as error:
        journal.note(run, f"{problem}: {type(error).__name__}: {error}")
        return None
