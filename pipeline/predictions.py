"""Held-out ratings beside what a model predicts for them."""

import numpy as np
import polars as pl
import torch

from pipeline import tables
from pipeline.errors import known_pairs
from pipeline.models import Recommender
from pipeline.normalize import Normalizer
from pipeline.question import Parts
from pipeline.rated import predicts
from pipeline.rng import generator

SAMPLE = 1000
"""Rows of a table that people look at; the errors are of all rows."""
INDICES = tables.Table(
    "predictions_by_index", "As `predictions`, before source ids are put in", ("user_idx", "item_idx"),
    {"user_idx": tables.ENCODED.columns["user_idx"], "item_idx": tables.ENCODED.columns["item_idx"],
     **{name: tables.PREDICTIONS.columns[name] for name in ("rating", "prediction")}},
)  # fmt: skip


@torch.no_grad()
def of_sample(
    model: Recommender, parts: Parts, split: str, fit: str, normalizer: Normalizer, seed: int
) -> pl.DataFrame:
    """INDICES of a seeded sample of the rows that errors are measured on, the same for every model with that fit.

    Predictions are kept within the lowest and highest rating fitted on. No rows where there are no ratings.
    """
    part = parts.of(split)
    if part.ratings is None or not predicts(type(model)):
        return INDICES.empty()
    train, rows = parts.fitted_on(fit).rated(), part.rated()
    chosen = torch.nonzero(known_pairs(train, rows)).flatten()  # (K,)
    if len(chosen) > SAMPLE:
        drawn = generator(seed, "predictions", split).choice(len(chosen), SAMPLE, replace=False)
        chosen = chosen[torch.from_numpy(np.sort(drawn)).to(chosen.device)]
    rows = rows.select(chosen)
    predicted = model.predict(rows.users, rows.items)  # (K,)
    if predicted is None or not len(rows):
        return INDICES.empty()
    assert rows.ratings is not None and train.ratings is not None
    predicted = normalizer.invert(predicted).clamp(train.ratings.min(), train.ratings.max())
    columns = {"user_idx": rows.users, "item_idx": rows.items, "rating": rows.ratings, "prediction": predicted}
    frame = pl.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    return INDICES.check(frame.cast(INDICES.schema))  # type: ignore[arg-type]
