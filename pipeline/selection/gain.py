"""The test of a challenger's gain: an interval that is corrected for several challengers and for repeated nights."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.config.publishing import Gate
from pipeline.core.serial_means import t_quantile

FEWEST_USERS = 8
"""Fewer show no gain: that 8 changes of equal models are all above 0 has a probability of 2**-8, about that of one
test's false gain."""


@dataclass(frozen=True)
class Gain:
    """How much better a challenger is than the incumbent, in the unit of the values; positive is better."""

    value: float
    ci_low: float
    ci_high: float
    """Interval at `level`."""
    level: float
    """Two-sided confidence of the interval of this one test."""
    challengers: int
    """Number of challengers of which the best was picked."""
    nights: int
    """Number of nights that the level is corrected for."""
    needed: float
    """The interval must lie above it."""
    allowed_loss: float
    """The interval of a challenger of equal quality must lie above its negative."""

    @property
    def significant(self) -> bool:
        """Whether the interval lies above `needed`."""
        return self.ci_low > self.needed

    @property
    def equal(self) -> bool:
        """Whether the challenger loses no more than `allowed_loss`."""
        return self.ci_low > -self.allowed_loss


def error_rate(gate: Gate, challengers: int) -> float:
    """Probability alpha with which one test of an equal challenger may find a gain (one-sided).

    With k challengers on each of n nights, the expected number of false gains is at most n k alpha, and the probability
    of two or more at most half of that (Markov's inequality), however the tests depend on one another. They do: nights
    evaluate mostly the same users. So with alpha = 2 (1 - confidence) / (n k), equal models change places more than
    once in n nights with a probability of at most 1 - confidence. This is Bonferroni's correction over challengers and
    nights, that is, alpha spending at a constant rate (Lan and DeMets 1983, "Discrete sequential boundaries for
    clinical trials"). It is never above that of an ordinary two-sided interval for k challengers.
    """
    alone = (1 - gate.confidence) / 2
    return min(alone, 2 * (1 - gate.confidence) / gate.nights) / max(1, challengers)


def interval(changes: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, and the ends of its two-sided interval at 1 - 2 alpha, of paired changes over users, (…, U) -> (…) each.

    Student's t interval: at levels this strict a percentile bootstrap would need 10**5 resamples. Infinite for fewer
    than FEWEST_USERS: a few equal changes have no deviation, and would seem certain.
    """
    n = changes.shape[-1]
    mean = changes.mean(-1)
    if n < FEWEST_USERS:
        return mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf)
    half = t_quantile(1 - alpha, n - 1) * changes.std(-1, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half
