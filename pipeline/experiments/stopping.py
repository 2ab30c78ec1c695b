"""When a search ends: after so many trials, so many minutes, or where the night's budget has no time for another."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.experiments.study import Trial


@dataclass
class Limits:
    """Asked before every trial; a trial is begun only if one as long as the longest so far would end in time."""

    trials: int | None = None
    """Of the study, those of earlier nights too."""
    seconds: float | None = None
    """Of all trials of the study together."""
    turn: float | None = None
    """Seconds from now on after which no trial is begun; one that was begun may end later."""
    spare: Callable[[], float] | None = None
    """Seconds that the night has for trials; less with every second that passes."""
    usual: float = 0.0
    """Seconds of a fit with the configured hyperparameters, until there are trials."""
    clock: Callable[[], float] = time.monotonic
    _left: float | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    def __call__(self, done: list[Trial]) -> str | None:
        """Why there must not be another trial; None: there may be one, until `deadline`."""
        spent = sum(trial.seconds for trial in done)
        longest = max((trial.seconds for trial in done), default=0.0) or self.usual
        if self.trials is not None and len(done) >= self.trials:
            return f"{self.trials} trials"
        self._left = None
        if self.seconds is not None:
            self._left = self.seconds - spent
            if self._left <= 0 or (done and longest > self._left):
                return f"{self.seconds / 60:g} minutes"
        if self.spare is not None:
            spare = self.spare()
            if spare <= longest:
                return f"the budget: a trial takes {longest:.0f} s, and {max(spare, 0):.0f} s are left for trials"
            self._left = spare if self._left is None else min(self._left, spare)
        if self.turn is not None and self.clock() - self._started >= self.turn:
            return f"its turn of {self.turn:.0f} s"
        return None

    def deadline(self) -> float | None:
        """Of the trial that was just allowed, on the clock; None: it may take its time."""
        return None if self._left is None else self.clock() + self._left
