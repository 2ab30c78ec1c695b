"""Successive halving: how a night's budget is divided among the searches of its families.

After the rounds, and again after the blends, turns go on as long as the night has time for another trial.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from flows.step import Step
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.stage_call import StageCall, StageName
from pipeline.experiments import budget
from pipeline.stages import search
from pipeline.storage import journal, lake


@dataclass
class Race:
    """The searches of a night, by label of the model."""

    run: Run
    step: Step
    parts: Path
    fitted: Mapping[str, Path]
    """The first fits."""
    isolate: Callable[[Run, str], AbstractContextManager[None]]
    found: dict[str, Path] = field(default_factory=dict[str, Path])
    """Folders of the newest turns."""

    @property
    def labels(self) -> list[str]:
        """Labels with a search and a fit, the best on valid so far first."""
        models = self.run.settings.models
        return sorted((x for x in self.fitted if x in models and models[x].search), key=self.best, reverse=True)

    def best(self, label: str) -> float:
        """The best metric on valid of the fits and trials of a label, higher is better."""
        values = [lake.info(self.fitted[label]).get("valid")]
        best = lake.info(self.found[label])["best"] if label in self.found else None
        values += [best["figure"]] if best else []
        return max((value for value in values if value is not None), default=-math.inf)

    def spare(self, label: str) -> float:
        """Seconds that the night has for trials of a label."""
        return max(budget.spare(self.run, label, lake.info(self.fitted[label])["seconds"]), 0)

    def turn(self, label: str, seconds: float) -> bool:
        """A turn of the search of a label; returns whether there was a new trial."""
        before = self.trials(label)
        with self.isolate(self.run, f"search {label}"):
            call = StageCall(StageName.SEARCH, label)
            inputs = (self.run, self.parts, label, self.fitted[label], seconds)
            self.found[label] = self.step(call, search.search_model, *inputs)
        return self.trials(label) > before

    def trials(self, label: str) -> int:
        """Number of trials so far."""
        return lake.read_manifest(self.found[label])["rows_out"] if label in self.found else 0

    def on(self, labels: list[str]) -> None:
        """Turns for the first label until it has no new trial, then for the next one."""
        for label in labels:
            while self.has_time(label) and self.turn(label, self.spare(label)):
                pass

    def has_time(self, label: str) -> bool:
        """Whether another trial of a label would end in time."""
        usual = budget.trial(self.run, label, lake.info(self.fitted[label])["seconds"])
        longest = lake.info(self.found[label]).get("longest", 0.0) if label in self.found else 0.0
        return self.spare(label) > max(usual, longest)


def successive_halving(race: Race) -> Iterator[tuple[str, Path, bool]]:
    """Search in rounds. Yields label, the search's folder, and whether it improved on the first fit, best first.

    Every round has an equal part of the time, which its families share equally. The better half, by the best metric
    on valid so far, continue in the next round (Jamieson and Talwalkar, AISTATS 2016); the last one searches alone.
    What it leaves (a trial takes too long, or nothing new is left to try) goes to the others, the best first.
    """
    racing = race.labels
    starters, rounds = len(racing), math.ceil(math.log2(len(racing))) + 1 if racing else 0
    for number in range(rounds):
        racing = race.labels[: math.ceil(starters / 2**number)]
        seconds = race.spare(racing[0])
        if number and not seconds:
            break
        log.info(f"round {number + 1} of {rounds}: {seconds / (rounds - number):.0f} s for {', '.join(racing)}")
        for label in racing:
            race.turn(label, seconds / (rounds - number) / len(racing))
    race.on(race.labels)
    for label in [label for label in race.labels if label in race.found]:
        journal.note(race.run, f"search {label}: {search.summary_of(race.found[label])}")
        yield label, race.found[label], lake.info(race.found[label])["better"]


def last_turns(race: Race) -> Iterator[tuple[str, Path]]:
    """Search with what the blends left. Yields label and folder of the searches that found something better."""
    before = {label: race.best(label) for label in race.labels}
    race.on(race.labels)
    for label in [label for label in race.labels if race.best(label) > before[label]]:
        journal.note(race.run, f"search {label}: {search.summary_of(race.found[label])}")
        yield label, race.found[label]
