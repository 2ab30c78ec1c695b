"""How long the stages of a night take: as they were timed tonight or in past nights, otherwise as forecast."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.config.settings import BASELINE
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import workload
from pipeline.experiments.families import family_of
from pipeline.experiments.forecast import Forecast, sizes_of, slowdown_of
from pipeline.models.blend import BlendConfig
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake

NIGHTS = 20
"""Number of past nights whose timings are read."""
AFTER_FITS = (
    StageName.LEAKS,
    StageName.SELECT,
    StageName.COMPARE,
    StageName.EXPORT,
    StageName.AUDIT,
    StageName.PUBLISH,
)
"""Stages from the fits on train to the published tables, without the refit and MLflow."""
DOUBT = 1.5
"""A stage that was never timed may take this many times its forecast."""
TRY = 0.3
"""A fit that gives up early where it would take too long is begun if this part of its forecast fits."""
LATE = 2.0
"""A fit that did not end in time is tried again with at least this many times the seconds that it had."""
LEARNING = 3.0
"""Assumed time to learn the weights of a blend, in evaluations of its members, until one was timed."""
USED_TO = 0.3
"""A refit takes at least this part of the fit on train, whatever its validations took."""


class Timings:
    """Durations of stages on this data set, in seconds."""

    def __init__(self, run: Run):
        ids = journal.run_ids(run.home, run.dataset)[-NIGHTS:]
        stages = [journal.read(run.home, run.dataset, tables.STAGES, run_id) for run_id in ids]
        self.run, self.run_id, self.labels = run, run.run_id, list(run.settings.models)
        self.blends = [label for label in self.labels if leaderboard.is_blend(run.settings, label)]
        published = any(journal.read_run(run.home, run.dataset, i).get("outcome") == "published" for i in ids)
        self.gated = published and run.settings.gate.enabled
        self.all_stages = pl.concat([tables.STAGES.empty(), *stages])
        self.stages = self.all_stages.filter(~pl.col("skipped"))
        self.known_sizes = sizes_of(run)

    @cached_property
    def by_title(self) -> dict[str, list[tuple[str, float]]]:
        """Run id and seconds of the stages that were not skipped, by title, oldest night first."""
        found: dict[str, list[tuple[str, float]]] = {}
        by_night = self.stages.select("stage", "run_id", "seconds").sort("run_id", maintain_order=True)
        for title, run_id, seconds in by_night.iter_rows():
            found.setdefault(title, []).append((run_id, seconds))
        return found

    def expected(self, *calls: StageCall) -> float | None:
        """Expected duration of the first of these calls that was ever timed: the longest of its last three times."""
        for call in calls:
            rows = self.by_title.get(call.title, [])[-3:]
            if tonight := [seconds for run_id, seconds in rows if run_id == self.run_id]:
                return max(tonight)
            if rows:
                return self.slowdown * max(seconds for _, seconds in rows)
        return None

    @cached_property
    def slowdown(self) -> float:
        """How many times as long as in past nights tonight's stages take."""
        return slowdown_of(self.stages, self.run_id)

    @cached_property
    def forecast(self) -> Forecast | None:
        """Of fits and evaluations, corrected by those that were timed; None before tonight's split is there."""
        if self.known_sizes is None:
            return None
        made = Forecast(self.run, self.known_sizes)
        for row in self.stages.iter_rows(named=True):
            call = _call(row["stage"])
            if call and call.stage in (StageName.TRAIN, StageName.EVALUATE):
                made.learn([(call, row["seconds"])], row["run_id"] == self.run_id)
        return made

    def guess(self, call: StageCall) -> float:
        """Expected seconds of a call: as timed, else as forecast; 0 where neither is there."""
        timed = self.expected(call)
        return timed if timed is not None else self.forecast(call) if self.forecast else 0.0

    def least(self, call: StageCall) -> float | None:
        """Seconds without which a fit leaves nothing: one epoch, or all of a fit in one piece; None: not known."""
        cut = self.expected(replace(call, cut_short=True))
        timed = self.expected(call, replace(call, tuned=False))
        family, config = family_of(self.run.settings, call.label or "")
        epochs = workload.epochs_of(config)
        if timed is None and self.forecast:
            doubt = TRY if family.family in workload.IN_PIECES else DOUBT if epochs else self.forecast.doubt
            seconds = doubt * self.forecast(call)
        else:
            seconds = timed or 0.0
        if epochs:
            seconds = seconds / epochs
        elif cut is not None and timed is None:
            seconds = cut
        return max(seconds, LATE * self.late.get(call.label or "", 0.0)) or None

    def of(self, wanted: Callable[[StageCall], bool]) -> pl.DataFrame:
        """Rows of the stages whose call is wanted."""
        titles = [title for title in self.by_title if (call := _call(title)) and wanted(call)]
        return self.stages.filter(pl.col("stage").is_in(titles))

    def tonight(self, stage: StageName) -> list[StageCall]:
        """Calls of a stage in this night, including those whose result existed already."""
        return [call for call in self.calls_of_tonight if call.stage is stage]

    @cached_property
    def calls_of_tonight(self) -> list[StageCall]:
        """Calls of all stages in this night, in the order in which they ended."""
        titles = self.all_stages.filter(run_id=self.run_id)["stage"]
        return [call for call in map(_call, titles) if call]

    def turns(self, label: str) -> int:
        """Number of turns of the search of this label so far this night."""
        return sum(call.label == label for call in self.tonight(StageName.SEARCH))

    def runs(self, run_id: str) -> int:
        """Number of runs of a night in MLflow: its models and the trials of its searches."""
        most: dict[tuple[StageName, str | None], int] = {}
        for row in self.all_stages.filter(run_id=run_id).to_dicts():
            call = _call(row["stage"])
            if call and call.stage in (StageName.TRAIN, StageName.SEARCH):
                number = 1 if call.stage is StageName.TRAIN else row["rows_out"] or 0
                most[call.stage, call.label] = max(number, most.get((call.stage, call.label), 0))
        return 1 + sum(most.values())

    @cached_property
    def past(self) -> list[str]:
        """The last three nights before this one that were logged to MLflow."""
        rows = self.stages.filter(pl.col("stage") == StageName.TRACK, pl.col("run_id") != self.run_id)
        return sorted(rows["run_id"])[-3:]

    def has_budget(self, run_id: str) -> bool:
        """Whether a night had a budget."""
        settings = journal.read_settings(self.run.home, self.run.dataset, run_id) or {}
        return (settings.get("budget") or {}).get("minutes") is not None

    def tracking(self, further: int = 0) -> float:
        """Logging to MLflow, with a number of runs more than there are now."""
        budgeted = [
            run_id for run_id in self.past if self.has_budget(run_id)
        ]  # others also draw plots before publishing
        rows = self.stages.filter(pl.col("stage") == StageName.TRACK, pl.col("run_id").is_in(budgeted))
        tonight = workload.of_tracking(self.runs(self.run_id) + further).steps
        if len(rows):
            each = [row["seconds"] / workload.of_tracking(self.runs(row["run_id"])).steps for row in rows.to_dicts()]
            return self.slowdown * max(each) * tonight
        return self.forecast.tracking(self.runs(self.run_id) + further) if self.forecast else 0.0

    def left_out(self) -> set[str]:
        """Labels that were skipped or failed in this night."""
        return set(self.record.get("left_out", {}))

    @property
    def late(self) -> dict[str, float]:
        """Seconds by label of tonight's fits that ended without a result because their time was over."""
        return self.record.get("late", {})

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the journal says of this night."""
        return journal.find_run(self.run.home, self.run.dataset, self.run_id) or {}

    def fitted(self) -> list[str]:
        """Labels that are fitted in this night, in the recipe's order."""
        fitted = {call.label for call in self.tonight(StageName.TRAIN)}
        return [label for label in self.labels if label in fitted]

    def evaluated(self) -> set[str | None]:
        """Labels that are evaluated in this night."""
        return {call.label for call in self.tonight(StageName.EVALUATE)}

    @property
    def best_first(self) -> list[str]:
        """The leaderboard so far."""
        return list(self.on_valid)

    @cached_property
    def on_valid(self) -> dict[str, float]:
        """The selecting metric on valid so far, best first."""
        metrics = journal.folder(self.run) / f"{tables.METRICS.name}.jsonl"
        night = Night((self.run.home.root, self.run.dataset, self.run_id), self.run)
        return best_of(night, metrics.stat().st_size if metrics.exists() else 0)

    def members(self, blend: str) -> list[str]:
        """Labels that the blend would have as members now."""
        settings = self.run.settings
        config = BlendConfig.model_validate(settings.models[blend].model_extra or {})
        fitted = {label: leaderboard.family_name(settings, label) for label in self.fitted()}
        return leaderboard.members_of(config, fitted, self.best_first)

    def evaluation(self, label: str) -> float:
        """Evaluation; for a blend that was never timed, as long as for its members."""
        own = StageCall(StageName.EVALUATE, label)
        if label in self.blends:
            return self.expected(own) or sum(map(self.evaluation, self.members(label)))
        if guess := self.guess(own):
            return guess
        calls = {title: _call(title) for title in self.by_title}
        titles = [title for title, call in calls.items() if call and call.stage is StageName.EVALUATE]
        times = [seconds for title in titles for _, seconds in self.by_title[title]]
        return (min if label == BASELINE else max)(times, default=0.0)

    def learning(self, blend: str) -> float:
        """Fit of a blend whose members are fitted already."""
        guess = LEARNING * sum(map(self.evaluation, self.members(blend)))
        return self.expected(StageCall(StageName.TRAIN, blend)) or guess

    def best_fit(self, label: str) -> float:
        """Fit on train with the result of a search, otherwise with the configured hyperparameters; 0 if never timed."""
        first = StageCall(StageName.TRAIN, label)
        tuned = replace(first, tuned=True)
        cut = [replace(call, cut_short=True) for call in (tuned, first)]
        return self.expected(tuned, cut[0], first, cut[1]) or 0.0

    def refit(self, label: str) -> float:
        """Fit on all rows; of a blend, including those of its members."""
        on_all = self.expected(StageCall(StageName.TRAIN, label, fit="all"))
        if label in self.blends:
            return (on_all or 0.0) + sum(map(self.refit, self.members(label)))
        if info := self.fit_infos.get(label):
            return self.growth * _without_validation(info)
        return on_all or self.growth * (self.best_fit(label) or self.guess(StageCall(StageName.TRAIN, label)))

    @cached_property
    def growth(self) -> float:
        """Rows of all data over those of train."""
        sizes = self.known_sizes
        return sizes.whole.rows / max(1, sizes.train.rows) if sizes else 1.25

    @cached_property
    def fit_infos(self) -> dict[str, dict[str, Any]]:
        """What the lake says of the newest fit on train of each label."""
        found: dict[str, dict[str, Any]] = {}
        for folder in journal.artifacts(self.run, self.run_id, "5_models"):
            with suppress(OSError, ValueError):
                info = lake.info(folder)
                if info.get("fit") == "train":
                    found[info["label"]] = info
        return found


@lru_cache(maxsize=10_000)
def _call(title: str) -> StageCall | None:
    """The call with this title; None for a stage of another version of the code."""
    try:
        return StageCall.parse(title)
    except ValueError:
        return None


def _without_validation(info: dict[str, Any]) -> float:
    """Seconds of the epochs up to the best one of a fit: a refit repeats them, and has no validation."""
    seconds, epochs = info["seconds"], len(info["history"])
    learning = max(USED_TO * seconds, seconds - (info.get("validating") or 0.0))
    return learning * min(1.0, info["best_epoch"] / epochs) if epochs and info["best_epoch"] else learning


@dataclass(frozen=True)
class Night:
    """A run as a key of a cache."""

    key: tuple[Path, str, str]
    run: Run = field(compare=False)


@lru_cache(maxsize=1)
def best_of(night: Night, size: int) -> dict[str, float]:
    """The leaderboard of a night whose journal of metrics has `size` bytes: reading it takes tenths of a second."""
    return leaderboard.on_valid(night.run)
