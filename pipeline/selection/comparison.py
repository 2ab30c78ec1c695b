"""Compares models on the same users: two overall and by segment, or all models of a night with one of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import Gate
from pipeline.core.bootstrap import Difference, paired_difference, paired_differences
from pipeline.evaluation.ranking_metrics import sign_of
from pipeline.selection import cost
from pipeline.selection.cost import Cost
from pipeline.selection.gain import Gain, error_rate, interval
from pipeline.selection.list_changes import ListChanges

UserMetrics = Mapping[str, pl.DataFrame]
"""tables.PER_USER by label."""
THIRDS = ("activity_low", "activity_mid", "activity_high")


@dataclass(frozen=True)
class ValidationResults:
    """The selecting metric of the models on valid."""

    values: Mapping[str, float]
    """By eligible label, in the recipe's order."""
    by_user: UserMetrics
    activity: pl.DataFrame
    """user_idx, n_interactions in train."""
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of the fit on train, by label, where it is known."""
    changes: ListChanges = field(default_factory=dict[str, np.ndarray])
    """Of the published lists, by label, where `gate.prefer` asks for it."""


@dataclass(frozen=True)
class SegmentDifference(Difference):
    """Difference in one segment of users."""

    segment: str
    harmed: bool
    """Significantly below 0, and by more than the margin."""


@dataclass(frozen=True)
class IncumbentComparison:
    """How a challenger differs from the incumbent."""

    against_incumbent: Difference | None
    """Over all users; None where no user is evaluated for both."""
    holds_margin: bool
    """Whether the interval lies above the margin."""
    segments: list[SegmentDifference]
    gain: Gain | None = None
    """The same difference with the interval that decides; None where no user is evaluated for both."""
    cost: Cost | None = None
    """None where `gate.prefer` asks for none, or it is not known."""

    @property
    def harmed(self) -> list[str]:
        """Names of the harmed segments."""
        return [each.segment for each in self.segments if each.harmed]


class PairedComparison:
    """Paired comparisons of two labels on the same users."""

    def __init__(self, gate: Gate, metric: str, results: ValidationResults, seed: int) -> None:
        self.gate, self.metric, self.results, self.seed = gate, metric, results, seed

    def with_incumbent(self, challenger: str, incumbent: str, challengers: int = 1) -> IncumbentComparison:
        """The overall difference, its test as the best of `challengers`, and the segments (Bonferroni-corrected)."""
        users = self.pairs(challenger, incumbent)
        overall = self.of(users.filter("warm"), self.gate.confidence)
        if overall is None:
            return IncumbentComparison(None, False, [])
        allowed = self.allowed(users.filter("warm"))
        segments = [(name, part) for name, part in by_segment(users) if part.height >= self.gate.min_segment_users]
        confidence = 1 - (1 - self.gate.confidence) / max(1, len(segments))
        records: list[SegmentDifference] = []
        for name, part in segments:
            difference = self.of(part, confidence)
            assert difference is not None
            harmed = difference.ci_high < 0 and difference.value < -self.allowed(part)
            records.append(SegmentDifference(**asdict(difference), segment=name, harmed=harmed))
        cost = self.cost(challenger, incumbent, challengers)
        gain = self.gain(users.filter("warm"), challengers, self.needed_share(cost))
        return IncumbentComparison(overall, overall.ci_low > -allowed, records, gain, cost)

    def gain(self, users: pl.DataFrame, challengers: int, needed: float) -> Gain:
        """The test of a gain of more than the share `needed` of the incumbent's metric."""
        alpha = error_rate(self.gate, challengers)
        value, low, high = (float(number) for number in interval(self.changes(users).numpy(), alpha))
        return Gain(
            value, low, high, 1 - 2 * alpha, challengers, self.gate.nights, -self.allowed(users, -needed),
            self.allowed(users),
        )  # fmt: skip

    def needed_share(self, cost: Cost | None) -> float:
        """The share of the incumbent's metric that a challenger must gain.

        Where cheaper or steadier models are preferred, one that costs clearly more needs more than the margin: with
        less, the two would take turns.
        """
        return max(self.gate.min_gain, self.gate.margin if cost is not None and cost.higher else 0.0)

    def cost(self, challenger: str, incumbent: str, challengers: int = 1) -> Cost | None:
        """What `gate.prefer` compares besides quality; None where it compares nothing, or a cost is not known."""
        seconds, changes, both = self.results.seconds, self.results.changes, (challenger, incumbent)
        if self.gate.prefer == "cheaper" and all(label in seconds for label in both):
            return cost.of_fits(self.gate, seconds[challenger], seconds[incumbent])
        if self.gate.prefer == "steadier" and all(label in changes for label in both):
            return cost.of_lists(self.gate, changes, challenger, incumbent, challengers)
        return None

    def difference(self, a: str, b: str) -> Difference | None:
        """a - b over the users of segment `all`; None without any."""
        return self.of(self.pairs(a, b).filter("warm"), self.gate.confidence)

    def pairs(self, a: str, b: str) -> pl.DataFrame:
        """Users evaluated for both labels: a, b (values), n, warm, n_interactions."""
        by_user = self.results.by_user
        if a not in by_user or b not in by_user:
            return pl.DataFrame(schema={"a": pl.Float64, "b": pl.Float64, "n": pl.Int64, "warm": pl.Boolean,
                                        "user_idx": pl.Int32, "n_interactions": pl.Int64})  # fmt: skip
        of_a, of_b = by_user[a].rename({"value": "a"}), by_user[b].select("user_idx", b="value")
        joined = of_a.join(of_b, on="user_idx").join(self.results.activity, on="user_idx", how="left")
        return joined.with_columns(pl.col("n_interactions").fill_null(0)).sort("user_idx")

    def of(self, users: pl.DataFrame, confidence: float) -> Difference | None:
        """Paired bootstrap over users. Values are weighted by n, so that their means equal the selecting metric."""
        if users.is_empty():
            return None
        return paired_difference(*self.weighted(users), self.seed, confidence=confidence)

    def changes(self, users: pl.DataFrame) -> Tensor:
        """a - b of every user that has both, (U,), positive where a is better."""
        a, b = self.weighted(users)
        changes = a - b  # (U,)
        return changes[~changes.isnan()]

    def weighted(self, users: pl.DataFrame) -> tuple[Tensor, Tensor]:
        """Values of both labels, (U,) each, weighted by n; errors are negative."""
        weight = sign_of(self.metric) * users["n"] / users["n"].mean()
        a, b = (torch.as_tensor((users[name] * weight).to_numpy(writable=True)) for name in "ab")
        return a, b

    def allowed(self, users: pl.DataFrame, share: float | None = None) -> float:
        """How much worse the challenger may be, in the unit of the values (squared errors for rmse).

        `share` of the incumbent's metric, by default the margin; negative: how much better it must be, as a negative.
        """
        incumbent = float((users["b"] * users["n"]).sum()) / float(users["n"].sum())
        share = self.gate.margin if share is None else share
        return abs(incumbent) * ((1 + share) ** 2 - 1 if self.metric.startswith("rmse") else share)


