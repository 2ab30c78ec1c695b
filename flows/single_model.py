"""One model of the recipe: searched, fitted and evaluated in another process, ahead of the line.

The line then finds the results in the lake. What failed there, the line does itself and so reports.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import families
from pipeline.experiments.fit import hosts_of
from pipeline.schemas import tables
from pipeline.stages import evaluate, train
from pipeline.storage import journal, journal_entries, lake


def carry_out(run: Run, parts: Path, label: str) -> spread.Records:
    """Search, fit and evaluate `label` as `candidate_models` does. Returns the journal entries of each stage."""
    records: spread.Records = {}

    def step(call: StageCall, stage: Callable[..., Path], *inputs: Any) -> Path:
        with journal_entries.aside() as entries:
            result = stage(*inputs)
        records[call.title] = entries
        return result

    searched = None
    if run.settings.models[label].search:
        from pipeline.stages import search  # imports optuna, which is slow

        searched = step(StageCall(StageName.SEARCH, label), search.search_model, run, parts, label)
    call = StageCall(StageName.TRAIN, label, tuned=searched is not None)
    fit = tested = step(call, train.fit_model, run, parts, label, searched, {})
    if (both := run.settings.evaluation.fit_for_test) != "train":
        call = StageCall(StageName.TRAIN, label, fit=both)
        tested = step(call, train.refit_model, run, parts, label, both, fit)
    step(StageCall(StageName.EVALUATE, label), evaluate.evaluate_model, run, parts, label, fit, tested)
    return records


def begin(run: Run, parts: Path, labels: list[str]) -> None:
    """Let the engine carry out these models, but those whose fit is in the lake already."""
    engine = spread.engine()
    if not engine.is_elsewhere:
        return
    for label in labels:
        if not (_is_of_hosts(run, label) or _is_fitted(run, parts, label)):
            engine.begin(label, carry_out, (run, parts, label))


def _is_of_hosts(run: Run, label: str) -> bool:
    """Whether its fit takes several machines, which the night's own process asks for."""
    family, _ = families.family_of(run.settings, label)
    return hosts_of(run.settings, family) > 1


def _is_fitted(run: Run, parts: Path, label: str) -> bool:
    if run.settings.models[label].search:
        return False
    return (lake.folder_of(run, train.fit_spec(run, parts, label)) / lake.MANIFEST).exists()


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
            with journal_entries.aside() as entries:
                result = stage(*own)
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
