"""Seconds that stages will take: work of the stage, by the speed of the device, by how wrong that was so far."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import device_speed, workload
from pipeline.experiments.families import sized_for
from pipeline.experiments.workload import Shape
from pipeline.models import ModelConfig
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake
from pipeline.training.device import resolve_device

SHORTEST = 0.05
"""Stages with a shorter time or forecast say nothing about its error."""
MOST = 10.0
"""A forecast is corrected by at most this factor, up or down."""
ENOUGH = 3
"""So many stages say how far forecasts are off."""
TIMED = 0.3
"""Stages of fewer seconds, in past nights and tonight, do not say how busy the machine is."""
LEAST_DOUBT, MOST_DOUBT = 1.5, 3.0
"""Smallest and largest safety factor of a fit in one piece; the largest counts before ENOUGH stages were timed."""


@dataclass(frozen=True)
class Sizes:
    """The parts of a split."""

    whole: Shape
    train: Shape
    valid: int
    """Users to evaluate."""
    test: int


def sizes_of(run: Run, parts: Path | None = None) -> Sizes | None:
    """Sizes of tonight's split; None where it is not there yet."""
    if parts is None:
        parts = next(iter(journal.artifacts(run, run.run_id, "4_split")), None)
    try:
        info = lake.info(parts) if parts else None
    except (OSError, ValueError):
        info = None
    if info is None:
        return None
    rows, users = info["rows"], info["users"]
    whole = Shape(sum(rows.values()), info["n_users"], info["n_items"])
    train = Shape(rows["train"], max(1, users["train"]), info["n_items"])
    return Sizes(whole, train, users["valid"], users["test"])


def slowdown_of(stages: pl.DataFrame, run_id: str) -> float:
    """How many times as long as in past nights the stages of a night take, at least 1: the machine may be busy.

    `stages`: rows of the table `stages` that were not skipped. The median of ENOUGH stages; 1 before they are there.
    """
    seconds = pl.col("seconds")
    past = stages.filter(pl.col("run_id") != run_id).group_by("stage").agg(seconds.median().alias("past"))
    both = stages.filter(run_id=run_id).join(past, on="stage").filter(pl.max_horizontal("seconds", "past") >= TIMED)
    if len(both) < ENOUGH:
        return 1.0
    times = (both["seconds"] / both["past"].clip(1e-3)).median()
    return min(MOST, max(1.0, float(times)))  # type: ignore[arg-type]


class Forecast:
    """Forecasts for the labels of a run."""

    def __init__(self, run: Run, sizes: Sizes):
        self.run, self.sizes = run, sizes
        self.speed = device_speed.measured(resolve_device(run.settings.device).type)
        self.errors: list[tuple[float, float]] = []
        """Measured over forecast seconds, and forecast seconds, in past nights and tonight."""
        self.tonight: list[tuple[float, float]] = []
        """Those of tonight, which know how busy the machine is."""

    def learn(self, timed: Iterable[tuple[StageCall, float]], tonight: bool = False) -> None:
        """Take the error of the forecasts from stages that were timed on this data."""
        for call, seconds in timed:
            if call.fit != "train" or call.cut_short or call.warm:
                continue
            guess = self.raw(call)
            if guess is not None and max(guess, seconds) >= SHORTEST:
                self.errors.append((min(MOST, max(1 / MOST, seconds / max(guess, 1e-9))), guess))
                self.tonight += self.errors[-1:] if tonight else []

    @property
    def error(self) -> float:
        """Median factor by which stages took longer than their forecast; 1 before anything was timed.

        Weighted by the forecast: overheads of short stages say little about long ones. Tonight's stages alone count
        as soon as there are ENOUGH of them.
        """
        known = self.tonight if len(self.tonight) >= ENOUGH else self.errors
        return _weighted_median(known) if known else 1.0

    @property
    def doubt(self) -> float:
        """How many times its forecast a fit may take: the largest error so far over the usual one, within bounds."""
        if len(self.errors) < ENOUGH:
            return MOST_DOUBT
        return min(MOST_DOUBT, max(LEAST_DOUBT, max(self.errors)[0] / self.error))

    def __call__(self, call: StageCall) -> float:
        """Corrected seconds of a fit or an evaluation; 0 for other stages, and for blends."""
        return self.error * (self.raw(call) or 0.0)

    def tracking(self, runs: int) -> float:
        """Seconds of logging the night to MLflow, at the speed that the host has now."""
        return self._on_host(workload.of_tracking(runs))

    def tables(self, champion: Sequence[str]) -> float:
        """Seconds from the refit to the published tables, without MLflow; `champion`: its label, or its members."""
        settings, whole = self.run.settings, self.sizes.whole
        lists = workload.Work()
        for label in champion:
            if label in settings.models and not leaderboard.is_blend(settings, label):
                family, config = leaderboard.family_name(settings, label), self._config(label)
                lists += workload.of_lists(family, config, whole, whole)
                if len(champion) == 1:  # a blend has no similarity of its own, so co-occurrence is used
                    lists += workload.of_similar(family, config, whole)
        return self.speed.seconds(lists) + self._on_host(workload.of_tables(whole, settings.export.top_n))

    def between(self, stages: int) -> float:
        """Seconds between this number of stages: planning, the journal, the orchestrator."""
        return self._on_host(workload.Work(steps=workload.STAGE_STEPS)) * stages

    def _on_host(self, work: workload.Work) -> float:
        return work.moved / self.speed.moved + work.steps / device_speed.host_steps()

    def raw(self, call: StageCall) -> float | None:
        """Seconds by the speed of the device alone; None where nothing is known about the label."""
        settings, label = self.run.settings, call.label or ""
        if label not in settings.models or leaderboard.is_blend(settings, label):
            return None
        family, config = leaderboard.family_name(settings, label), self._config(label)
        if call.stage is StageName.TRAIN:
            shape = self.sizes.train if call.fit == "train" else self.sizes.whole
            return self.speed.seconds(workload.of_fit(family, config, shape))
        if call.stage is StageName.EVALUATE:
            return self._evaluation(family, config)
        return None

    def _config(self, label: str) -> ModelConfig:
        """Hyperparameters of the fit on train, which a refit has too: large fits may have other defaults."""
        return sized_for(self.run.settings, label, self.sizes.train.rows)[1]

    def _evaluation(self, family: str, config: ModelConfig) -> float:
        train, length = self.sizes.train, self.sizes.train.length
        work = workload.Work()
        for users in (self.sizes.valid, self.sizes.test):
            shape = workload.part(train, round(users * length), users)
            work += workload.of_evaluation(family, config, shape, train)
        return self.speed.seconds(work)


def _weighted_median(values: list[tuple[float, float]]) -> float:
    """Of (value, weight): the smallest value that, with all below it, has half of the weight."""
    half, sum_so_far = sum(weight for _, weight in values) / 2, 0.0
    for value, weight in sorted(values):
        sum_so_far += weight
        if sum_so_far >= half:
            return value
    return 1.0
