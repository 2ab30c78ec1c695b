"""A night with a budget on a clock of its own: the flow and its planning are real, the stages only take time.

What the stages take is that of a machine (`Machine`), or was recorded in a real night (recorded_night.py).
"""

import datetime as dt
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest

from flows.candidate_models import fit_candidates
from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.core.errors import OutOfTime, Skipped
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget, device_speed, stopping, workload
from pipeline.experiments.device_speed import Speed
from pipeline.experiments.families import sized_for
from pipeline.experiments.forecast import Sizes
from pipeline.experiments.stopping import Turn
from pipeline.experiments.study import Trial
from pipeline.experiments.timings import Timings
from pipeline.experiments.workload import Shape, Work
from pipeline.models import NotServable, Recommender
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.stages import search
from pipeline.storage import journal, lake

START = dt.datetime(2026, 1, 1)
QUALITY = {"ease": 0.9, "ials": 0.88, "multvae": 0.87, "sasrec": 0.85, "rp3beta": 0.8, "item_knn": 0.78, "mf": 0.7}
SHORTEST_TRIAL = 1.0


class Costs(Protocol):
    """What the stages of a night take, in seconds."""

    sizes: Sizes
    speed: Speed
    """What the probe of the device finds."""
    before_fits: float
    """From the start of the night to the split."""
    between: float
    """Between two stages."""

    def is_refused(self, family: type[Recommender]) -> bool:
        """Whether the data can't be used by this family."""
        ...

    def prepare(self, run: Run) -> None:
        """Called once, when the settings are known."""

    def fit(self, run: Run, label: str) -> float:
        """A fit on train, with all epochs."""
        ...

    def evaluation(self, run: Run, label: str) -> float:
        """An evaluation on valid and test; of a model that is no blend."""
        ...

    def trial(self, run: Run, label: str, number: int) -> float:
        """A trial of a search."""
        ...

    def refit(self, run: Run, label: str, fit: float) -> float:
        """The fit on all rows, after one on train that took `fit` seconds."""
        ...

    def publishing(self, run: Run, champion: Sequence[str], runs: int) -> float:
        """From the refit to the published tables, MLflow with this number of runs included."""
        ...