def by_segment(users: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Thirds of the users with a history, by interactions in train; `cold_users` are those without a history."""
    warm = users.filter("warm").sort("n_interactions", "user_idx").with_row_index("place")
    third = (pl.col("place") * 3 // max(1, warm.height)).cast(pl.Int32)
    thirds = [(name, warm.filter(third == number)) for number, name in enumerate(THIRDS)]
    return [*thirds, ("cold_users", users.filter(~pl.col("warm")))]


def activity_of(train: Path) -> pl.DataFrame:
    """Number of interactions of every user in a split's train.parquet: user_idx, n_interactions."""
    rows = pl.scan_parquet(train).group_by("user_idx").agg(n_interactions=pl.len().cast(pl.Int64))
    return rows.sort("user_idx").collect()


def against(by_user: UserMetrics, other: str, metric: str, seed: int, confidence: float) -> dict[str, Difference]:
    """Difference of every label from `other` over the users of segment `all`, with p-values adjusted by Holm.

    Users are resampled once for all models that share them, in the way gate.judge resamples them for two models.
    """
    of_other = by_user[other].filter("warm").select("user_idx", other="value")
    together: dict[bytes, dict[str, pl.Series]] = defaultdict(dict)  # by the users that are shared with `other`
    for label, own in by_user.items():
        users = own.filter("warm").join(of_other, on="user_idx").sort("user_idx")
        users = users.with_columns(change=sign_of(metric) * (pl.col("value") - pl.col("other"))).drop_nans("change")
        if label != other and users.height:
            change = users["change"] * users["n"] / users["n"].mean()
            together[users["user_idx"].to_numpy().tobytes()][label] = change
    found: dict[str, Difference] = {}
    for changes in together.values():
        values = torch.as_tensor(pl.DataFrame(changes).to_numpy(writable=True))  # (U, M)
        found |= zip(changes, paired_differences(values, seed, confidence=confidence), strict=True)
    adjusted = holm([found[label].p_value for label in found])
    return {label: replace(found[label], p_value=p) for label, p in zip(found, adjusted, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple comparisons, which bounds the family-wise error rate (Holm 1979).

    With m sorted values, the i-th (from 0) becomes the largest (m - j) · p_j of all j <= i, at most 1.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = adjusted[at] = min(1.0, max(largest, (len(p_values) - place) * p_values[at]))
    return adjusted
