"""The stages of a night in order, found by driving the line with a step that looks into the lake and builds nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from flows import nightly as line
from flows.competing import Competition
from pipeline import budget, incumbent, lake, progress, standing
from pipeline.models.blend import BlendConfig
from pipeline.run import Run
from pipeline.settings import FLOOR
from pipeline.stage_call import StageCall, StageName
from pipeline.stages import LINE, train
from pipeline.stages.publish import live_run_id

CACHED, TO_DO, OPEN = "cached", "to do", "open"
"""OPEN: what comes before decides whether it is done, or with which model."""
NIGHTS = 5
"""Past nights by which a stage is timed, the last that did it."""
UNTIMED = (StageName.SELECT,)  # a moment, which no journal has
REFIT = StageCall(StageName.TRAIN, "the champion", fit="all")
"""Whichever that will be; of a blend, the members are fitted on all rows too."""


class Later:
    """The result of a stage that has yet to run, or may not run."""

    def __init__(self, state: str):
        self.state = state

    def __truediv__(self, name: str) -> Path:
        raise Unknown

    def __lt__(self, other: Any) -> bool:
        return True  # the line sorts its folders; in which order is all the same

    __gt__ = __lt__


class Unknown(BaseException):
    """What follows depends on what is in a result that isn't there yet."""


class FiguresDecide(BaseException):
    """All models are measured; what follows depends on how well they did."""


class Ended(BaseException):
    """The night would stop here, as `--until` says."""


class Silence(progress.Watcher):
    """What the line says on its way is for nights."""

    def say(self, text: str) -> None:
        """Nothing."""


class Plan:
    """`stages`: dicts of stage, state and minutes (None: no past night did it), in the order of the night.

    `run` must be one that looks only. Raises SettingsError and UnreadableInput, as the night itself would.
    """

    def __init__(self, run: Run, until: str | None = None):
        self.run, self.until, self.timings = run, until, budget.Timings(run)
        self.stages: list[dict[str, Any]] = []
        self.parts: Any = Later(TO_DO)
        self.fitted: dict[str, Any] = {}  # fits on train so far, by label; Later where a search may find a better one
        try:
            try:
                with progress.watched_by(Silence()):
                    line.night(run, self.step)
            except Unknown:
                self.rest_of_models()
            except FiguresDecide:
                pass
            self.rest_of_night()
        except Ended:
            pass

    def step(self, call: StageCall, stage: Any, *args: Any) -> Any:
        """The folder of the stage's result, or a Later where it isn't there."""
        if call.stage is StageName.LEAKS:
            raise FiguresDecide
        state, folder = (
            (TO_DO, args[-1]) if call.stage is StageName.ADMIT else self.look(call, stage, args)
        )  # never kept
        self.add(call, state)
        found = folder or Later(state)
        if call.stage is StageName.SPLIT:
            self.parts = found
        if call.label and call.fit == "train" and call.stage in (StageName.SEARCH, StageName.TRAIN):
            self.fitted[call.label] = Later(OPEN) if call.stage is StageName.SEARCH else found
        return found

    def look(self, call: StageCall, stage: Any, args: tuple[Any, ...]) -> tuple[str, Path | None]:
        """State of a stage that keeps its result in the lake, and the result's folder."""
        if call.stage is StageName.TRAIN and len(args) > 6:
            (_, config), made_of = train.family_of(args[0].settings, args[2]), {}  # other models are for blends only
            if isinstance(config, BlendConfig):
                if config.most:
                    return OPEN, None  # figures decide on its members
                families = {label: standing.family_name(args[0].settings, label) for label in args[6]}
                made_of = {label: args[6][label] for label in standing.members_of(config, families, [])}
            args = (*args[:6], made_of)
        needed = [each for arg in args for each in (arg.values() if isinstance(arg, dict) else [arg])]
        waits = [each.state for each in needed if isinstance(each, Later)]
        if waits or not self.source_is_there():
            return (OPEN if waits and TO_DO not in waits else TO_DO), None
        try:
            stage(*args)
        except lake.Looked as looked:
            if not looked.there:
                return TO_DO, None
            return (
                (CACHED, looked.folder) if looked.stage == call.title else (OPEN, None)
            )  # a blend's member goes before it
        raise AssertionError(f"{call.title} does not keep its result in the lake")

    def source_is_there(self) -> bool:
        """What a generator writes is there once a night has begun; its folder alone where it could not write."""
        return self.run.settings.dataset.source.generator is None or any(self.run.data.glob("*"))

    def add(self, call: StageCall, state: str) -> None:
        """One more stage. Raises Ended behind `until`."""
        if self.until and LINE.index(call.place) > LINE.index(StageName(self.until)):
            raise Ended
        seconds = 0.0 if state == CACHED or call.stage in UNTIMED else self.usual(call)
        self.stages.append({"stage": call.title, "state": state, "minutes": seconds and round(seconds / 60, 4)})

    def usual(self, call: StageCall) -> float | None:
        """Median seconds of the last nights that did it; None: no night has."""

        def same(done: StageCall) -> bool:
            if call == REFIT:
                return (done.stage, done.fit) == (REFIT.stage, REFIT.fit)
            return replace(done, cut_short=False) == call

        nights = self.timings.of(same).group_by("run_id").agg(pl.col("seconds").sum()).sort("run_id").tail(NIGHTS)
        return nights["seconds"].median()  # type: ignore[return-value]

    def planned(self, call: StageCall) -> bool:
        """Whether the stage is in the plan already."""
        return any(stage["stage"] == call.title for stage in self.stages)

    def rest_of_models(self) -> None:
        """Searches, blends, and what the gate adds, as far as settings and the published night tell."""
        models = self.run.settings.models
        for label, entry in models.items():
            if entry.search and not self.planned(StageCall(StageName.SEARCH, label)):
                self.add(StageCall(StageName.SEARCH, label), TO_DO)
                self.fitted[label] = Later(OPEN)
        field = Competition(self.run, self.step, self.parts)
        field.fitted = self.fitted
        for label in models:
            if not self.planned(StageCall(StageName.EVALUATE, label)):
                field.compete(label, self.run)
        known, n = incumbent.configured(self.run.settings), len(self.stages)
        lineup = incumbent.lineup(self.run, live_run_id(self.run.home, self.run.dataset), known)
        field.beside_the_recipe(lineup)
        undecided = any(entry.search or entry.finder for entry in models.values())
        if lineup.incumbent and lineup.configurations[lineup.incumbent].blends:
            undecided |= any(each.hyperparameters.get("most") for each in known.values())
        for stage in self.stages[n:]:
            if undecided and FLOOR not in stage["stage"]:  # what is found tonight may be the published configuration
                stage["state"] = OPEN

    def rest_of_night(self) -> None:
        """What figures decide, and what is done anew each night."""
        for name in LINE[LINE.index(StageName.LEAKS) :]:
            if name is StageName.TRACK:
                self.add(REFIT, OPEN)
            self.add(StageCall(name), OPEN if name is StageName.EXPORT else TO_DO)
            if name is StageName.PUBLISH:
                self.add(StageCall(StageName.REGISTER), TO_DO)