@dataclass
class Machine:
    """A machine of this speed, whose true times differ from the forecast by `wrong` for each label."""

    shape: Shape
    speed: Speed
    wrong: Callable[[str], float]
    between: float = 0.05

    def __post_init__(self) -> None:
        rows, valid = self.shape.rows, self.shape.users * 2 // 3
        self.sizes = Sizes(self.shape, replace(self.shape, rows=rows * 8 // 10), valid, valid)
        self.before_fits = 5.0 + 1e-5 * rows
        self.draw = random.Random(1)

    def is_refused(self, family: type[Recommender]) -> bool:
        return False

    def prepare(self, run: Run) -> None:
        pass

    def fit(self, run: Run, label: str) -> float:
        family, config = sized_for(run.settings, label, self.sizes.train.rows)
        work = workload.of_fit(family.family or "", config, self.sizes.train)
        return self.wrong(label) * self.speed.seconds(work) * self.draw.uniform(0.9, 1.1)

    def evaluation(self, run: Run, label: str) -> float:
        family, config = sized_for(run.settings, label, self.sizes.train.rows)
        train, work = self.sizes.train, Work()
        for users in (self.sizes.valid, self.sizes.test):
            part = workload.part(train, round(users * train.length), users)
            work += workload.of_evaluation(family.family or "", config, part, train)
        return self.wrong(label) * self.speed.seconds(work)

    def trial(self, run: Run, label: str, number: int) -> float:
        return max(SHORTEST_TRIAL, self.fit(run, label) * self.draw.uniform(0.6, 1.2))

    def refit(self, run: Run, label: str, fit: float) -> float:
        return fit * self.sizes.whole.rows / self.sizes.train.rows

    def publishing(self, run: Run, champion: Sequence[str], runs: int) -> float:
        whole, work = self.sizes.whole, Work()
        for label in champion:
            family, config = sized_for(run.settings, label, self.sizes.train.rows)
            work += workload.of_lists(family.family or "", config, whole, whole)
            work += workload.of_similar(family.family or "", config, whole) if len(champion) == 1 else Work()
        work += workload.of_tables(whole, run.settings.export.top_n) + workload.of_tracking(runs)
        return self.wrong("export") * self.speed.seconds(work)


@dataclass
class SimulatedNight:
    """`run()` takes the budget; afterwards `now` is when the tables would be published."""

    home: Path
    minutes: float
    costs: Costs
    blend_quality: float = 0.95
    overrides: tuple[str, ...] = ()
    """Further settings, KEY=VALUE."""
    now: float = 0.0
    log: list[tuple[str, float]] = field(default_factory=list)
    skipped: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By label: when it was skipped, and what it would have taken; without those that were fitted later."""
    studies: dict[str, list[Trial]] = field(default_factory=dict)

    def run(self, patch: pytest.MonkeyPatch) -> float:
        """The share of the budget that was used."""
        settings, _ = loader.load_settings(
            "sample", "best", [f"budget.minutes={self.minutes}", *self.overrides], environ={}
        )
        night = Run(run_id="20260101T000000.000Z-aaaa", home_root=self.home, data=self.home, settings=settings,
                    started_at=START)  # fmt: skip
        journal.open_run(night)
        patch.setattr(budget, "utcnow", lambda: START + dt.timedelta(seconds=self.now))
        patch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: self.now))
        patch.setattr(search, "Limits", partial(stopping.Limits, clock=lambda: self.now))
        patch.setattr(device_speed, "measured", lambda kind: self.costs.speed)
        patch.setattr(device_speed, "host_steps", lambda: self.costs.speed.steps)
        self.night = night
        self.costs.prepare(night)
        self.now += self.costs.before_fits
        parts = self.keep("4_split", "split", {**self.split_info()})
        candidates, _ = fit_candidates(night, self.step, parts)
        champion = leaderboard.best_first(night)[0]
        members = lake.info(candidates.fitted[champion]).get("members") or {champion: ""}
        second = leaderboard.runner_up(night, champion, candidates.measured) if settings.export.holdback else None
        refitted: list[str] = [*members]
        refitted += [second] if second and second not in members else []
        for label in refitted:
            fit = lake.info(candidates.fitted[label])["seconds"]  # with its epochs, which may have been cut short
            self.take(StageCall(StageName.TRAIN, label, fit="all"), self.costs.refit(night, label, fit))
        runs = Timings(night).runs(night.run_id)
        self.now += 6 * self.costs.between
        self.take(StageCall(StageName.EXPORT), self.costs.publishing(night, list(members), runs))
        return self.now / (60 * self.minutes)

    def split_info(self) -> dict[str, Any]:
        sizes = self.costs.sizes
        held = max(0, sizes.whole.rows - sizes.train.rows)
        rows = {"train": sizes.train.rows, "valid": held // 2, "test": held - held // 2}
        users = {"train": sizes.train.users, "valid": sizes.valid, "test": sizes.test}
        return {"n_users": sizes.whole.users, "n_items": sizes.whole.items, "rows": rows, "users": users}

    def keep(self, layer: str, name: str, info: dict[str, Any], rows: int = 0, parents: tuple = ()) -> Path:
        folder = self.night.home.lake(self.night.dataset) / layer / f"{name}-{len(self.log):016d}"
        folder.mkdir(parents=True)
        lake.write_manifest(folder, {"stage": info.pop("stage", name), "info": info, "rows_out": rows,
                                     "parents": list(map(str, parents)),
                                     "settings": {"normalize": "none"}, "files": {}})  # fmt: skip
        journal.record_artifact(self.night, folder)
        return folder

    def take(self, call: StageCall, seconds: float, rows: int | None = None) -> None:
        """Let the time of a stage pass, and journal it."""
        self.now += seconds + self.costs.between
        self.log.append((call.title, seconds))
        row = {"stage": call.title, "seconds": seconds, "rows_in": None, "rows_out": rows, "skipped": False}
        journal.append(self.night, tables.STAGES, [row])

    def evaluation_seconds(self, run: Run, label: str) -> float:
        if leaderboard.is_blend(run.settings, label):
            return sum(self.costs.evaluation(run, member) for member in self.members())
        return self.costs.evaluation(run, label)

    def members(self) -> list[str]:
        best = [label for label in leaderboard.best_first(self.night) if label not in ("popularity", "blend")]
        return best[:4]

    def quality(self, label: str, tuned: bool = False) -> float:
        if label == "blend":
            return self.blend_quality
        known = getattr(self.costs, "metrics", QUALITY)
        return known.get(label, 0.1 * min(known.values())) * (1 + 0.05 * tuned)

    def step(self, call: StageCall, stage: Any, run: Run, *inputs: Any) -> Path:
        """Stands for a stage of the models."""
        if call.stage is StageName.SEARCH:
            return self.search(call, run, *inputs[1:])
        if call.stage is StageName.EVALUATE:
            label, fit = inputs[1], inputs[2]
            self.take(call, self.evaluation_seconds(run, label))
            journal.append(run, tables.METRICS, [
                {"model": label, "split": "valid", "protocol": "full", "metric": "ndcg", "cutoff": 10,
                 "segment": "all", "value": lake.info(fit)["valid"], "ci_low": 0.0, "ci_high": 1.0, "n": 9}
            ])  # fmt: skip
            return self.keep("6_metrics", label, {"label": label}, parents=(fit,))
        return self.fit(call, run, inputs[-1])

    def fit(self, call: StageCall, run: Run, fits: Any) -> Path:
        label = call.label or ""
        blend, info = leaderboard.is_blend(run.settings, label), {}
        family, config = sized_for(run.settings, label, self.costs.sizes.train.rows)
        if self.costs.is_refused(family):
            self.now += 0.1
            raise Skipped("the data has no times")
        epochs, members = workload.epochs_of(config), self.members()
        if blend:
            seconds = 3 * sum(self.costs.evaluation(run, member) for member in members)
            info = {"members": {member: Path(fits[member]).name for member in members}}
        elif label in self.night.settings.models:
            seconds = self.costs.fit(run, label)
        else:
            seconds = 0.1
        try:
            deadline = budget.deadline(run, call) or math.inf
        except NotServable as error:
            if not call.tuned and not blend:
                self.skipped[label] = (self.now, seconds)
            raise OutOfTime(str(error)) from error
        done, left = call, deadline - self.now
        if seconds > left and family.family in workload.IN_PIECES:
            self.now += min(0.05 * seconds, left)
            raise OutOfTime("the pieces so far say that it would not end in time")
        if seconds > left and (blend or epochs):
            if epochs and seconds / epochs > left:
                self.now = deadline
                if not call.tuned:
                    self.skipped[label] = (self.now, seconds / epochs)
                raise OutOfTime("the first epoch did not end")
            seconds = left if blend else math.floor(left * (epochs or 1) / seconds) * seconds / (epochs or 1)
            done = replace(call, cut_short=not blend)
        self.take(done, seconds)
        self.skipped.pop(label, None)
        info |= {"label": label, "family": family.family, "fit": "train", "seconds": seconds, "best_epoch": epochs,
                 "valid": self.quality(label, call.tuned), "config": config.model_dump(), "history": [],
                 "stage": done.title}  # fmt: skip
        return self.keep("5_models", done.title.replace(" ", "-"), info)

    def search(self, call: StageCall, run: Run, label: str, fit: Path, turn: Turn) -> Path:
        study = self.studies.setdefault(label, [])
        limits, started = search._limits(run, label, fit, turn), self.now
        while limits(study) is None:
            seconds, left = self.costs.trial(run, label, len(study)), (limits.deadline() or math.inf) - self.now
            cut = seconds > left and workload.epochs_of(sized_for(run.settings, label, self.costs.sizes.train.rows)[1])
            seconds = left if cut else seconds
            self.now += seconds
            study.append(Trial(len(study), {}, "failed" if cut else "complete", 1.0, 1, seconds))
        number = Timings(run).turns(label) + 1
        passed, self.now = self.now - started, started
        self.take(replace(call, turn=number), passed, rows=len(study))
        done = [trial for trial in study if trial.state == "complete"]
        figure = self.quality(label, True) if done else 0.0
        best = {"number": 0, "params": {}, "value": figure, "figure": figure} if done else None
        info = {
            "label": label,
            "best": best,
            "better": bool(done),
            "metric": "ndcg_at_10",
            "ended": "x",
            "longest": max((trial.seconds for trial in study), default=0.0),
        }
        return self.keep("5_searches", f"{label}-{number}", info, rows=len(study))
