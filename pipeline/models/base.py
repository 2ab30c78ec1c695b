"""What every model family is: one class, its config beside it, state in `state_dict()`."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from pipeline.training.context import FitContext, ModelConfig, NotServable
from pipeline.training.interactions import History, Interactions

__all__ = ["FitContext", "ModelConfig", "NotServable", "Recommender", "pick"]


class Recommender(nn.Module, ABC):
    """A family of models over dense user and item indices."""

    family: ClassVar[str | None] = None
    """Name in recipes, of the families of this package; others go by their entry point or dotted path."""
    Config: ClassVar[type[ModelConfig]]
    version: ClassVar[int] = 1
    """Raise it when a change of the family's code changes what it learns or scores; it is part of the lake's keys."""
    needs_time: ClassVar[bool] = False
    needs_ratings: ClassVar[bool] = False
    reads_history: ClassVar[bool] = False
    """`score` uses `history`, so users that the fit never saw can be served."""
    serves_everyone: ClassVar[bool] = False
    """Needs to know nothing about a user; so nobody is given the fallback."""

    samples: ClassVar[bool] = False
    """A fit draws its state on the device: fits on two devices agree as two seeds do."""

    blends: ClassVar[bool] = False
    """Is made of other fitted models, not of interactions."""

    personal: ClassVar[bool] = True
    """Different users get different scores."""

    def __init__(self, config: ModelConfig, n_users: int, n_items: int):
        super().__init__()
        self.config = config
        self.n_users = n_users
        self.n_items = n_items
        self.best_epoch: int | None = None  # set by gradient families; frozen for refits

    @abstractmethod
    def fit(self, train: Interactions, context: FitContext) -> None:
        """Learn from `train`; afterwards the state is on `context.device`."""

    @abstractmethod
    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Scores of all items, (B,) -> (B, I), or of `items` (B, C) -> (B, C); higher is better.

        Row b of `history` belongs to users[b]. A user index of -1 stands for one whom the fit never saw; only
        families with `reads_history` are asked for those.
        """

    def similar(self, items: Tensor) -> Tensor | None:
        """Similarity of `items` to all, (B,) -> (B, I); None where the family has none. Default: cosine of vectors."""
        vectors = self.item_vectors()
        if vectors is None:
            return None
        unit = nn.functional.normalize(vectors, dim=1)  # (I, D)
        return unit[items] @ unit.T  # (B, I)

    def item_vectors(self) -> Tensor | None:
        """(I, D), or None."""
        return None

    def user_vectors(self) -> Tensor | None:
        """(U, D), or None."""
        return None

    def item_biases(self) -> Tensor | None:
        """(I,), or None."""
        return None

    def user_biases(self) -> Tensor | None:
        """(U,), or None."""
        return None

    def factors(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """(U, D), (I, D) and item bias (I,) where the score is their dot product plus bias; else None."""
        return None

    def user_factors(self, users: Tensor, history: History) -> Tensor | None:
        """(B, D) whose dot products with the item factors, plus bias, are `score(users, history)`; or None.

        Default: rows of `factors`; None for a family that reads histories, unless it folds them in here.
        """
        factors = None if self.reads_history else self.factors()
        return None if factors is None else factors[0][users]

    def predict(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Ratings in the unit of the interactions fitted on, (B,), (B,) -> (B,); None where a family has none."""
        return None

    def contributions(self, user: int, history: History, item: int) -> Tensor | None:
        """What each item of a one-row `history`, all distinct, adds to `score` of `item`, (E,).

        They sum to the score. None where the score is no such sum.
        """
        return None

    def terms(self, user: int, item: int) -> dict[str, float] | None:
        """The named terms that sum to `score`, of a family that reads no history; None where there are none."""
        return None


def pick(scores: Tensor, items: Tensor | None) -> Tensor:
    """(B, I) scores of all items cut down to `items` (B, C), if any are asked for."""
    return scores if items is None else scores.gather(1, items)
