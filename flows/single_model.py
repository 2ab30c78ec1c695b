"""One model of the recipe: searched, fitted and evaluated in another process, ahead of the line.

The line then finds the results in the lake. What failed there, the line does itself and so reports.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import families
from pipeline.experiments.fit import hosts_of
from pipeline.stages import evaluate, train
from pipeline.storage import journal, journal_entries, lake


def carry_out(run: Run, parts: Path, label: str, evaluated: bool) -> spread.Records:
    """Search, fit and evaluate `label` as `candidate_models` does. Returns the journal entries of each stage.

    `evaluated`: whether it is; a large evaluation is left to the night, which gives it to the engine in parts.
    """
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
    if evaluated:
        step(StageCall(StageName.EVALUATE, label), evaluate.evaluate_model, run, parts, label, fit, tested)
    return records


def begin(run: Run, parts: Path, labels: list[str]) -> None:
    """Let the engine carry out these models, but those whose fit is in the lake already.

    With a budget none: it measures one fit after another on this machine, and a note says so.
    """
    engine = spread.engine()
    if not engine.is_elsewhere:
        return
    if why := stays_here(run):
        journal.note(run, why)
        return
    evaluated = not evaluate.is_spread(run, parts)
    for label in labels:
        if not (_is_of_hosts(run, label) or _is_fitted(run, parts, label)):
            engine.begin(label, carry_out, (run, parts, label, evaluated), _begin_trials(run, parts, label))


def stays_here(run: Run) -> str | None:
    """Why the night's own machine searches and fits the models although there is a cluster; None: it does not."""
    if run.settings.scale.engine == "none" or not run.settings.budget.minutes:
        return None
    together = ", but for those that several machines fit (scale.hosts)" if run.settings.scale.hosts > 1 else ""
    return (
        f"budget.minutes = {run.settings.budget.minutes:g}: models are searched and fitted one after another on the "
        f"night's own machine, not by the cluster{together}: what a fit may take is decided by what the ones before it "
        "took there. The cluster has the other parts: source files, shards, large evaluations and lists"
    )


def carry_out_trial(*call: Any) -> spread.Records:
    """Carry out a trial ahead of its search, as `trials_ahead.carry_out`."""
    from pipeline.experiments import trials_ahead  # imports optuna

    trials_ahead.carry_out(*call)
    return {}


def _begin_trials(run: Run, parts: Path, label: str) -> list[str]:
    """Let the engine carry out the trials that no metric of another one decides; returns what to wait for."""
    if not run.settings.models[label].search:
        return []
    from pipeline.stages import search

    try:
        calls = search.trials_ahead(run, parts, label)
    except Exception:  # the search itself meets the same error, and the family is left out
        return []
    if len(calls) < 2:
        return []
    names = [f"{label} trial {number}" for number in range(len(calls))]
    for name, call in zip(names, calls, strict=True):
        spread.engine().begin(name, carry_out_trial, call)
    return names


def _is_of_hosts(run: Run, label: str) -> bool:
    """Whether its fit takes several machines, which the night's own process asks for."""
    family, _ = families.family_of(run.settings, label)
    return hosts_of(run.settings, family) > 1


def _is_fitted(run: Run, parts: Path, label: str) -> bool:
    if run.settings.models[label].search:
        return False
    return (lake.folder_of(run, train.fit_spec(run, parts, label)) / lake.MANIFEST).exists()
