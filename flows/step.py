"""How the line calls its stages: directly, or as the tasks of an orchestrator."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.core.stage_call import StageCall, StageName
from pipeline.stages import DATA_STAGES, LINE


class Step(Protocol):
    """Does one stage of the line."""

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """The result of `stage(*inputs)`; `call` says what it is called, for journals and people."""


class Stopped(Exception):
    """The night ended where `--until` said."""


def stopping(step: Step, until: str | None) -> Step:
    """A step that raises Stopped behind the stage `until`; None: it goes on."""

    def guarded(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        if until and LINE.index(call.place) > LINE.index(StageName(until)):
            raise Stopped(until)
        result = step(call, stage, *inputs)
        if until in DATA_STAGES and call.place == until:
            raise Stopped(until)
        return result

    return guarded


def plainly(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
    """The step of `--no-prefect`: a call."""
    return stage(*inputs)
