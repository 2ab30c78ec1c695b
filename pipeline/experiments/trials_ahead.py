"""Trials that are carried out ahead of their search: those that no metric of another trial decides.

The search then runs as ever, one trial after another, and asks for the same ones; it takes what is there already. So
the study is the same, no matter who carried out the trials.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core.filesystem import write_atomically
from pipeline.core.seeding import stable_hash
from pipeline.experiments.stopping import Limits
from pipeline.experiments.study import Failed, Objective, Report
from pipeline.experiments.trial import TrialObjective
from pipeline.training.context import ModelConfig
from pipeline.training.device import set_threads


def carry_out(run: Run, split_dir: Path, label: str, config: ModelConfig, params: dict[str, Any], into: Path) -> None:
    """Fit one trial without pruning, and keep what it reports in a file of `into`."""
    set_threads(run.settings.threads)
    reports: list[tuple[int, float]] = []
    objective, value, failed = TrialObjective(run, split_dir, label, config, Limits()), None, None
    started = time.monotonic()
    try:
        value = objective(params, lambda epoch, metric: reports.append((epoch, metric)))
    except Failed as error:
        failed = str(error)
    seconds = round(time.monotonic() - started, 3)
    into.mkdir(parents=True, exist_ok=True)
    ended = {"params": params, "reports": reports, "value": value, "failed": failed, "seconds": seconds}
    write_atomically(_file_of(into, params), json.dumps(ended))


@dataclass
class Ahead:
    """An objective that takes what was carried out ahead into `folder`, and asks `objective` for the other trials."""

    objective: Objective
    folder: Path
    seconds: float = field(default=0.0, init=False)
    """What the last trial took, if it was carried out ahead."""

    def taken(self) -> float:
        """Those seconds, once: a trial that repeats an earlier one does not call the objective."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def __call__(self, params: dict[str, Any], report: Report) -> float:
        """As `Objective`. A trial is pruned where it would have been."""
        self.seconds = 0.0
        try:
            ended = json.loads(_file_of(self.folder, params).read_text())
        except (OSError, ValueError):
            return self.objective(params, report)
        if ended["params"] != params:
            return self.objective(params, report)
        self.seconds = ended["seconds"]
        for epoch, metric in ended["reports"]:
            report(epoch, metric)
        if ended["failed"] is not None:
            raise Failed(ended["failed"])
        return ended["value"]


def _file_of(folder: Path, params: dict[str, Any]) -> Path:
    return folder / f"{stable_hash(json.dumps(params, sort_keys=True)):016x}.json"
