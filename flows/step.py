"""How the line calls its stages: directly, or as tasks of an orchestrator."""

from collections.abc import Callable
from typing import Any, Protocol

from pipeline.core.stage_call import StageCall, StageName
from pipeline.stages import DATA_STAGES, LINE


class Step(Protocol):
    """Runs one stage of the line."""

    def __call__(self, call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        """Return `stage(*inputs)`. `call` has the stage's name and title, for the journal and for display."""


class Stopped(Exception):
    """The night ended after the stage of `--until`."""


def stopping(step: Step, until: str | None) -> Step:
    """A step that raises Stopped after the stage `until`; None: never."""

    def guarded(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        if until and LINE.index(call.place) > LINE.index(StageName(until)):
            raise Stopped(until)
        result = step(call, stage, *inputs)
        if until in DATA_STAGES and call.place == until:
            raise Stopped(until)
        return result

    return guarded


def plainly(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
    """The step of `--no-prefect`: a plain function call."""
    return stage(*inputs)
