"""The step of a night with an engine: stages of models wait for what the engine does, and take its journal entries."""

import functools
from collections.abc import Callable
from typing import Any

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall
from pipeline.schemas import tables
from pipeline.storage import journal, journal_entries


def after_engine(step: Step, run: Run) -> Step:
    """A step whose stages of models wait for the engine, and take its journal entries where it built the result."""

    def waiting(call: StageCall, stage: Callable[..., Any], *inputs: Any) -> Any:
        label = call.label
        if label is None or not spread.engine().is_elsewhere:
            return step(call, stage, *inputs)

        @functools.wraps(stage)
        def awaited(*own: Any) -> Any:
            theirs = spread.engine().finished(label).get(call.title)
            if theirs is None:
                return stage(*own)
            entries: list[journal_entries.Entry] = []
            try:
                with journal_entries.aside() as entries:
                    result = stage(*own)
            except BaseException:  # after a damaged result was built again, for instance
                journal.take(run, entries)
                raise
            if _was_there(entries):
                entries = theirs
                log.info(f"  {call.title}: {_seconds(theirs):.1f} s, by the cluster")
            journal.take(run, entries)
            return result

        return step(call, awaited, *inputs)

    return waiting


def _stage_rows(entries: list[journal_entries.Entry]) -> list[dict[str, Any]]:
    return [row for kind, content in entries if kind == tables.STAGES.name for row in content]


def _was_there(entries: list[journal_entries.Entry]) -> bool:
    """Whether a stage found its result in the lake."""
    return all(row["skipped"] for row in _stage_rows(entries))


def _seconds(entries: list[journal_entries.Entry]) -> float:
    return sum(row["seconds"] for row in _stage_rows(entries))
