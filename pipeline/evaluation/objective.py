"""The selecting metric on valid: guides fits on train, searches and the weights of blends."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config.settings import Settings
from pipeline.core.seeding import generator
from pipeline.evaluation import ranking_metrics, rating_evaluator
from pipeline.evaluation.eval_task import Splits, eval_task
from pipeline.evaluation.evaluator import drawn, ranks_among, ranks_of
from pipeline.evaluation.rating_metrics import known_pairs
from pipeline.models import Recommender
from pipeline.ranking.ranks import Ranks
from pipeline.training.normalizer import Normalizer

VALIDATION_USERS = 20_000  # a seeded sample is enough to compare epochs


@dataclass(frozen=True)
class ValidationObjective:
    """The selecting metric on valid as a function of the model; higher is better."""

    metric: Callable[[Recommender], float]
    per_user: Callable[[Recommender], Tensor] | None = None
    """The values (N,) whose mean is a ranking metric; None for rating errors."""

    def __call__(self, model: Recommender) -> float:
        """The metric of the model."""
        return self.metric(model)


def validation_objective(
    splits: Splits, settings: Settings, family: type[Recommender], normalizer: Normalizer
) -> ValidationObjective | None:
    """The objective for a family.

    None without a valid split and for a family that does not have the metric: it is fitted without guidance, evaluated,
    and not eligible as champion.
    """
    select = settings.select
    if splits.frames["valid"].is_empty():
        return None
    sign = ranking_metrics.sign_of(select.metric)
    if select.protocol == "error":
        valid = splits.of("valid")
        if valid.ratings is None or not rating_evaluator.predicts(family):
            return None
        held = valid.rated()
        held = held.select(known_pairs(splits.of("train"), held))
        if not len(held):
            return None
        return ValidationObjective(lambda model: sign * rating_evaluator.error(select.metric, model, held, normalizer))
    task = eval_task(splits, "valid", "train")
    rows = torch.nonzero(task.history.lengths > 0).flatten()
    if len(rows) > VALIDATION_USERS:
        chosen = generator(settings.seed, "validation users").choice(len(rows), VALIDATION_USERS, replace=False)
        rows = rows[torch.from_numpy(np.sort(chosen)).to(rows.device)]
    if not len(rows):
        return None
    sample, cutoff = task.of(rows), select.cutoff
    negatives = drawn(splits, sample, settings.seed, "valid") if select.protocol == "sampled_99" else None

    def ranks(model: Recommender) -> Ranks:
        return ranks_of(model, sample, cutoff) if negatives is None else ranks_among(model, sample, negatives)

    def mean(model: Recommender) -> float:
        return sign * ranking_metrics.mean_of(select.metric, ranks(model), cutoff)

    def per_user(model: Recommender) -> Tensor:
        values = ranking_metrics.per_user(ranks(model), [cutoff], [select.metric])
        return (sign * values[select.metric, cutoff]).cpu()  # (N,)

    return ValidationObjective(mean, per_user)
