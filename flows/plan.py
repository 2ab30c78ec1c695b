"""The plan of a night: the line, walked by a step that computes the keys of results and builds nothing."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flows.candidate_models import Candidates
from flows.nightly import data_stages
from flows.step import Step, Stopped, stopping
from pipeline.config.run import Run
from pipeline.config.settings import BASELINE
from pipeline.core.console import log_once
from pipeline.core.redaction import masked
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.experiments.stopping import Turn
from pipeline.selection import incumbent, leaderboard
from pipeline.selection.incumbent import Contest
from pipeline.stages import LINE, clean, encode, evaluate, ingest, profile, search, split, train
from pipeline.storage import journal, lake
from pipeline.storage.file_stores import StoreError
from pipeline.storage.generations import live_run_id

CACHED, SHARED, TO_DO, OPEN = "cached", "shared", "to do", "open"
"""States of a planned stage. SHARED: its result is fetched from the shared lake. OPEN: an earlier stage decides whether
it runs, or with which model."""
NIGHTS = 5
"""A stage is timed by the last nights that ran it, this many."""
UNTIMED = (StageName.SELECT,)  # instant, and not in any journal
REFIT = StageCall(StageName.TRAIN, "the champion", fit="all")
"""The last fit, of a model that is not known yet. The members of a blend are fitted on all rows too."""
SECOND = StageCall(StageName.TRAIN, "the runner-up", fit="all")
"""Its refit for `[export.holdback]`."""
EQUALS = StageCall(StageName.TRAIN, "the challengers", fit="all")
"""The refits whose lists the gate compares, with `gate.prefer = "steadier"`."""
READ_SOURCE = (StageName.INGEST, StageName.SPLIT)
"""Stages whose keys need the source's files: `split` needs those of a published split."""
SPECS: dict[Callable[..., Path], Callable[..., lake.Spec]] = {
    ingest.read_source: ingest.spec,
    clean.clean_interactions: clean.spec,
    encode.encode_ids: encode.spec,
    split.split_interactions: split.spec,
    profile.describe_data: profile.spec,
    search.search_model: search.spec,
    train.fit_model: train.fit_spec,
    train.refit_model: train.refit_spec,
    evaluate.evaluate_model: evaluate.spec,
}
"""For each stage, the function that gives the key of its result for the same arguments."""


@dataclass(frozen=True)
class Planned:
    """A stage of the plan."""

    call: StageCall
    state: str
    minutes: float | None
    """None: no past night ran it."""


