"""Boosts of `[export]`: a model whose scores are changed by a factor per item."""

import torch
from torch import Tensor

from pipeline.models import Recommender
from pipeline.models.base import FitContext, pick
from pipeline.training.interactions import History, Interactions


def boosted(scores: Tensor, factors: Tensor) -> Tensor:
    """Scores (B, I) changed by `factors` (I,), each above 0: s * f where s >= 0, else s / f.

    So a factor above 1 raises every item, and one below 1 lowers it, whatever the sign of its score; 0 stays 0.
    """
    scores, factors = scores.float(), factors.to(scores.device)
    changed = torch.where(scores >= 0, scores * factors, scores / factors)  # (B, I)
    largest = torch.finfo(torch.float32).max
    return torch.where(scores.isfinite(), changed.clamp(-largest, largest), scores)


class Boosted(Recommender):
    """A fitted model with boosted scores. It serves the same users; its scores are no dot products."""

    def __init__(self, model: Recommender, factors: Tensor):
        super().__init__(model.config, model.n_users, model.n_items)
        self.model, self.item_factors = model, factors  # (I,)
        self.reads_history = model.reads_history  # type: ignore[misc]
        self.serves_everyone = model.serves_everyone  # type: ignore[misc]
        self.needs_ratings = model.needs_ratings  # type: ignore[misc]

    def fit(self, train: Interactions, context: FitContext) -> None:
        """It is not fitted."""
        raise NotImplementedError("the model is fitted before its scores are boosted")

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """The model's scores, boosted; see `boosted`."""
        return pick(boosted(self.model.score(users, history), self.item_factors), items)
