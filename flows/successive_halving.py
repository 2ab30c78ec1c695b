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
from pipeline.experiments.stopping import Turn
from pipeline.stages import search
from pipeline.storage import journal, lake

PATIENCE = 3.0
"""A turn is left out where a trial takes more than this many times its seconds: later turns may be longer."""
SLICE = 0.125
"""Part of the time that is left for trials which a turn after the rounds takes."""
IMPROVED = 4
"""So many of the best searches have time for a fit of their best trial kept free."""


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
    blends_again: bool = False
    """Whether time is kept free to make the blends once more."""

    @property
    def labels(self) -> list[str]:
        """Labels with a search and a fit, the best on valid so far first."""
        models = self.run.settings.models
        return sorted((x for x in self.fitted if x in models and models[x].search), key=self.best, reverse=True)

    def best(self, label: str) -> float:
        """The best metric on valid of the fits and trials of a label, higher is better."""
        best = lake.info(self.found[label])["best"] if label in self.found else None
        return max(self.of_fit(label), best["figure"] if best else -math.inf)

    def improved(self) -> list[str]:
        """Labels whose search found something better than their fit, among the best ones."""
        found = [label for label in self.labels[:IMPROVED] if label in self.found]
        return [label for label in found if self.best(label) > self.of_fit(label)]

    def of_fit(self, label: str) -> float:
        """The metric on valid of the fit of a label."""
        value = lake.info(self.fitted[label]).get("valid")
        return -math.inf if value is None else value

    def spare(self, label: str) -> float:
        """Seconds that the night has for trials of a label."""
        return max(budget.spare(self.run, label, self.trial(label), self.kept(label)), 0)

    def kept(self, label: str) -> float:
        """Seconds that must be kept free for other models while this one is searched."""
        others = {other: self.trial(other) for other in self.improved() if other != label}
        return budget.after_searches(self.run, others, self.blends_again)

    def turn(self, label: str, seconds: float, until_stalled: bool = False) -> bool:
        """A turn of the search of a label; returns whether there was a new trial. `until_stalled`: see `Turn`."""
        before = self.trials(label)
        with self.isolate(self.run, f"search {label}"):
            call = StageCall(StageName.SEARCH, label)
            inputs = (self.run, self.parts, label, self.fitted[label], Turn(seconds, self.kept(label), until_stalled))
            self.found[label] = self.step(call, search.search_model, *inputs)
        return self.trials(label) > before

    def trials(self, label: str) -> int:
        """Number of trials so far."""
        return lake.read_manifest(self.found[label])["rows_out"] if label in self.found else 0

    def on(self) -> None:
        """Turns until no label has time for another trial, or a new one.

        The next turn is that of the label with the fewest trials per hyperparameter; trials of the best label count
        once, of the second one twice, and so on, and long trials more than short ones.
        """
        active = self.labels
        while active:
            places = {label: place for place, label in enumerate(self.labels, start=1)}
            label = min(active, key=lambda label: places[label] * self.cost(label))
            spare = self.spare(label)
            if spare <= self.trial(label) or not self.turn(label, SLICE * spare):
                active.remove(label)

    def cost(self, label: str) -> float:
        """Trials so far per hyperparameter, by the root of the seconds of one."""
        searched = self.run.settings.models[label].search or {}
        return (1 + self.trials(label)) / max(1, len(searched)) * math.sqrt(self.trial(label))

    def trial(self, label: str) -> float:
        """Seconds that a trial of a label may take."""
        usual = budget.trial(self.run, label, lake.info(self.fitted[label])["seconds"])
        longest = lake.info(self.found[label]).get("longest", 0.0) if label in self.found else 0.0
        return max(usual, longest, 1e-3)


def successive_halving(race: Race) -> Iterator[tuple[str, Path, bool]]:
    """Search in rounds. Yields label, the search's folder, and whether it improved on the first fit, best first.

    A label whose trials take far longer than its turn waits until the end of the rounds.

    Every round has an equal part of the time, which its families share equally. The better half, by the best metric
    on valid so far, continue in the next round (Jamieson and Talwalkar, AISTATS 2016); the last one searches alone.
    What a turn leaves (a trial takes too long, nothing new is left to try, or trials no longer gain anything) goes to
    the next rounds, and what the last one leaves to all of them, the best first.
    """
    racing = race.labels
    starters, rounds = len(racing), math.ceil(math.log2(len(racing))) + 1 if racing else 0
    for number in range(rounds):
        racing = race.labels[: math.ceil(starters / 2**number)]
        seconds = race.spare(racing[0])
        if number and not seconds:
            break
        log.info(f"round {number + 1} of {rounds}: {seconds / (rounds - number):.0f} s for {', '.join(racing)}")
        each = seconds / (rounds - number) / max(1, len(racing))
        for label in racing:
            if race.trial(label) <= PATIENCE * each:
                race.turn(label, each, until_stalled=True)
    race.on()
    for label in [label for label in race.labels if label in race.found]:
        journal.note(race.run, f"search {label}: {search.summary_of(race.found[label])}")
        yield label, race.found[label], lake.info(race.found[label])["better"]


def last_turns(race: Race) -> Iterator[tuple[str, Path]]:
    """Search with what the blends left. Yields label and folder of the searches that found something better."""
    before = {label: race.best(label) for label in race.labels}
    race.on()
    for label in [label for label in race.labels if race.best(label) > before[label]]:
        journal.note(race.run, f"search {label}: {search.summary_of(race.found[label])}")
        yield label, race.found[label]
