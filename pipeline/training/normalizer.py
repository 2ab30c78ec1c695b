"""Normalises ratings for a fit, and converts predictions back to the scale of the source."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.training.context import NotServable
from pipeline.training.interactions import Interactions

FILE = "normalizer.json"


@dataclass(frozen=True)
class Normalizer:
    """z = (f(rating) - shift) / scale, with f(r) = log(1 + r) for `log1p`, else r.

    standardize: mean 0 and standard deviation 1. min_max: the lowest and highest rating become the ends of a range,
    by default [0, 1].

    The statistics come only from the ratings that the fit learns from.
    """

    kind: str = "none"
    shift: float = 0.0
    scale: float = 1.0
    low: float = -math.inf
    """Lowest rating of the fit, on the scale of the source; `high` is the highest."""
    high: float = math.inf

    @classmethod
    def fit(cls, kind: str, ratings: Tensor | None, to: tuple[float, float] = (0.0, 1.0)) -> "Normalizer":
        """From ratings (N,), NaN where a row has none; NotServable if `kind` is not defined for them."""
        if kind == "none" or ratings is None:
            return cls()
        known = ratings[~ratings.isnan()].double()  # (N',)
        if not len(known):
            return cls()
        low, high = float(known.min()), float(known.max())
        shift, scale = 0.0, 1.0
        match kind:
            case "standardize":
                shift, scale = float(known.mean()), float(known.std(correction=0))
            case "min_max":
                scale = (high - low) / (to[1] - to[0]) or 1.0
                shift = low - to[0] * scale
            case "log1p":
                if low <= -1:
                    raise NotServable(
                        f"normalize = 'log1p' needs ratings above -1, and the lowest is {low:g}; "
                        "use 'standardize' or 'min_max'"
                    )
            case _:
                raise ValueError(f"normalize = {kind!r}: use none, standardize, min_max or log1p")
        return cls(kind, shift, scale or 1.0, low, high)  # equal ratings have no spread: divide by 1

    def apply(self, ratings: Tensor) -> Tensor:
        """From the scale of the source to that of the fit, (N,) -> (N,) float32; NaN stays NaN."""
        if self.kind == "none":
            return ratings
        values = ratings.double()
        values = torch.log1p(values) if self.kind == "log1p" else values
        return ((values - self.shift) / self.scale).float()

    def invert(self, values: Tensor) -> Tensor:
        """Back to the scale of the source, clipped to the ratings of the fit, (N,) -> (N,) float32."""
        if self.kind == "none":
            return values
        ratings = values.double() * self.scale + self.shift  # (N,)
        ratings = torch.expm1(ratings) if self.kind == "log1p" else ratings
        return ratings.clamp(self.low, self.high).float()

    def on(self, rows: Interactions) -> Interactions:
        """The same rows, with ratings on the scale of the fit."""
        return rows if rows.ratings is None else replace(rows, ratings=self.apply(rows.ratings))

    def save(self, folder: Path) -> None:
        """Write `normalizer.json` into a model's folder; nothing for `none`."""
        if self.kind != "none":
            (folder / FILE).write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Normalizer":
        """The normalizer of the model in `folder`; `none` if there is no file."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()
