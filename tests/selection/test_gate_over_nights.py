"""The gate over many nights, by simulation: equal models do not take turns, and a real gain is taken soon.

Users of a night are mostly those of the night before, and their values are correlated. The test of all series at once
uses the gate's own interval and level; where it decides, and on a sample of the other nights, the gate itself is asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from pipeline.config.publishing import Gate
from pipeline.config.settings import Select
from pipeline.selection import gate
from pipeline.selection.comparison import ValidationResults
from pipeline.selection.gain import error_rate, interval
from pipeline.selection.incumbent import Contest
from pipeline.selection.list_changes import ListChanges

SERIES, NIGHTS = 200, 30


@dataclass(frozen=True)
class World:
    """Per-user nDCG of models, many of them 0, in SERIES independent series of nights."""

    users: int
    models: int
    correlation: float
    """Of a user's value under one model with that of the night before, besides what all models share."""
    gain: float = 0.0
    """Of model 1 over the others, as a share of its metric."""
    new_users: float = 0.05
    """Share of the users that are others than the night before."""

    def nights(self, count: int) -> Iterator[np.ndarray]:
        """Values of every night, (S, U, M)."""
        draw = np.random.default_rng([self.users, self.models, int(100 * self.correlation)])
        shape = SERIES, self.users, self.models
        common, own = self._common(draw), draw.normal(0, 0.06, shape)  # (S, U, 1), (S, U, M)
        for _ in range(count):
            values = np.clip(common + own, 0, 1)
            values[:, :, 1] *= 1 + self.gain
            yield values
            new = draw.random((SERIES, self.users, 1)) < self.new_users
            common = np.where(new, self._common(draw), common)
            kept = np.where(new, 0, self.correlation)
            own = kept * own + np.sqrt(1 - kept**2) * draw.normal(0, 0.06, shape)

    def _common(self, draw: np.random.Generator) -> np.ndarray:
        return draw.normal(-0.1, 0.4, (SERIES, self.users, 1))


def changes_of(world: World, nights: int) -> np.ndarray:
    """Whether the champion changed, (S, nights); the first champion is model 0."""
    champion, series = np.zeros(SERIES, int), np.arange(SERIES)
    alpha, changed = error_rate(Gate(), world.models - 1), np.zeros((SERIES, nights), bool)
    for night, values in enumerate(world.nights(nights)):
        means = values.mean(1)  # (S, M)
        means[series, champion] = -1
        best = means.argmax(1)  # (S,)
        _, low, _ = interval(values[series, :, best] - values[series, :, champion], alpha)
        changed[:, night] = low > 0
        for at in {night, *np.flatnonzero(changed[:, night])[:2]} if night % 5 == 0 else ():
            assert judge(values[at], int(champion[at])) == (best[at] if changed[at, night] else champion[at])
        champion = np.where(changed[:, night], best, champion)
    return changed


def judge(values: np.ndarray, champion: int, settings: Gate | None = None, changes: ListChanges | None = None) -> int:
    """The model that the gate publishes, of values (U, M)."""
    users = np.arange(len(values), dtype=np.int32)
    by_user = {
        f"m{model}": pl.DataFrame({"user_idx": users, "value": column}).with_columns(
            n=pl.lit(1, pl.Int64), warm=pl.lit(True)
        )
        for model, column in enumerate(values.T)
    }
    means = {label: float(column) for label, column in zip(by_user, values.mean(0), strict=True)}
    activity = pl.DataFrame({"user_idx": users, "n_interactions": users + 1})
    results = ValidationResults(means, by_user, activity, changes=changes or {})
    settings = (settings or Gate()).model_copy(update={"min_segment_users": 10_000})
    verdict = gate.judge(settings, Select(), results, Contest(incumbent=f"m{champion}"), seed=1)
    return int(verdict.published.removeprefix("m"))


@pytest.mark.parametrize("challengers", [1, 4])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_equal_models_change_places_at_most_once_in_thirty_nights(challengers: int, correlation: float):
    changes = changes_of(World(300, challengers + 1, correlation), NIGHTS).sum(1)
    assert (changes <= 1).mean() >= 0.95
    assert (changes == 0).mean() >= 0.85, "most see no change at all: 0.1 are expected in 30 nights"


@pytest.mark.parametrize(("users", "correlation"), [(4_700, 0.0), (6_000, 0.5)])
def test_a_gain_of_two_percent_is_taken_within_three_nights(users: int, correlation: float):
    """4,700 users find it in one night with a power of .6; where nights resemble one another, 6,000 users are needed."""
    changed = changes_of(World(users, 2, correlation, gain=0.02), 3)
    assert 0.6 <= changed[:, 0].mean() <= 0.8
    assert changed.any(1).mean() >= 0.9


@pytest.mark.parametrize("quality", [(0.0, 0.0), (0.0, -0.02), (-0.02, 0.0)])
def test_a_preference_for_steady_lists_settles(quality: tuple[float, float]):
    """Model 0 makes other lists every night, model 1 the same ones. Where they are equal within the margin, model 1 is
    published once and stays, although model 0 gains significantly over it in the second world."""
    draw, series, nights, users = np.random.default_rng(7), 3, 8, 3_000
    gate_of = Gate(prefer="steadier", margin=0.06)
    for _ in range(series):
        champion, changes = 0, 0
        taste = draw.beta(1, 3, (users, 1))
        for _ in range(nights):
            values = taste * (1 + np.array(quality)) + draw.normal(0, 0.02, (users, 2))
            lists = {0: {"m0": 0.6, "m1": 0.25}, 1: {"m0": 0.6, "m1": 0.05}}[champion]  # 0 never repeats its lists
            of_users = {label: np.clip(draw.normal(mean, 0.1, 500), 0, 1) for label, mean in lists.items()}
            published = judge(values, champion, gate_of, of_users)
            changes += published != champion
            champion = published
        assert (champion, changes) == (1, 1)


@pytest.mark.long
def test_equal_models_with_equally_unsteady_lists_do_not_take_turns():
    """At most one change in 30 nights: what is published differs from all lists of tonight by about as much."""
    draw, users, changed = np.random.default_rng(11), 300, []
    for _ in range(6):
        champion, changes = 0, 0
        for _ in range(NIGHTS):
            values = draw.beta(1, 3, (users, 1)) + draw.normal(0, 0.06, (users, 2))
            of_users = {f"m{model}": np.clip(draw.normal(0.4, 0.2, 200), 0, 1) for model in range(2)}
            published = judge(values, champion, Gate(prefer="steadier", margin=0.1), of_users)
            changes += published != champion
            champion = published
        changed.append(changes)
    assert max(changed) <= 1
