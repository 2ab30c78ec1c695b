"""The models of a night: each is searched, fitted and measured by itself, so that one may fail without the others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flows.step import Step, Stopped
from pipeline.config.run import Run
from pipeline.config.settings import BASELINE
from pipeline.core.errors import Skipped
from pipeline.core.filesystem import is_full
from pipeline.core.redaction import masked
from pipeline.core.stage_call import StageCall, StageName
from pipeline.selection import incumbent, leaderboard
from pipeline.selection.incumbent import Contest
from pipeline.stages import evaluate, train
from pipeline.storage import journal
from pipeline.storage.generations import live_run_id

Isolate = Callable[[Run, str], AbstractContextManager[None]]
"""Given the run and a label, a block whose errors are that model's alone."""


class Competition:
    """What came of the models so far, by label."""

    def __init__(self, run: Run, step: Step, parts: Path, isolate: Isolate | None = None):
        """`isolate` is what a model is searched, fitted and measured in; None: `isolate_family`."""
        self.run, self.step, self.parts, self.isolate = run, step, parts, isolate or isolate_family
        self.searched: dict[str, Path] = {}
        self.fitted: dict[str, Path] = {}
        """On train."""
        self.measured: dict[str, Path] = {}
        self.fits: set[Path] = set()
        """All of which something was measured, or made."""
        self.budgeted = run.settings.budget.minutes is not None

    def first_fits(self) -> None:
        """The recipe's models but for blends; each is searched first, unless a budget wants something published."""
        for label, entry in self.run.settings.models.items():
            if leaderboard.is_blend(self.run.settings, label):
                continue
            if entry.search and not self.budgeted:
                with self.isolate(self.run, f"search {label}"):
                    from pipeline.stages import search  # optuna takes its time

                    call = StageCall(StageName.SEARCH, label)
                    self.searched[label] = self.step(call, search.search_model, self.run, self.parts, label)
            self.compete(label, self.run)

    def searches(self) -> None:
        """Under a budget, what time the first fits leave; with what is found a model competes again."""
        if not self.budgeted:
            return
        from flows.successive_halving import search_in_turns

        for label, folder, is_better in search_in_turns(self.run, self.step, self.parts, self.fitted, self.isolate):
            self.searched[label] = folder
            if is_better:
                self.compete(label, self.run)

    def blends(self) -> None:
        """The recipe's blends, made of what was fitted."""
        for label in self.run.settings.models:
            if leaderboard.is_blend(self.run.settings, label):
                self.compete(label, self.run)

    def lineup(self) -> Contest:
        """Who else takes part, what was measured being the recipe's."""
        recipe = {label: incumbent.configuration_of(self.fitted[label]) for label in self.measured}
        return incumbent.contest(self.run, live_run_id(self.run.home, self.run.dataset), recipe)

    def beside_the_recipe(self, lineup: Contest) -> None:
        """What is published now, a blend with what it is made of, and popularity."""
        for label, own in lineup.members.items():
            with self.isolate(self.run, label):
                self.fitted[label] = self.step(
                    StageCall(StageName.TRAIN, label), train.fit_model, own, self.parts, label
                )
                self.fits.add(self.fitted[label])
        for label, own in lineup.added.items():
            if label == BASELINE or lineup.members.keys() <= self.fitted.keys():
                self.compete(label, own)

    def compete(self, label: str, own: Run) -> None:
        """Fit and measure one model, `own` being the night whose settings have it; again, once its search is done."""
        searched, both = self.searched.get(label), self.run.settings.evaluation.fit_for_test
        with self.isolate(self.run, f"{label} tuned" if label in self.measured else label):
            first = StageCall(StageName.TRAIN, label, tuned=searched is not None)
            fit = tested = self.step(
                first, train.fit_model, own, self.parts, label, "train", None, searched, {**self.fitted}
            )
            self.fitted.setdefault(label, fit)
            if both != "train":
                refit = StageCall(StageName.TRAIN, label, fit=both)
                tested = self.step(refit, train.fit_model, own, self.parts, label, both, fit)
            evaluation = StageCall(StageName.EVALUATE, label)
            self.measured[label] = self.step(evaluation, evaluate.evaluate_model, own, self.parts, label, fit, tested)
            self.fitted[label] = fit
            self.fits.update((fit, tested))


@contextmanager
def isolate_family(run: Run, label: str) -> Iterator[None]:
    """A family that can't be used, or that crashes, is journaled and left out; the night goes on with the others."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Stopped) or is_full(error):  # a full disk is full for all of them
            raise
        skipped = isinstance(error, Skipped)
        verb = "skipped" if skipped else f"failed ({type(error).__name__})"
        journal.note(run, f"{label} {verb}: {error}")
        left_out = journal.read_run(run.home, run.dataset, run.run_id).get("left_out", {})
        journal.update_run(run, left_out={**left_out, label: masked(f"{verb}: {error}")})
        if not skipped:
            journal.keep_traceback(run)
