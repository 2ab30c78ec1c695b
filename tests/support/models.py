"""Models for tests: one that is fitted, and one whose scores are given."""

from typing import Any, TypeVar

from torch import Tensor

from pipeline.models import Recommender
from pipeline.models.base import pick
from pipeline.training.context import FitContext, ModelConfig
from pipeline.training.interactions import History, Interactions

M = TypeVar("M", bound=Recommender)


def fitted(family: type[M], train: Interactions, context: FitContext | None = None, **config: Any) -> M:
    """A model of `family` with this configuration, fitted on `train`."""
    model = family(family.Config(**config), train.n_users, train.n_items)
    model.fit(train, context or FitContext())
    return model


class Fixed(Recommender):
    """Scores are those of a table (U, I); counts in `asked` for how many users they were wanted."""

    Config = ModelConfig

    def __init__(self, table: Tensor):
        super().__init__(ModelConfig(), *table.shape)
        self.table = table
        self.asked = 0

    def fit(self, train: Interactions, context: FitContext) -> None: ...

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        assert (users >= 0).all(), "asked for a user it can't serve"
        self.asked += len(users)
        return pick(self.table[users], items)
