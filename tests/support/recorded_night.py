"""What the stages of a real night took, and a replay of it: the planner's decisions may differ, the costs do not.

`python -m tests.support.recorded_night HOME DATASET FILE` records the newest night of a home.
"""

import datetime as dt
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import workload
from pipeline.experiments.device_speed import Speed
from pipeline.experiments.families import family_of
from pipeline.experiments.forecast import Forecast, Sizes, sizes_of
from pipeline.experiments.timings import AFTER_FITS
from pipeline.experiments.workload import Shape, Work
from pipeline.models import Recommender
from pipeline.storage import journal, lake, state_files

IDLE = Speed(1.2e11, 9e9, 6e3)
"""A machine of 2 cores without other load."""


def record(home: Path, dataset: str) -> dict[str, Any]:
    """The newest night of a data set as JSON values, in seconds."""
    place = Home(home)
    run = journal.load_run(place, dataset, journal.run_ids(place, dataset)[-1])
    folder, sizes = journal.folder(run), sizes_of(run)
    assert sizes
    lines = state_files.read_records(folder / "stages.jsonl")
    done = [(StageCall.parse(line["stage"]), line["seconds"]) for line in lines if not line["skipped"]]
    of_fits = [(call, seconds) for call, seconds in done if call.stage is StageName.TRAIN]
    ended = dt.datetime.fromisoformat(journal.read_run(place, dataset, run.run_id)["finished_at"])
    first = next(iter(journal.artifacts(run, run.run_id, "5_models"))) / lake.MANIFEST
    place_of = {call.stage: place for place, (call, _) in reversed([*enumerate(done)])}
    began = dt.datetime.fromtimestamp(first.stat().st_mtime, dt.UTC).replace(tzinfo=None)
    began -= dt.timedelta(seconds=done[place_of[StageName.TRAIN]][1])
    of_models = [seconds for _, seconds in done[place_of[StageName.TRAIN] : place_of[StageName.PUBLISH] + 1]]
    unaccounted = (ended - began).total_seconds() - sum(of_models)
    fits: dict[str, float] = {}
    for fit in map(lake.info, reversed(journal.artifacts(run, run.run_id, "5_models"))):
        label, epochs = fit["label"], workload.epochs_of(family_of(run.settings, fit["label"])[1]) \
            if fit["label"] in run.settings.models else None  # fmt: skip
        if fit["fit"] == "train" and label in run.settings.models and "members" not in fit:
            whole = epochs / len(fit["history"]) if epochs and fit["history"] else 1.0
            took = [seconds for call, seconds in of_fits if call.label == label and call.fit == "train"]
            fits[label] = round(max(took[:1]) * (whole if StageCall.parse(_title(fit, of_fits)).cut_short else 1.0), 2)
    trials = {}
    for search in journal.artifacts(run, run.run_id, "5_searches"):
        seconds = pl.read_parquet(search / "trials.parquet")["seconds"].to_list()
        trials[lake.info(search)["label"]] = [round(each, 2) for each in seconds if each > 0.01]
    return {
        "dataset": dataset, "minutes": run.settings.budget.minutes,
        "used": round((ended - run.started_at).total_seconds(), 1),
        "whole": _shape(sizes.whole), "train": _shape(sizes.train), "valid": sizes.valid, "test": sizes.test,
        "before_fits": round((began - run.started_at).total_seconds(), 1),
        "between": round(max(0.0, unaccounted) / len(of_models), 3),
        "fits": fits, "trials": {label: seconds for label, seconds in trials.items() if seconds},
        "refits": {call.label: seconds for call, seconds in of_fits if call.fit == "all" and call.label != "blend"},
        "evaluations": {call.label: seconds for call, seconds in done if call.stage is StageName.EVALUATE},
        "after": {call.stage: seconds for call, seconds in done if call.stage in (*AFTER_FITS, StageName.TRACK)},
        "runs": 1 + len(fits) + sum(map(len, trials.values())),
        "valid_metric": {lake.info(f)["label"]: lake.info(f)["valid"]
                         for f in journal.artifacts(run, run.run_id, "5_models") if lake.info(f)["fit"] == "train"},
    }  # fmt: skip


def _title(fit: dict[str, Any], of_fits: list[tuple[StageCall, float]]) -> str:
    return next(call.title for call, _ in of_fits if call.label == fit["label"] and call.fit == "train")


def _shape(shape: Shape) -> list[int]:
    return [shape.rows, shape.users, shape.items]


@dataclass
class Recorded:
    """Costs of a recorded night. A family that was not fitted takes its forecast, by the night's median error."""

    night: dict[str, Any]

    def __post_init__(self) -> None:
        night = self.night
        self.sizes = Sizes(Shape(*night["whole"]), Shape(*night["train"]), night["valid"], night["test"])
        self.before_fits, self.between = night["before_fits"], night["between"]
        self.speed, self.metrics = IDLE, {k: value for k, value in night["valid_metric"].items() if value is not None}

    @classmethod
    def of(cls, file: Path) -> "Recorded":
        """From a file of `tests/nights/recorded`."""
        return cls(json.loads(file.read_text()))

    def is_refused(self, family: type[Recommender]) -> bool:
        """Whether this family can't be fitted on the data of the night, which may have no times."""
        return family.needs_time and not self.timed

    @cached_property
    def timed(self) -> bool:
        """Whether the data set has times."""
        return (
            loader.load_settings(self.night["dataset"], "best", [], environ={})[0].dataset.columns.timestamp is not None
        )

    def prepare(self, run: Run) -> None:
        """Find how much slower than an idle machine this one was, which the probes see: by the fits, and by MLflow."""
        made = Forecast(run, self.sizes)
        ratios = []
        for stage, timed in ((StageName.TRAIN, "fits"), (StageName.EVALUATE, "evaluations")):
            for label, seconds in self.night[timed].items():
                if label in run.settings.models and (guess := made.raw(StageCall(stage, label))):
                    ratios.append(seconds / guess)
        slower = max(1.0, sorted(ratios)[len(ratios) // 2])
        steps = workload.of_tracking(self.night["runs"]).steps / self.night["after"]["track"]
        self.speed = Speed(IDLE.products / slower, IDLE.moved / slower, steps)

    def _forecast(self, run: Run, call: StageCall) -> float:
        return Forecast(run, self.sizes).raw(call) or 0.0

    def fit(self, run: Run, label: str) -> float:
        return self.night["fits"].get(label) or self._forecast(run, StageCall(StageName.TRAIN, label))

    def evaluation(self, run: Run, label: str) -> float:
        return self.night["evaluations"].get(label) or self._forecast(run, StageCall(StageName.EVALUATE, label))

    def trial(self, run: Run, label: str, number: int) -> float:
        known = self.night["trials"].get(label) or [self.fit(run, label)]
        return known[number % len(known)]

    def refit(self, run: Run, label: str, fit: float) -> float:
        return self.night["refits"].get(label) or fit

    def publishing(self, run: Run, champion: Sequence[str], runs: int) -> float:
        after, base = dict(self.night["after"]), workload.of_tracking(self.night["runs"]).steps
        tracking = after.pop("track") * workload.of_tracking(runs).steps / base
        lists = Work()
        for label in {*champion} - {*self.night["refits"]}:  # other lists than in that night
            family, config = family_of(run.settings, label)
            lists += workload.of_lists(family.family or "", config, self.sizes.whole, self.sizes.whole)
        return sum(after.values()) + tracking + self.speed.seconds(lists)


if __name__ == "__main__":
    source, name, target = sys.argv[1:4]
    Path(target).write_text(json.dumps(record(Path(source), name), indent=1) + "\n")
