"""A night with a budget on a clock of its own: the flow and its planning are real, the stages only take time."""

import datetime as dt
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.candidate_models import fit_candidates
from pipeline.config import loader
from pipeline.config.run import Run
from pipeline.core.errors import Skipped
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget, device_speed, forecast, stopping, workload
from pipeline.experiments.device_speed import Speed
from pipeline.experiments.families import family_of
from pipeline.experiments.study import Trial
from pipeline.models import NotServable
from pipeline.schemas import tables
from pipeline.selection import leaderboard
from pipeline.stages import search
from pipeline.storage import journal, lake

START = dt.datetime(2026, 1, 1)
QUALITY = {"ease": 0.9, "ials": 0.88, "multvae": 0.87, "sasrec": 0.85, "rp3beta": 0.8, "item_knn": 0.78, "mf": 0.7}
SHORTEST_TRIAL = 1.0


@dataclass
class SimulatedNight:
    """`run()` takes the budget; afterwards `seconds` is when the tables would be published."""

    home: Path
    minutes: float
    shape: workload.Shape
    machine: Speed
    wrong: Callable[[str], float]
    """By how much the true time of a label's stages differs from the forecast of an idle machine."""
    blend_quality: float = 0.95
    now: float = 0.0
    log: list[tuple[str, float]] = field(default_factory=list)
    skipped: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By label: when it was skipped, and what it would have taken."""

    def run(self, patch: pytest.MonkeyPatch) -> float:
        """The share of the budget that was used."""
        settings, _ = loader.load_settings("sample", "best", [f"budget.minutes={self.minutes}"], environ={})
        night = Run(run_id="20260101T000000.000Z-aaaa", home_root=self.home, data=self.home, settings=settings,
                    started_at=START)  # fmt: skip
        journal.open_run(night)
        patch.setattr(budget, "utcnow", lambda: START + dt.timedelta(seconds=self.now))
        patch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: self.now))
        patch.setattr(search, "Limits", partial(stopping.Limits, clock=lambda: self.now))
        patch.setattr(device_speed, "measured", lambda kind: self.machine)
        self.night, self.draw = night, random.Random(1)
        self.now += 5.0 + 1e-5 * self.shape.rows  # the data stages
        parts = self.keep("4_split", "split", {**self.split_info()})
        candidates, _ = fit_candidates(night, self.step, parts)
        champion = leaderboard.best_first(night)[0]
        members = lake.info(candidates.fitted[champion]).get("members") or {champion: ""}
        rows = self.sizes().whole.rows / self.sizes().train.rows
        for label in members:  # with the epochs of the fit on train, which may have been cut short
            seconds = lake.info(candidates.fitted[label])["seconds"] * rows
            self.take(StageCall(StageName.TRAIN, label, fit="all"), seconds)
        made = forecast.Forecast(night, self.sizes())
        self.take(StageCall(StageName.EXPORT), made.publishing() * self.wrong("export"))
        return self.now / (60 * self.minutes)

    def sizes(self) -> forecast.Sizes:
        found = forecast.sizes_of(self.night)
        assert found
        return found

    def split_info(self) -> dict[str, Any]:
        rows, users = self.shape.rows, self.shape.users
        parts = {"train": rows * 8 // 10, "valid": rows // 10, "test": rows // 10}
        return {"n_users": users, "n_items": self.shape.items, "rows": parts,
                "users": {"train": users, "valid": users * 2 // 3, "test": users * 2 // 3}}  # fmt: skip

    def keep(self, layer: str, name: str, info: dict[str, Any], rows: int = 0, parents: tuple = ()) -> Path:
        folder = self.night.home.lake(self.night.dataset) / layer / f"{name}-{len(self.log):016d}"
        folder.mkdir(parents=True)
        lake.write_manifest(folder, {"stage": name, "info": info, "rows_out": rows, "parents": list(map(str, parents)),
                                     "settings": {"normalize": "none"}, "files": {}})  # fmt: skip
        journal.record_artifact(self.night, folder)
        return folder

    def take(self, call: StageCall, seconds: float) -> None:
        """Let the time of a stage pass, and journal it."""
        self.now += seconds
        self.log.append((call.title, seconds))
        row = {"stage": call.title, "seconds": seconds, "rows_in": None, "rows_out": None, "skipped": False}
        journal.append(self.night, tables.STAGES, [row])

    def fit_seconds(self, label: str) -> float:
        family, config = family_of(self.night.settings, label)
        return self.wrong(label) * self.machine.seconds(
            workload.of_fit(family.family or "", config, self.sizes().train)
        )

    def evaluation_seconds(self, run: Run, label: str) -> float:
        if leaderboard.is_blend(run.settings, label):
            return sum(self.evaluation_seconds(run, member) for member in self.members())
        call = StageCall(StageName.EVALUATE, label)
        return self.wrong(label) * (forecast.Forecast(run, self.sizes()).raw(call) or 0.0)

    def members(self) -> list[str]:
        best = [label for label in leaderboard.best_first(self.night) if label not in ("popularity", "blend")]
        return best[:4]

    def quality(self, label: str, tuned: bool = False) -> float:
        if label == "blend":
            return self.blend_quality
        return QUALITY.get(label, 0.1) + 0.05 * tuned

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
        return self.fit(call, run)

    def fit(self, call: StageCall, run: Run) -> Path:
        label = call.label or ""
        blend, info = leaderboard.is_blend(run.settings, label), {}
        family, config = family_of(run.settings, label)
        epochs, members = workload.epochs_of(config), self.members()
        if blend:
            seconds = 3 * sum(self.evaluation_seconds(run, member) for member in members)
            info = {"members": dict.fromkeys(members, "x")}
        elif label in self.night.settings.models:
            seconds = self.fit_seconds(label)
        else:
            seconds = 0.1
        seconds *= self.draw.uniform(0.9, 1.1)
        try:
            deadline = budget.deadline(run, call) or math.inf
        except NotServable as error:
            if not call.tuned:
                self.skipped[label] = (self.now, seconds)
            raise Skipped(str(error)) from error
        done, left = call, deadline - self.now
        if seconds > left and family.family in workload.IN_PIECES:
            self.now += min(0.05 * seconds, left)
            raise Skipped("the pieces so far say that it would not end in time")
        if seconds > left and (blend or epochs):
            if epochs and seconds / epochs > left:
                self.now += seconds / epochs
                if not call.tuned:
                    self.skipped[label] = (self.now, seconds / epochs)
                raise Skipped("the first epoch did not end")
            seconds = left if blend else math.floor(left * (epochs or 1) / seconds) * seconds / (epochs or 1)
            done = replace(call, cut_short=not blend)
        self.take(done, seconds)
        info |= {"label": label, "family": family.family, "fit": "train", "seconds": seconds, "best_epoch": epochs,
                 "valid": self.quality(label, call.tuned), "config": config.model_dump(), "history": []}  # fmt: skip
        return self.keep("5_models", done.title.replace(" ", "-"), info)

    def search(self, call: StageCall, run: Run, label: str, fit: Path, share: float) -> Path:
        study = self.__dict__.setdefault("studies", {}).setdefault(label, [])
        limits, started = search._limits(run, label, fit, share), self.now
        while limits(study) is None:
            seconds = max(SHORTEST_TRIAL, self.fit_seconds(label) * self.draw.uniform(0.6, 1.2))
            if seconds > (limits.deadline() or math.inf) - self.now and workload.epochs_of(
                family_of(run.settings, label)[1]
            ):
                seconds = (limits.deadline() or math.inf) - self.now
            self.now += seconds
            study.append(Trial(len(study), {}, "complete", 1.0, 1, seconds))
        turn = budget.Timings(run).turns(label) + 1
        passed, self.now = self.now - started, started
        self.take(replace(call, turn=turn), passed)
        figure = self.quality(label, True) if study else 0.0
        best = {"number": 0, "params": {}, "value": figure, "figure": figure}
        info = {
            "label": label,
            "best": best,
            "better": bool(study),
            "metric": "ndcg_at_10",
            "ended": "x",
            "longest": max((trial.seconds for trial in study), default=0.0),
        }
        return self.keep("5_searches", f"{label}-{turn}", info, rows=len(study))
