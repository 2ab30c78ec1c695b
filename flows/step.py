"""How the line calls its stages: directly, or as the tasks of an orchestrator."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.stage_call import StageCall


class Step(Protocol):
    """Does one stage of the line."""

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """The result of `stage(*inputs)`; `call` says what it is called, for journals and people."""


class Stopped(Exception):
    """The night ended where `--until` said."""


def plainly(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
    """The step of `--no-prefect`: a call."""
    return stage(*inputs)
