"""The stages of a night in order: the line, walked with a step that asks for keys and builds nothing."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flows import nightly as line
from flows.candidates import Competition
from flows.step import Step, Stopped, stopping
from pipeline.config.run import Run
from pipeline.config.settings import BASELINE
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.selection import incumbent, leaderboard
from pipeline.selection.incumbent import Contest
from pipeline.stages import LINE, clean, encode, evaluate, ingest, profile, search, split, train
from pipeline.storage import journal, lake
from pipeline.storage.generations import live_run_id

CACHED, TO_DO, OPEN = "cached", "to do", "open"
"""OPEN: what comes before decides whether it is done, or with which model."""
NIGHTS = 5
"""Past nights by which a stage is timed, the last that did it."""
UNTIMED = (StageName.SELECT,)  # a moment, which no journal has
REFIT = StageCall(StageName.TRAIN, "the champion", fit="all")
"""Whichever that will be; of a blend, the members are fitted on all rows too."""
READ_SOURCE = (StageName.INGEST, StageName.SPLIT)
"""Stages whose keys need the source's files: the latter those of a published split."""
SPECS = {
    StageName.INGEST: ingest.spec,
    StageName.CLEAN: clean.spec,
    StageName.ENCODE: encode.spec,
    StageName.SPLIT: split.spec,
    StageName.PROFILE: profile.spec,
    StageName.SEARCH: search.spec,
    StageName.TRAIN: train.spec,
    StageName.EVALUATE: evaluate.spec,
}
"""How a stage says the key of its result, given what it would be called with."""


@dataclass(frozen=True)
class Planned:
    """A stage of the plan."""

    call: StageCall
    state: str
    minutes: float | None
    """None: no past night did it."""


class Plan:
    """`stages`: those of the night, in its order.

    Raises SettingsError and UnreadableInput, as the night itself would.
    """

    def __init__(self, run: Run, until: str | None = None):
        self.run, self.until, self.timings = run, until, budget.Timings(run)
        self.stages: list[Planned] = []
        self.states: dict[Path, str] = {}
        """Of results that are not there, by where they will be."""
        with suppress(Stopped):
            self.walk(stopping(self.step, until))

    def walk(self, step: Step) -> None:
        """The line up to where figures decide, then what follows in any case."""
        data = line.data_stages(self.run, step)
        step(StageCall(StageName.PROFILE), profile.describe_data, self.run, data.raw, data.cleaned, data.parts)
        field = Competition(self.run, step, data.parts, isolate=not_isolated)
        field.first_fits()
        if field.budgeted:
            self.searches(field)
        field.blends()
        try:
            lineup, undecided = field.lineup(), False
        except lake.NotYetKnown:
            lineup, undecided = self.expected_lineup()
        n = len(self.stages)
        field.beside_the_recipe(lineup)
        if undecided:  # what is found tonight may be the published configuration
            decided = [each if each.call.label == BASELINE else replace(each, state=OPEN) for each in self.stages[n:]]
            self.stages[n:] = decided
        self.rest()

    def step(self, call: StageCall, stage: Any, run: Run, *inputs: Any) -> Path:
        """Where the stage's result is, or will be."""
        if call.stage is StageName.ADMIT:  # it depends on the clock, and is never kept
            self.add(call, TO_DO)
            return inputs[-1]
        state, folder = self.look(call, run, *inputs)
        if state != CACHED:
            self.states[folder] = state
        self.add(call, state)
        return folder

    def look(self, call: StageCall, run: Run, *inputs: Any) -> tuple[str, Path]:
        """State of a stage that keeps its result in the lake, and the result's folder."""
        try:
            if call.stage in READ_SOURCE and not self.source_is_there():
                raise lake.NotYetKnown(run.data)
            spec = SPECS[call.stage](run, *inputs)
        except lake.NotYetKnown as missing:
            if missing.place == journal.folder(run):  # tonight's figures decide
                return OPEN, self.unknown(call)
            return self.waits([each for each in inputs if isinstance(each, Path)]) or TO_DO, self.unknown(call)
        folder, waits = lake.folder_of(run, spec), self.waits(spec.parents)
        if call.fit != "train" and call.label and leaderboard.is_blend(run.settings, call.label):
            return waits or OPEN, folder  # its members are fitted before it
        return waits or (CACHED if lake.is_complete(folder) else TO_DO), folder

    def waits(self, parents: Any) -> str | None:
        """The state of a stage whose inputs are not all there; None: they are."""
        states = {self.states[parent] for parent in parents if parent in self.states}
        return TO_DO if TO_DO in states else OPEN if states else None

    def unknown(self, call: StageCall) -> Path:
        """Where no result is: stands for one whose key is not yet known."""
        return self.run.home.lake(self.run.dataset) / "not yet known" / call.title

    def source_is_there(self) -> bool:
        """What a generator writes is there once a night has begun; its folder alone where it could not write."""
        return self.run.settings.dataset.source.generator is None or any(self.run.data.glob("*"))

    def searches(self, field: Competition) -> None:
        """Those of a budget; of each model that is searched, the best fit is then yet to be found."""
        for label, first in list(field.fitted.items()):
            if self.run.settings.models[label].search:
                call = StageCall(StageName.SEARCH, label)
                field.step(call, search.search_model, self.run, field.parts, label, first, 0.0)
                field.fitted[label] = self.unknown(StageCall(StageName.TRAIN, label, tuned=True))
                self.states[field.fitted[label]] = OPEN

    def expected_lineup(self) -> tuple[Contest, bool]:
        """What the gate adds, as far as settings and the published night tell; and whether tonight may change it."""
        known = incumbent.configured(self.run.settings)
        lineup = incumbent.contest(self.run, live_run_id(self.run.home, self.run.dataset), known)
        undecided = any(entry.search or entry.finder for entry in self.run.settings.models.values())
        if lineup.incumbent and lineup.configurations[lineup.incumbent].blends:
            undecided |= any(each.hyperparameters.get("most") for each in known.values())
        return lineup, undecided

    def rest(self) -> None:
        """What figures decide, and what is done in each night."""
        last = LINE.index(StageName(self.until)) if self.until else len(LINE)
        for name in LINE[LINE.index(StageName.LEAKS) : last + 1]:
            self.add(StageCall(name), OPEN if name is StageName.EXPORT else TO_DO)
            if name is StageName.COMPARE:
                self.add(REFIT, OPEN)
            if name is StageName.PUBLISH:
                self.add(StageCall(StageName.REGISTER), TO_DO)

    def add(self, call: StageCall, state: str) -> None:
        """One more stage, timed by past nights."""
        seconds = 0.0 if state == CACHED or call.stage in UNTIMED else self.usual(call)
        self.stages.append(Planned(call, state, seconds and round(seconds / 60, 4)))

    def usual(self, call: StageCall) -> float | None:
        """Median seconds of the last nights that did it; None: no night has."""

        def same(done: StageCall) -> bool:
            if call == REFIT:
                return (done.stage, done.fit) == (REFIT.stage, REFIT.fit)
            return replace(done, cut_short=False) == call

        nights = self.timings.of(same).group_by("run_id").agg(pl.col("seconds").sum()).sort("run_id").tail(NIGHTS)
        return nights["seconds"].median()  # type: ignore[return-value]


def not_isolated(run: Run, label: str) -> AbstractContextManager[None]:
    """What goes wrong with a model while planning ends the plan: there is no journal to keep it in."""
    return nullcontext()
