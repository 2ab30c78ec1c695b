"""Held-out ratings with a model's predictions for them."""

import numpy as np
import polars as pl
import torch

from pipeline.core.seeding import generator
from pipeline.evaluation.eval_task import EvalRun
from pipeline.evaluation.rating_evaluator import predicted_ratings, predicts
from pipeline.evaluation.rating_metrics import known_pairs
from pipeline.schemas import tables

SAMPLE = 1000
"""Number of rows in the table; the errors are computed over all rows."""
INDICES = tables.Table(
    "predictions_by_index", "As `predictions`, before source ids are put in", ("user_idx", "item_idx"),
    {"user_idx": tables.ENCODED.columns["user_idx"], "item_idx": tables.ENCODED.columns["item_idx"],
     **{name: tables.PREDICTIONS.columns[name] for name in ("rating", "prediction")}},
)  # fmt: skip


def of_sample(eval_run: EvalRun) -> pl.DataFrame:
    """INDICES of a seeded sample of the rows that errors are computed on, the same for every model with that fit.

    Predictions are clipped to the range of the ratings fitted on. Without ratings there are no rows.
    """
    part = eval_run.splits.of(eval_run.split)
    if part.ratings is None or not predicts(type(eval_run.model)):
        return INDICES.empty()
    train, rows = eval_run.splits.fitted_on(eval_run.fit).rated(), part.rated()
    chosen = torch.nonzero(known_pairs(train, rows)).flatten()  # (K,)
    if len(chosen) > SAMPLE:
        drawn = generator(eval_run.settings.seed, "predictions", eval_run.split).choice(
            len(chosen), SAMPLE, replace=False
        )
        chosen = chosen[torch.from_numpy(np.sort(drawn)).to(chosen.device)]
    rows = rows.select(chosen)
    predicted = predicted_ratings(eval_run.model, rows, eval_run.normalizer)  # (K,)
    if predicted is None or not len(rows):
        return INDICES.empty()
    assert rows.ratings is not None and train.ratings is not None
    predicted = predicted.clamp(train.ratings.min(), train.ratings.max())
    columns = {"user_idx": rows.users, "item_idx": rows.items, "rating": rows.ratings, "prediction": predicted}
    frame = pl.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    return INDICES.check(frame.cast(INDICES.schema))  # type: ignore[arg-type]
