"""When a search ends: by a number of trials, by minutes, or when the night's budget has no time for another trial."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.experiments.study import Trial, best_of

STALLED_AFTER = 10
"""Trials without a gain after which a search stalls, or 5 for each hyperparameter."""
GAIN = 0.001
"""Smallest relative gain of the best metric that counts."""


@dataclass(frozen=True)
class Turn:
    """A part of a search within a budget."""

    seconds: float
    """After so many no trial starts."""
    kept: float = 0.0
    """Seconds that the night needs for other models after the searches."""
    until_stalled: bool = False
    """Whether it ends once the search has stalled, for the sake of other searches."""


@dataclass
class Limits:
    """Called before every trial. A trial starts only if one as long as the longest so far would end in time."""

    trials: int | None = None
    """Trials of the study, including those of earlier nights."""
    seconds: float | None = None
    """Total duration of all trials of the study."""
    turn: float | None = None
    """Seconds after which no trial starts, counted from the creation of this object; a started one may end later."""
    spare: Callable[[], float] | None = None
    """Returns the seconds that the night still has for trials."""
    afterwards: float = 0.0
    """Seconds that each new trial adds to the night after the search."""
    patience: int | None = None
    """So many trials without a gain end the search."""
    usual: float = 0.0
    """Seconds of a fit with the configured hyperparameters; used until there are trials."""
    clock: Callable[[], float] = time.monotonic
    _left: float | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)
    _known: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def __call__(self, done: list[Trial]) -> str | None:
        """Why there must not be another trial; None if there may be one, until `deadline`."""
        spent = sum(trial.seconds for trial in done)
        longest = max((trial.seconds for trial in done), default=0.0) or self.usual
        if self.trials is not None and len(done) >= self.trials:
            return f"{self.trials} trials"
        self._left, self._known = None, len(done) if self._known is None else self._known
        if self.seconds is not None:
            self._left = self.seconds - spent
            if self._left <= 0 or (done and longest > self._left):
                return f"{self.seconds / 60:g} minutes"
        if self.spare is not None:
            spare = self.spare() - self.afterwards * (len(done) - self._known + 1)
            if spare <= longest:
                return f"the budget: a trial takes {longest:.0f} s, and {max(spare, 0):.0f} s are left for trials"
            self._left = spare if self._left is None else min(self._left, spare)
        if self.patience is not None and has_stalled(done, self.patience):
            return f"{self.patience} trials in a row that gained less than {GAIN:.1%}"
        if self.turn is not None and self.clock() - self._started >= self.turn:
            return f"its turn of {self.turn:.0f} s"
        return None

    def deadline(self) -> float | None:
        """When the trial that was just allowed must end, on the clock; None without a limit."""
        return None if self._left is None else self.clock() + self._left


def has_stalled(trials: list[Trial], patience: int) -> bool:
    """Whether the last `patience` trials gained less than `GAIN` on the best one before them."""
    before, now = best_of(trials[:-patience]), best_of(trials)
    if before is None or now is None or before.value is None or now.value is None:
        return False
    return now.value - before.value < GAIN * abs(before.value)