class Plan:
    """`stages`: the stages of a night, in order.

    Raises SettingsError and UnreadableInput, as the night itself would.
    """

    def __init__(self, run: Run, until: str | None = None):
        self.run, self.until, self.timings = run, until, budget.Timings(run)
        self.stages: list[Planned] = []
        self.raw: Path | None = None
        """Where the rows as read are, or will be."""
        self.parts: Path | None = None
        """The same of the split; None: the plan ends before it."""
        self.shared: set[Path] = set()
        """Folders of results that are only in the shared lake."""
        self.states: dict[Path, str] = {}
        """State of each result that is not in the lake, by the folder in which it will be."""
        with suppress(Stopped):
            self.walk(stopping(self.step, until))

    def walk(self, step: Step) -> None:
        """The line up to the point where metrics decide, then the stages that follow in any case."""
        data = data_stages(self.run, step)
        self.parts = data.parts
        step(StageCall(StageName.PROFILE), profile.describe_data, self.run, data.raw, data.cleaned, data.parts)
        candidates = Candidates(self.run, step, data.parts, isolate=not_isolated)
        candidates.fit_single_models()
        if candidates.budgeted:
            self.searches(candidates)
        candidates.fit_blends()
        try:
            lineup, undecided = candidates.lineup(), False
        except lake.NotYetKnown:
            lineup, undecided = self.expected_lineup()
        n = len(self.stages)
        candidates.fit_references(lineup)
        if undecided:  # tonight's search may find the published configuration
            decided = [each if each.call.label == BASELINE else replace(each, state=OPEN) for each in self.stages[n:]]
            self.stages[n:] = decided
        self.rest()

    def step(self, call: StageCall, stage: Callable[..., Path], run: Run, *inputs: Any) -> Path:
        """Folder of the stage's result, which may not exist yet."""
        if call.stage is StageName.ADMIT:  # it depends on the clock, so its result is never reused
            self.raw = inputs[-1]
            self.add(call, TO_DO)
            return inputs[-1]
        state, folder = self.look(call, SPECS[stage], run, *inputs)
        if state == SHARED:
            self.shared.add(folder)
        elif state != CACHED:
            self.states[folder] = state
        self.add(call, state)
        return folder

    def look(self, call: StageCall, spec_of: Callable[..., lake.Spec], run: Run, *inputs: Any) -> tuple[str, Path]:
        """State of a stage whose result is kept in the lake, and the result's folder."""
        try:
            if call.stage in READ_SOURCE and not self.source_is_there():
                raise lake.NotYetKnown(run.data)
            spec = spec_of(run, *inputs)
        except lake.NotYetKnown as missing:
            if missing.place == journal.folder(run) or missing.place in self.shared:  # tonight's results decide
                return OPEN, self.unknown(call)
            return self.waits([each for each in inputs if isinstance(each, Path)]) or TO_DO, self.unknown(call)
        folder, waits = lake.folder_of(run, spec), self.waits(spec.parents)
        if call.fit != "train" and call.label and leaderboard.is_blend(run.settings, call.label):
            return waits or OPEN, folder  # its members are fitted first
        if waits or lake.is_complete(folder):
            return waits or CACHED, folder
        return SHARED if self.is_shared(run, spec) else TO_DO, folder

    def is_shared(self, run: Run, spec: lake.Spec) -> bool:
        """Whether a night could fetch the result. One that can't be asked for is made, for all that is known here."""
        shared = lake.shared_with(run, spec)
        try:
            return shared is not None and shared.has(lake.folder_of(run, spec))
        except StoreError as error:
            log_once(f"the shared lake can't be asked: {masked(str(error))}")
            return False

    def waits(self, parents: Iterable[Path]) -> str | None:
        """State of a stage that waits for some of its inputs; None: all are there."""
        states = {self.states[parent] for parent in parents if parent in self.states}
        return TO_DO if TO_DO in states else OPEN if states else None

    def unknown(self, call: StageCall) -> Path:
        """A folder that never exists. It stands for a result whose key is not known yet."""
        return self.run.home.lake(self.run.dataset) / "not yet known" / call.title

    def source_is_there(self) -> bool:
        """A generated source exists once a night has begun. An empty folder means that writing it failed."""
        return self.run.settings.dataset.source.generator is None or any(self.run.data.glob("*"))

    def searches(self, candidates: Candidates) -> None:
        """The searches within a budget. The best fit of each searched model is then unknown."""
        for label, first in list(candidates.fitted.items()):
            if self.run.settings.models[label].search:
                call = StageCall(StageName.SEARCH, label)
                candidates.step(call, search.search_model, self.run, candidates.parts, label, first, Turn(0.0))
                candidates.fitted[label] = self.unknown(StageCall(StageName.TRAIN, label, tuned=True))
                self.states[candidates.fitted[label]] = OPEN

    def expected_lineup(self) -> tuple[Contest, bool]:
        """The lineup according to settings and the published night, and whether tonight's results may change it."""
        known = incumbent.configured(self.run.settings)
        lineup = incumbent.contest(self.run, live_run_id(self.run.home, self.run.dataset), known)
        undecided = any(entry.search or entry.finder for entry in self.run.settings.models.values())
        if lineup.incumbent and lineup.configurations[lineup.incumbent].blends:
            undecided |= any(each.hyperparameters.get("most") for each in known.values())
        return lineup, undecided

    def rest(self) -> None:
        """The stages after evaluation. They depend on metrics, or run in every night."""
        last = LINE.index(StageName(self.until)) if self.until else len(LINE)
        for name in LINE[LINE.index(StageName.LEAKS) : last + 1]:
            gate, export = self.run.settings.gate, self.run.settings.export
            if name is StageName.SELECT and gate.enabled and gate.prefer == "steadier":
                self.add(EQUALS, OPEN)
            if name is StageName.EXPORT and export.holdback is not None:
                self.add(SECOND, OPEN)
            self.add(StageCall(name), OPEN if name is StageName.EXPORT else TO_DO)
            if name is StageName.COMPARE:
                self.add(REFIT, OPEN)
            if name is StageName.PUBLISH and self.run.settings.publish:
                self.add(StageCall(StageName.DELIVER), TO_DO)
            if name is StageName.PUBLISH:
                self.add(StageCall(StageName.REGISTER), TO_DO)

    def add(self, call: StageCall, state: str) -> None:
        """Append a stage with the minutes that it took in past nights."""
        seconds = 0.0 if state in (CACHED, SHARED) or call.stage in UNTIMED else self.usual(call)
        self.stages.append(Planned(call, state, seconds and round(seconds / 60, 4)))

    def usual(self, call: StageCall) -> float | None:
        """Median seconds over the last nights that ran it; None: no night did."""

        def same(done: StageCall) -> bool:
            if call in (REFIT, SECOND, EQUALS):
                return (done.stage, done.fit) == (REFIT.stage, REFIT.fit)
            return replace(done, cut_short=False) == call

        done = self.timings.of(same)
        if call in (REFIT, SECOND, EQUALS):
            roles = [self.role_of(run_id, title) for run_id, title in done.select("run_id", "stage").iter_rows()]
            done = done.filter(pl.Series(roles, dtype=pl.String) == call.label)
        nights = done.group_by("run_id").agg(pl.col("seconds").sum()).sort("run_id").tail(NIGHTS)
        return nights["seconds"].median()  # type: ignore[return-value]

    def role_of(self, run_id: str, title: str) -> str | None:
        """Label of the refit in the plan that a refit of a past night is: REFIT, SECOND or EQUALS.

        The members of a blend are fitted for the champion.
        """
        record = journal.find_run(self.run.home, self.run.dataset, run_id) or {}
        label, second = StageCall.parse(title).label, (record.get("made") or {}).get("runner_up")
        if label == record.get("champion"):
            return REFIT.label
        if second and Path(second).name.rsplit("-", 2)[0] == label:
            return SECOND.label
        return EQUALS.label if (record.get("gate") or {}).get("cost") else REFIT.label


def not_isolated(run: Run, label: str) -> AbstractContextManager[None]:
    """An error of one model ends the plan: there is no journal to record it in."""
    return nullcontext()
