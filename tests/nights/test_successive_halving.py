"""How turns are divided among the searches of a night with a budget."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import successive_halving
from flows.successive_halving import PATIENCE, Race


class FakeRace(Race):
    """Searches of labels, best first, whose trials take `seconds`, and a night with `left` seconds."""

    def __init__(self, seconds: Mapping[str, float], left: float, dimensions: int = 1):
        entry = SimpleNamespace(search={str(number): [1, 2] for number in range(dimensions)})
        run: Any = SimpleNamespace(settings=SimpleNamespace(models=dict.fromkeys(seconds, entry)))
        super().__init__(run, lambda *_: None, Path(), {}, lambda *_: None)  # type: ignore[arg-type]
        self.seconds, self.left, self.done, self.order = seconds, left, dict.fromkeys(seconds, 0), []
        self.stalling: list[bool] = []

    @property
    def labels(self) -> list[str]:
        return list(self.seconds)

    def spare(self, label: str) -> float:
        return max(0.0, self.left)

    def trial(self, label: str) -> float:
        return self.seconds[label]

    def trials(self, label: str) -> int:
        return self.done[label]

    def turn(self, label: str, seconds: float, until_stalled: bool = False) -> bool:
        trials = max(1, int(seconds / self.seconds[label]))
        self.left -= trials * self.seconds[label]
        self.done[label] += trials
        self.order.append(label)
        self.stalling.append(until_stalled)
        return True


def test_turns_go_on_until_no_trial_ends_in_time_and_every_search_has_some():
    race = FakeRace({"ease": 0.1, "ials": 1.0, "mf": 5.0, "slow": 1000.0}, left=100.0)
    race.on()
    assert 0 <= race.left < 0.2  # the shortest trial
    assert race.done["slow"] == 0 and min(race.done[label] for label in ("ease", "ials", "mf")) >= 1
    assert race.done["ease"] > race.done["ials"] > race.done["mf"]


def test_the_better_of_two_equal_searches_has_more_trials():
    race = FakeRace({"best": 1.0, "second": 1.0}, left=60.0)
    race.on()
    assert race.done["best"] > race.done["second"] > 0


def test_a_search_without_new_trials_leaves_its_time_to_the_others():
    class Ended(FakeRace):
        def turn(self, label: str, seconds: float, until_stalled: bool = False) -> bool:
            return label != "ended" and super().turn(label, seconds, until_stalled)

    race = Ended({"ended": 1.0, "other": 1.0}, left=30.0)
    race.on()
    assert race.done == {"ended": 0, "other": 29} or race.left <= 1.0


@pytest.mark.parametrize(("seconds", "begins"), [(PATIENCE - 0.1, True), (PATIENCE + 0.1, False)])
def test_a_trial_that_is_long_for_a_turn_waits_until_the_rounds_are_over(monkeypatch, seconds, begins):
    race = FakeRace({"a": 0.01, "b": 0.01, "long": 1.0, "c": 0.01}, left=0.0)
    race.left = 3 * 4 / seconds  # of which the first round has a third, and each label a quarter of that
    monkeypatch.setattr(race, "on", lambda: None)
    assert not list(successive_halving.successive_halving(race))
    assert ("long" in race.order) == begins


def test_only_turns_of_rounds_end_when_a_search_has_stalled():
    race = FakeRace({"a": 1.0, "b": 1.0}, left=40.0)
    rounds = list(successive_halving.successive_halving(race))
    assert not rounds and race.order[:3] == ["a", "b", "a"]
    assert race.stalling[:3] == [True] * 3 and race.left < 1.0
    race.left = 10.0
    race.on()
    assert not race.stalling[-1]
