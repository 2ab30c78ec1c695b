"""The candidate models of a night. Each is searched, fitted and evaluated in isolation, so one may fail alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows import single_model
from flows.step import Step, Stopped
from pipeline.config.run import Run
from pipeline.config.settings import BASELINE
from pipeline.core.errors import LakeDown, OutOfTime, Refused, Skipped
from pipeline.core.filesystem import is_full
from pipeline.core.redaction import masked
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.selection import incumbent, leaderboard, list_changes
from pipeline.selection.incumbent import Contest
from pipeline.stages import evaluate, select, train
from pipeline.storage import journal, lake
from pipeline.storage.generations import live_run_id

if TYPE_CHECKING:
    from flows.nightly import Data
    from flows.successive_halving import Race

Isolate = Callable[[Run, str], AbstractContextManager[None]]
"""Given the run and a label: a context in which an error costs that model only."""


def fit_candidates(run: Run, step: Step, parts: Path) -> tuple["Candidates", Contest]:
    """Search, fit and evaluate the recipe's models, then the incumbent and the baseline.

    Raises Refused if there is nothing but the baseline to publish.
    """
    candidates = Candidates(run, step, parts)
    candidates.fit_single_models()
    candidates.search_within_budget()
    candidates.fit_blends()
    candidates.use_what_is_left()
    lineup = candidates.lineup()
    candidates.fit_references(lineup)
    if candidates.measured.keys() <= {BASELINE}:
        raise Refused("no model could be fitted, so there is nothing to publish")
    return candidates, lineup


def fit_runner_up(run: Run, step: Step, encoded: Path, champion: str, candidates: "Candidates") -> Path | None:
    """The second-best model fitted on all rows, for `[export.holdback]`; None where there is none or none is wanted.

    The journal's `made` keeps it, for lists on request.
    """
    if run.settings.export.holdback is None:
        return None
    label, refit = leaderboard.runner_up(run, champion, candidates.measured), None
    if label is None:
        journal.note(run, "holdback: there is no second model, so held-back users get popular items")
    else:
        own, call = candidates.owners.get(label, run), StageCall(StageName.TRAIN, label, fit="all")
        try:
            refit = step(call, train.refit_model, own, encoded, label, "all", candidates.fitted[label])
        except Skipped as reason:
            journal.note(
                run, f"holdback: {label} can't be fitted on all rows, so held-back users get popular items: {reason}"
            )
    made = journal.read_run(run.home, run.dataset, run.run_id).get("made", {})
    journal.update_run(run, made={**made, "runner_up": refit})
    return refit


def refit_for_lists(
    run: Run, step: Step, data: "Data", candidates: "Candidates", lineup: Contest
) -> list_changes.Refits | None:
    """The incumbent and the challengers of equal quality fitted on all rows, for `gate.prefer = "steadier"`.

    The gate compares their lists with the published ones; the champion's refit is one of them. None: it compares none.
    """
    if run.settings.gate.prefer != "steadier":
        return None
    refits: dict[str, Path] = {}
    measured = list(candidates.measured.values())
    for label in step(StageCall(StageName.SELECT), select.to_refit, run, measured, data.parts, lineup):
        own, call = lineup.added.get(label, run), StageCall(StageName.TRAIN, label, fit="all")
        try:
            refits[label] = step(call, train.refit_model, own, data.encoded, label, "all", candidates.fitted[label])
        except Skipped as reason:
            journal.note(run, f"list changes: {label} can't be fitted on all rows: {reason}")
    return list_changes.Refits(data.raw, data.encoded, refits) if lineup.incumbent in refits else None


class Candidates:
    """The models so far, by label: the folders of their searches, fits and evaluations."""

    def __init__(self, run: Run, step: Step, parts: Path, isolate: Isolate | None = None):
        """`isolate`: the context in which each model is searched, fitted and evaluated; None: `isolate_family`."""
        self.run, self.step, self.parts, self.isolate = run, step, parts, isolate or isolate_family
        self.searched: dict[str, Path] = {}
        self.fitted: dict[str, Path] = {}
        """On train."""
        self.measured: dict[str, Path] = {}
        self.fits: set[Path] = set()
        """All fits that were evaluated or are members of a blend."""
        self.postponed: list[str] = []
        """Searched models for whose tuned fit there was no time before the blends."""
        self.late: set[str] = set()
        """Labels and `<label> tuned` whose fit did not end in time, or would not have."""
        self.owners: dict[str, Run] = {}
        """Runs whose settings define the models that the gate adds, by label."""
        self.budgeted = run.settings.budget.minutes is not None

    def retry_late_ones(self) -> None:
        """First fits again that were not in time, where there is time for them now."""
        for label in [label for label in self.run.settings.models if label in self.late]:
            blend = leaderboard.is_blend(self.run.settings, label)
            if label not in self.measured and not blend and budget.fits_now(self.run, label):
                self.fit_and_evaluate(label, self.run)

    def fit_single_models(self) -> None:
        """The recipe's models except blends. Without a budget, each is searched first.

        With a budget the first fits come first, cheap ones before long ones, so that there is something to publish.
        """
        labels = budget.cheapest_first(self.run, self.parts)
        single_model.begin(self.run, self.parts, labels)
        for label in labels:
            entry = self.run.settings.models[label]
            if entry.search and not self.budgeted:
                with self.isolate(self.run, f"search {label}"):
                    from pipeline.stages import search  # imports optuna, which is slow

                    call = StageCall(StageName.SEARCH, label)
                    self.searched[label] = self.step(call, search.search_model, self.run, self.parts, label)
            self.fit_and_evaluate(label, self.run)

    def search_within_budget(self) -> None:
        """Spend what the first fits left of the budget on searches; refit the models that improved."""
        if not self.budgeted:
            return
        from flows.successive_halving import successive_halving

        self.retry_late_ones()
        for label, folder, is_better in successive_halving(self.race()):
            self.searched[label], first = folder, self.fitted[label]
            if is_better:
                self.fit_and_evaluate(label, self.run)
                self.postponed += [label] if self.fitted[label] == first else []

    def race(self, blends_again: bool = False) -> "Race":
        """The searches, with those that were made so far."""
        from flows.successive_halving import Race  # imports optuna, which is slow

        fitted, searched = {**self.fitted}, {**self.searched}
        return Race(self.run, self.step, self.parts, fitted, self.isolate, searched, blends_again)

    def use_what_is_left(self) -> None:
        """With a budget: after the blends less must be kept free, so the best models are searched once more."""
        if not self.budgeted:
            return
        from flows.successive_halving import last_turns

        for label in self.postponed:
            self.fit_and_evaluate(label, self.run)
        self.retry_late_ones()
        for blends_again in (True, False):  # the last turns have the time that no new blend needs
            for label, folder in last_turns(self.race(blends_again)):
                self.searched[label] = folder
                self.fit_and_evaluate(label, self.run)
            for label in self.run.settings.models:
                if leaderboard.is_blend(self.run.settings, label) and self.has_new_members(label):
                    self.fit_and_evaluate(label, self.run)
        budget.log_end(self.run)

    def has_new_members(self, blend: str) -> bool:
        """Whether a blend would have other members now, or fits of them that were made after it."""
        if blend not in self.fitted:
            return False
        now = train.request_fit(self.run, self.parts, blend, None, {**self.fitted}).members
        return lake.info(self.fitted[blend])["members"] != {label: folder.name for label, folder in now.items()}

    def fit_blends(self) -> None:
        """The recipe's blends, which are made of fitted models."""
        for label in self.run.settings.models:
            if leaderboard.is_blend(self.run.settings, label):
                self.fit_and_evaluate(label, self.run)

    def lineup(self) -> Contest:
        """The models that the gate adds to the recipe's."""
        recipe = {label: incumbent.configuration_of(self.fitted[label]) for label in self.measured}
        return incumbent.contest(self.run, live_run_id(self.run.home, self.run.dataset), recipe)

    def fit_references(self, lineup: Contest) -> None:
        """The incumbent (of a blend, its members too) and the popularity baseline."""
        self.owners |= {**lineup.added, **lineup.members}
        for label, own in lineup.members.items():
            with self.isolate(self.run, label):
                call = StageCall(StageName.TRAIN, label)
                self.fitted[label] = self.step(call, train.fit_model, own, self.parts, label)
                self.fits.add(self.fitted[label])
        for label, own in lineup.added.items():
            if label == BASELINE or lineup.members.keys() <= self.fitted.keys():
                self.fit_and_evaluate(label, own)

    def fit_and_evaluate(self, label: str, own: Run) -> None:
        """Fit and evaluate one model; `own` is the run whose settings define it.

        Called again for a model whose search found a better configuration.
        """
        searched, both = self.searched.get(label), self.run.settings.evaluation.fit_for_test
        name, started = f"{label} tuned" if label in self.measured else label, time.monotonic()
        with self.isolate(self.run, name), self._noting_late(name, started):
            first = StageCall(StageName.TRAIN, label, tuned=searched is not None)
            fit = tested = self.step(first, train.fit_model, own, self.parts, label, searched, {**self.fitted})
            if searched and label in self.measured and _is_worse(fit, self.fitted[label]):
                journal.note(self.run, f"{name}: not better on valid than the fit before, which stays")
                return
            self.fitted.setdefault(label, fit)
            if both != "train":
                refit = StageCall(StageName.TRAIN, label, fit=both)
                tested = self.step(refit, train.refit_model, own, self.parts, label, both, fit)
            evaluation = StageCall(StageName.EVALUATE, label)
            self.measured[label] = self.step(evaluation, evaluate.evaluate_model, own, self.parts, label, fit, tested)
            self.fitted[label] = fit
            self.fits.update((fit, tested))
            if name in self.late:
                self.late.remove(name)
                left_out = journal.read_run(self.run.home, self.run.dataset, self.run.run_id).get("left_out", {})
                journal.update_run(self.run, left_out={k: why for k, why in left_out.items() if k != name})

    @contextmanager
    def _noting_late(self, name: str, started: float) -> Iterator[None]:
        try:
            yield
        except OutOfTime:
            self.late.add(name)
            budget.note_late(self.run, name, time.monotonic() - started)
            raise


def _is_worse(fit: Path, before: Path) -> bool:
    """Whether a fit has a lower metric on valid than one before it: the budget may have ended it early."""
    value, earlier = (lake.info(folder).get("valid") for folder in (fit, before))
    return value is not None and earlier is not None and value < earlier


@contextmanager
def isolate_family(run: Run, label: str) -> Iterator[None]:
    """Record a family that is unusable or crashes in the journal, and let the night continue without it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Stopped | LakeDown) or is_full(error):  # these affect every family
            raise
        skipped = isinstance(error, Skipped)
        verb = "skipped" if skipped else f"failed ({type(error).__name__})"
        journal.note(run, f"{label} {verb}: {error}")
        left_out = journal.read_run(run.home, run.dataset, run.run_id).get("left_out", {})
        journal.update_run(run, left_out={**left_out, label: masked(f"{verb}: {error}")})
        if not skipped:
            journal.keep_traceback(run)
