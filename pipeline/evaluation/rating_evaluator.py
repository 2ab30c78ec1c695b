"""Evaluates predicted ratings on one split, next to those of simple predictors."""

from collections.abc import Callable
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.evaluation import per_user
from pipeline.evaluation.eval_task import EvalRun
from pipeline.evaluation.rating_metrics import RatedRows, baselines, known_pairs, rating_errors
from pipeline.models import Recommender
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import Normalizer

AS_IN_THE_SOURCE = Normalizer()
Records = list[dict[str, Any]]


def predicts(family: type[Recommender]) -> bool:
    """Whether the family predicts ratings."""
    return family.predict is not Recommender.predict


def errors(eval_run: EvalRun, keep: Callable[[pl.DataFrame], None]) -> Records:
    """Errors of predicted ratings and of simple predictors on the split, in the unit of the source.

    Where the fit has another scale, also on that one; the simple predictors are fitted again on it. Segment `all`: rows
    whose user and item both have a rating in the rows fitted on; `cold`: the others.
    """
    held_out, normalizer, select = eval_run.splits.of(eval_run.split), eval_run.normalizer, eval_run.settings.select
    if held_out.ratings is None or not predicts(type(eval_run.model)):
        return []
    train, rows = eval_run.splits.fitted_on(eval_run.fit), held_out.rated()
    predicted = predicted_ratings(eval_run.model, rows, normalizer)
    if predicted is None or not len(rows):
        return []
    assert rows.ratings is not None
    records: Records = []
    known = known_pairs(train, rows)  # (N,)
    for scale in dict.fromkeys((AS_IN_THE_SOURCE, normalizer)):
        simple = baselines(scale.on(train), rows.users, rows.items)
        rated = RatedRows(scale.apply(predicted), scale.apply(rows.ratings), rows.users, simple)
        if select.protocol == "error" and scale == _scale_of(select.metric, normalizer):
            warm = torch.ones(eval_run.splits.n_users, dtype=torch.bool, device=eval_run.splits.device)
            per_user.of_errors(rated.select(known), warm, select, keep)
        for segment, selected in (("all", known), ("cold", ~known)):
            scaled = scale != AS_IN_THE_SOURCE
            records += rating_errors(rated.select(selected), eval_run.scope, segment=segment, scaled=scaled)
    return records


@torch.no_grad()
def predicted_ratings(model: Recommender, rows: Interactions, normalizer: Normalizer) -> Tensor | None:
    """Predicted ratings (N,) in the unit of the source; None where the model predicts none."""
    predicted = model.predict(rows.users, rows.items)
    return None if predicted is None else normalizer.invert(predicted)


def error(metric: str, model: Recommender, rows: Interactions, normalizer: Normalizer) -> float:
    """rmse or mae in the unit of the source, or on the scale of the fit for `rmse_scaled` and `mae_scaled`."""
    predicted = predicted_ratings(model, rows, normalizer)
    assert predicted is not None and rows.ratings is not None
    scale = _scale_of(metric, normalizer)
    off = scale.apply(predicted).double() - scale.apply(rows.ratings).double()  # (N,)
    return float(off.square().mean().sqrt() if metric.startswith("rmse") else off.abs().mean())


def _scale_of(metric: str, normalizer: Normalizer) -> Normalizer:
    """The scale on which an error is computed."""
    return normalizer if metric.endswith("_scaled") else AS_IN_THE_SOURCE
