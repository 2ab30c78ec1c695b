"""Means over nights: quantiles from tables, intervals that cover, by simulation."""

import numpy as np
import pytest

from pipeline.core.serial_means import of_nights, of_users_and_nights, t_quantile, usual_lags


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_as_in_tables(degrees: int, quantile: float):
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=2e-3)


def correlated(rng: np.random.Generator, nights: int, rho: float) -> np.ndarray:
    """A stationary AR(1) series with variance 1, (T,)."""
    steps = rng.standard_normal(nights) * np.sqrt(1 - rho**2)
    steps[0] = rng.standard_normal()
    for t in range(1, nights):
        steps[t] += rho * steps[t - 1]
    return steps


def covered(rho: float, of_user: float, series: int = 300) -> tuple[float, float]:
    """Share of series whose true mean 0 is in the interval, and in one that takes all values as independent."""
    rng, hits, naive = np.random.default_rng(7), 0, 0
    for _ in range(series):
        users = rng.integers(0, 80, 600)
        nights = rng.integers(0, 40, 600)
        values = rng.standard_normal(600) + of_user * rng.standard_normal(80)[users]
        values += 0.4 * correlated(rng, 40, rho)[nights]
        found = of_users_and_nights(values, users, nights)
        assert found.ci_low is not None and found.ci_high is not None
        hits += found.ci_low <= 0 <= found.ci_high
        naive += abs(values.mean()) <= 1.96 * values.std(ddof=1) / np.sqrt(600)
    return hits / series, naive / series


def test_intervals_cover_with_returning_users_and_neighbouring_nights():
    """The nominal 95 % lose little to the short series; an interval that ignores both kinds of dependence loses much."""
    hits, naive = covered(rho=0.5, of_user=0.7)
    assert hits > 0.88 > 0.75 > naive
    assert covered(rho=0.0, of_user=0.0, series=200)[0] > 0.92


def test_means_over_nights_need_nights_that_do_not_overlap():
    rng = np.random.default_rng(3)
    assert of_nights(rng.standard_normal(40), overlap=28).ci_low is None
    assert of_nights(rng.standard_normal(4)).ci_low is None
    found = of_nights(np.array([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 2.0, 2.0]))
    assert found.value == 2 and found.ci_low is not None and 0 < found.ci_low < 2 and not found.below_zero
    assert of_nights(np.full(9, -1.0)).below_zero
    hits = 0
    for _ in range(300):
        sums = np.convolve(rng.standard_normal(46), np.ones(7), "valid")  # (40,): seven nights share each value
        of = of_nights(sums, overlap=7)
        hits += of.ci_low is not None and of.ci_high is not None and of.ci_low <= 0 <= of.ci_high
    assert hits / 300 > 0.88
    assert usual_lags(100) == 4 and usual_lags(30) == 3
