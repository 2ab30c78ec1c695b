"""Compares models on the same users: two, in all and by segment, and all of a night with one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from pipeline.config.publishing import Gate
from pipeline.core.bootstrap import Difference, paired_difference, paired_differences
from pipeline.evaluation.ranking_metrics import sign_of

Figures = Mapping[str, pl.DataFrame]
"""tables.PER_USER by label."""
THIRDS = ("activity_low", "activity_mid", "activity_high")


class Comparing:
    """Paired comparisons of two labels on the same users."""

    def __init__(self, gate: Gate, metric: str, figures: Figures, activity: pl.DataFrame, seed: int) -> None:
        self.gate, self.metric, self.figures, self.seed = gate, metric, figures, seed
        self.activity = activity

    def challenge(self, challenger: str, incumbent: str) -> dict[str, Any]:
        """The overall difference, whether the margin holds, and the segments."""
        users = self.pairs(challenger, incumbent)
        overall = self.of(users.filter("warm"), self.gate.confidence)
        if overall is None:
            return {"against_incumbent": None, "holds_margin": False, "segments": []}
        allowed = self.allowed(users.filter("warm"))
        segments = [(name, part) for name, part in by_segment(users) if part.height >= self.gate.min_segment_users]
        confidence = 1 - (1 - self.gate.confidence) / max(1, len(segments))
        records = []
        for name, part in segments:
            difference = self.of(part, confidence)
            assert difference is not None
            harmed = difference.ci_high < 0 and difference.value < -self.allowed(part)
            records.append({"segment": name, **asdict(difference), "harmed": harmed})
        holds = overall.ci_low > -allowed
        return {"against_incumbent": asdict(overall), "holds_margin": holds, "segments": records}

    def difference(self, a: str, b: str) -> Difference | None:
        """Of a over b, users of segment `all`; None without any."""
        return self.of(self.pairs(a, b).filter("warm"), self.gate.confidence)

    def pairs(self, a: str, b: str) -> pl.DataFrame:
        """Users of both: a, b (values), n, warm, n_interactions."""
        if a not in self.figures or b not in self.figures:
            return pl.DataFrame(schema={"a": pl.Float64, "b": pl.Float64, "n": pl.Int64, "warm": pl.Boolean,
                                        "user_idx": pl.Int32, "n_interactions": pl.Int64})  # fmt: skip
        mine = self.figures[a].rename({"value": "a"})
        theirs = self.figures[b].select("user_idx", b="value")
        joined = mine.join(theirs, on="user_idx").join(self.activity, on="user_idx", how="left")
        return joined.with_columns(pl.col("n_interactions").fill_null(0)).sort("user_idx")

    def of(self, users: pl.DataFrame, confidence: float) -> Difference | None:
        """Paired bootstrap over users. Their values weigh by n, so that the means are those that select."""
        if users.is_empty():
            return None
        weight = sign_of(self.metric) * users["n"] / users["n"].mean()
        a, b = (torch.from_numpy((users[name] * weight).to_numpy(writable=True)) for name in "ab")
        return paired_difference(a, b, self.seed, confidence=confidence)

    def allowed(self, users: pl.DataFrame) -> float:
        """How much worse the challenger may be, in the unit of the values."""
        theirs = float((users["b"] * users["n"]).sum()) / float(users["n"].sum())
        margin = self.gate.margin
        return abs(theirs) * ((1 + margin) ** 2 - 1 if self.metric.startswith("rmse") else margin)


def by_segment(users: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Thirds of the users with a history by interactions in train, and `cold_users`, those without."""
    warm = users.filter("warm").sort("n_interactions", "user_idx").with_row_index("place")
    third = (pl.col("place") * 3 // max(1, warm.height)).cast(pl.Int32)
    thirds = [(name, warm.filter(third == number)) for number, name in enumerate(THIRDS)]
    return [*thirds, ("cold_users", users.filter(~pl.col("warm")))]


def activity_of(train: Path) -> pl.DataFrame:
    """Interactions of every user in a split's train.parquet: user_idx, n_interactions."""
    rows = pl.scan_parquet(train).group_by("user_idx").agg(n_interactions=pl.len().cast(pl.Int64))
    return rows.sort("user_idx").collect()


def against(figures: Figures, other: str, metric: str, seed: int, confidence: float) -> dict[str, Difference]:
    """Every label's difference from `other`, over the users of segment `all`, with p-values adjusted by Holm.

    Users are resampled once for all models that were measured on the same ones, as gate.judge resamples them for two.
    """
    theirs = figures[other].filter("warm").select("user_idx", theirs="value")
    together: dict[bytes, dict[str, pl.Series]] = defaultdict(dict)  # by the users compared on
    for label, mine in figures.items():
        users = mine.filter("warm").join(theirs, on="user_idx").sort("user_idx")
        users = users.with_columns(change=sign_of(metric) * (pl.col("value") - pl.col("theirs"))).drop_nans("change")
        if label != other and users.height:
            change = users["change"] * users["n"] / users["n"].mean()
            together[users["user_idx"].to_numpy().tobytes()][label] = change
    found: dict[str, Difference] = {}
    for changes in together.values():
        values = torch.from_numpy(pl.DataFrame(changes).to_numpy(writable=True))  # (U, M)
        found |= zip(changes, paired_differences(values, seed, confidence=confidence), strict=True)
    adjusted = holm([found[label].p_value for label in found])
    return {label: replace(found[label], p_value=p) for label, p in zip(found, adjusted, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that may be held against one level each, and err anywhere at most with that probability (Holm 1979).

    Of m sorted values, the i-th from 0 becomes the largest (m - j) p of the j <= i, at most 1.
    """
    adjusted, floor = [1.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = adjusted[at] = min(1.0, max(floor, (len(p_values) - place) * p_values[at]))
    return adjusted
