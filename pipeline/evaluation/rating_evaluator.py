"""Measures predicted ratings on one part of a split, beside those of simple predictors."""

from collections.abc import Callable
from typing import Any

import polars as pl
import torch
from torch import Tensor

from pipeline.evaluation import per_user
from pipeline.evaluation.eval_task import EvalRun
from pipeline.evaluation.rating_metrics import baselines, known_pairs, rating_errors
from pipeline.models import Recommender
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import Normalizer

AS_IN_THE_SOURCE = Normalizer()
Records = list[dict[str, Any]]


def predicts(family: type[Recommender]) -> bool:
    """Whether the family has ratings to offer."""
    return family.predict is not Recommender.predict


def errors(eval_run: EvalRun, keep: Callable[[pl.DataFrame], None]) -> Records:
    """Errors of predicted ratings on the part, beside those of simple predictors: in the source's unit and, where
    that is another, on the scale of the fit (the simple predictors are fitted anew there).

    Segment `all`: rows whose user and item both have a rating in what was fitted on; `cold`: the others.
    """
    part, normalizer, select = eval_run.splits.of(eval_run.split), eval_run.normalizer, eval_run.settings.select
    if part.ratings is None or not predicts(type(eval_run.model)):
        return []
    train, rows = eval_run.splits.fitted_on(eval_run.fit), part.rated()
    predicted = predicted_ratings(eval_run.model, rows, normalizer)
    if predicted is None or not len(rows):
        return []
    assert rows.ratings is not None
    records: Records = []
    known = known_pairs(train, rows)  # (N,)
    for scale in dict.fromkeys((AS_IN_THE_SOURCE, normalizer)):
        actual, simple = scale.apply(rows.ratings), baselines(scale.on(train), rows.users, rows.items)
        if select.protocol == "error" and scale == _scale_of(select.metric, normalizer):
            warm = torch.ones(eval_run.splits.n_users, dtype=torch.bool, device=eval_run.splits.device)
            chosen = (scale.apply(predicted)[known], actual[known], rows.users[known])
            per_user.of_errors(*chosen, warm, select, keep)
        about = {**eval_run.about, "scaled": scale != AS_IN_THE_SOURCE}
        for segment, chosen in (("all", known), ("cold", ~known)):
            beside = {name: values[chosen] for name, values in simple.items()}
            compared = (scale.apply(predicted)[chosen], actual[chosen], rows.users[chosen], beside)
            records += rating_errors(*compared, segment=segment, **about)
    return records


@torch.no_grad()
def predicted_ratings(model: Recommender, rows: Interactions, normalizer: Normalizer) -> Tensor | None:
    """(N,) in the source's unit."""
    predicted = model.predict(rows.users, rows.items)
    return None if predicted is None else normalizer.invert(predicted)


def error(metric: str, model: Recommender, rows: Interactions, normalizer: Normalizer) -> float:
    """rmse or mae, in the source's unit; or, of the same predictions, on the scale of the fit."""
    predicted = predicted_ratings(model, rows, normalizer)
    assert predicted is not None and rows.ratings is not None
    scale = _scale_of(metric, normalizer)
    off = scale.apply(predicted).double() - scale.apply(rows.ratings).double()  # (N,)
    return float(off.square().mean().sqrt() if metric.startswith("rmse") else off.abs().mean())


def _scale_of(metric: str, normalizer: Normalizer) -> Normalizer:
    """The scale on which an error is measured."""
    return normalizer if metric.endswith("_scaled") else AS_IN_THE_SOURCE
