"""Means over nights, with intervals that allow for returning users and for nights that resemble their neighbours."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

FEWEST_NIGHTS = 5
"""With fewer nights there is no interval."""


@dataclass(frozen=True)
class Mean:
    """A mean with its interval; None: too few nights."""

    value: float
    ci_low: float | None
    ci_high: float | None

    @property
    def below_zero(self) -> bool:
        """Whether the interval is below 0."""
        return self.ci_high is not None and self.ci_high < 0


def of_users_and_nights(values: np.ndarray, users: np.ndarray, nights: np.ndarray, confidence: float = 0.95) -> Mean:
    """Mean of values (P,) of pairs of user and night, with indices (P,) of both from 0; nights are in order of time.

    The variance is clustered in two ways: V = V(users) + V(nights) - V(pairs) (Cameron, Gelbach and Miller 2011,
    "Robust inference with multiway clustering"), with the nights' sums weighted by Newey and West (1987), so that
    neighbouring nights may resemble each other. It is never below the larger of the first two. The interval is
    Student's, with the smaller number of clusters less one as degrees of freedom.
    """
    n, mean = len(values), float(values.mean())
    off = values - mean  # (P,)
    by_user, by_night = np.bincount(users, off), np.bincount(nights, off)  # (U,), (T,)
    clusters = min(len(np.unique(users)), len(np.unique(nights)))
    if clusters < FEWEST_NIGHTS:
        return Mean(mean, None, None)
    of_users, of_nights = float((by_user**2).sum()), _newey_west(by_night, usual_lags(len(by_night)))
    variance = max(of_users + of_nights - float((off**2).sum()), of_users, of_nights) / n**2
    return _interval(mean, variance, clusters - 1, confidence)


def of_nights(values: np.ndarray, overlap: int = 1, confidence: float = 0.95) -> Mean:
    """Mean of one value per night, (T,), with an interval by Newey and West (1987).

    `overlap`: number of nights that share interactions. There is no interval for fewer than three times as many.
    """
    mean, lags = float(values.mean()), max(usual_lags(len(values)), overlap - 1)
    if len(values) < max(FEWEST_NIGHTS, 3 * overlap):
        return Mean(mean, None, None)
    variance = _newey_west(values - mean, lags) / len(values) ** 2
    return _interval(mean, variance, max(1, len(values) // (lags + 1) - 1), confidence)


def welch(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Mean | None:
    """Difference of the means of independent samples (A,) and (B,), with Welch's interval; None: too few values."""
    if min(len(a), len(b)) < 2:
        return None
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    value, variance = float(a.mean() - b.mean()), float(parts.sum())
    if not variance:
        return Mean(value, value, value)
    degrees = variance**2 / float((parts**2 / (np.array([len(a), len(b)]) - 1)).sum())
    return _interval(value, variance, max(1, int(degrees)), confidence)


def usual_lags(nights: int) -> int:
    """Lags of Newey and West's estimator: the integer part of 4 (T / 100)^(2/9) (their 1994 rule of thumb)."""
    return int(4 * (nights / 100) ** (2 / 9))


def _newey_west(sums: np.ndarray, lags: int) -> float:
    """Variance of the total of sums (T,), with Bartlett's weights."""
    total = float(sums @ sums)
    for lag in range(1, min(lags, len(sums) - 1) + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(sums[lag:] @ sums[:-lag])
    return max(total, 0.0)


def _interval(mean: float, variance: float, degrees: int, confidence: float) -> Mean:
    half = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance)
    return Mean(mean, mean - half, mean + half)


def t_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t (Hill 1970, Algorithm 396, CACM 13); exact for 1 and 2 degrees, else within 0.1 %."""
    tail = 2 * (1 - p)  # two-sided
    if degrees == 1:
        return 1 / math.tan(tail * math.pi / 2)
    if degrees == 2:
        return math.sqrt(2 / (tail * (2 - tail)) - 2)
    a = 1 / (degrees - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * degrees
    y = (d * tail) ** (2 / degrees)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tail / 2)
        y = x * x
        if degrees < 5:
            c += 0.3 * (degrees - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((degrees + 6) / (degrees * y) - 0.089 * d - 0.822) * (degrees + 2) * 3) + 0.5 / (degrees + 4)) * y
             - 1) * (degrees + 1) / (degrees + 2) + 1 / y  # fmt: skip
    return math.sqrt(degrees * y)
