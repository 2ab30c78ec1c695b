"""Compares two models on the same users: in all, and by segment."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch

from pipeline.bootstrap import Difference, paired_difference
from pipeline.settings import Gate

Figures = Mapping[str, pl.DataFrame]
"""tables.PER_USER by label."""
THIRDS = ("activity_low", "activity_mid", "activity_high")


class Comparing:
    """Paired comparisons of two labels on the same users."""

    def __init__(self, gate: Gate, metric: str, sign: int, figures: Figures, activity: pl.DataFrame, seed: int) -> None:
        self.gate, self.metric, self.sign, self.figures, self.seed = gate, metric, sign, figures, seed
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
        weight = users["n"] / users["n"].mean()
        a, b = (torch.from_numpy((users[name] * weight * self.sign).to_numpy(writable=True)) for name in "ab")
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
