"""The stages of a night in order, found by driving the line with a step that looks into the lake and builds nothing."""

from pathlib import Path
from typing import Any

import polars as pl

from flows import nightly as line
from flows.competing import Competition
from pipeline import budget, incumbent, lake, progress, standing
from pipeline.models.blend import BlendConfig
from pipeline.run import Run
from pipeline.settings import FLOOR
from pipeline.stages import train
from pipeline.stages.publish import live_run_id

CACHED, TO_DO, OPEN = "cached", "to do", "open"
"""OPEN: what comes before decides whether it is done, or with which model."""
NIGHTS = 5
"""Past nights by which a stage is timed, the last that did it."""
UNTIMED = ("select",)  # a moment, which no journal has


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

    def say(self, text: str, ids: str = "") -> None:
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

    def step(self, stage: Any, *args: Any) -> Any:
        """The folder of the stage's result, or a Later where it isn't there."""
        name, title = line.name_of(stage), line.title_of(stage, args)
        if name == "leaks":
            raise FiguresDecide
        state, folder = (TO_DO, args[-1]) if name == "admit" else self.look(stage, title, args)  # never kept
        self.add(title, state)
        found = folder or Later(state)
        if name == "split":
            self.parts = found
        if name == "search" or (name == "train" and " on " not in title):
            self.fitted[args[2]] = Later(OPEN) if name == "search" else found
        return found

    def look(self, stage: Any, title: str, args: tuple[Any, ...]) -> tuple[str, Path | None]:
        """State of a stage that keeps its result in the lake, and the result's folder."""
        if title.startswith("train ") and len(args) > 6:
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
            return (CACHED, looked.folder) if looked.stage == title else (OPEN, None)  # a blend's member goes before it
        raise AssertionError(f"{title} does not keep its result in the lake")

    def source_is_there(self) -> bool:
        """What a generator writes is there once a night has begun; its folder alone where it could not write."""
        return self.run.settings.dataset.source.generator is None or any(self.run.data.glob("*"))

    def add(self, title: str, state: str, pattern: str | None = None) -> None:
        """One more stage, timed by the titles that match `pattern`, else by its own. Raises Ended behind `until`."""
        name = "track" if title == "register" else title.split()[0]
        if self.until and line.ORDER.index(name) > line.ORDER.index(self.until):
            raise Ended
        seconds = 0.0 if state == CACHED or name in UNTIMED else self.usual(title, pattern)
        self.stages.append({"stage": title, "state": state, "minutes": seconds and round(seconds / 60, 4)})

    def usual(self, title: str, pattern: str | None = None) -> float | None:
        """Median seconds of the last nights that did it; None: no night has."""
        own = pl.col("stage").is_in([title, f"{title}, cut short"])
        timed = self.timings.stages.filter(pl.col("stage").str.contains(pattern) if pattern else own)
        nights = timed.group_by("run_id").agg(pl.col("seconds").sum()).sort("run_id").tail(NIGHTS)
        return nights["seconds"].median()  # type: ignore[return-value]

    def planned(self, title: str) -> bool:
        """Whether the stage is in the plan already."""
        return any(stage["stage"] == title for stage in self.stages)

    def rest_of_models(self) -> None:
        """Searches, blends, and what the gate adds, as far as settings and the published night tell."""
        models = self.run.settings.models
        for label, entry in models.items():
            if entry.search and not self.planned(f"search {label}"):
                self.add(f"search {label}", TO_DO)
                self.fitted[label] = Later(OPEN)
        field = Competition(self.run, self.step, self.parts)
        field.fitted = self.fitted
        for label in models:
            if not self.planned(f"evaluate {label}"):
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
        for name in line.ORDER[line.ORDER.index("leaks") :]:
            if name == "track":  # of a blend, the members are fitted anew too
                self.add("train the champion on all", OPEN, r"^train .* on all$")
            self.add(name, OPEN if name == "export" else TO_DO)
            if name == "publish":
                self.add("register", TO_DO)
