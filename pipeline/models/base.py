"""The base class of model families: one class with its config; all state is in `state_dict()`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pipeline.training.context import FitContext, ModelConfig, NotServable
from pipeline.training.event_weights import weighed
from pipeline.training.interactions import History, Interactions

__all__ = ["Explainer", "FitContext", "FitSize", "ModelConfig", "NotServable", "Recommender", "pick"]


Explainer = Callable[[Tensor, History, Tensor], Tensor]
"""(B,) users, their E distinct events, (B, K) items -> what each event adds to the scores of its row, (E, K)."""


@dataclass(frozen=True)
class FitSize:
    """What the memory of a fit depends on."""

    users: int
    items: int
    rows: int
    on_cuda: bool = False
    memory: int | None = None
    """Bytes that the fit may hold; None: no limit."""


class Recommender(nn.Module, ABC):
    """A model family over dense user and item indices."""

    family: ClassVar[str | None] = None
    """Name in recipes, of the families of this package; others go by their entry point or dotted path."""
    Config: ClassVar[type[ModelConfig]]
    version: ClassVar[int] = 1
    """Increase it when a code change changes what the family learns or scores; it is part of the lake's keys."""
    later_versions: ClassVar[Mapping[int, int]] = {}
    """Version of large fits, by the rows from which it holds: a change that leaves smaller fits as they are."""
    needs_time: ClassVar[bool] = False
    needs_ratings: ClassVar[bool] = False
    reads_history: ClassVar[bool] = False
    """`score` uses `history`, so users that the fit has not seen can be served."""
    serves_everyone: ClassVar[bool] = False
    """Needs no knowledge of the user, so no user gets the fallback."""

    samples: ClassVar[bool] = False
    """The fit draws its state on the device, so fits on two devices differ like two seeds."""

    blends: ClassVar[bool] = False
    """Is made of other fitted models."""

    for_tiny_data: ClassVar[dict[str, Any]] = {}
    """Hyperparameters for the tiny data of the conformance suite, if its defaults don't suit."""

    rows_of_state: ClassVar[Mapping[str, str]] = {}
    """Tables of the state with a row per user or item: name to `users` or `items`. A family that declares them can
    start from an earlier fit, `FitContext.previous`; new rows keep their initial values."""

    cuts_users: ClassVar[bool] = False
    """Several processes can fit it, each on the rows of a range of users, `FitContext.users`, whose indices are those
    of all users. The first one has the whole state afterwards."""

    personal: ClassVar[bool] = True
    """Different users get different scores."""

    only_own_items: ClassVar[bool] = False
    """Personal scores are of items of the history only."""

    def __init__(self, config: ModelConfig, n_users: int, n_items: int):
        super().__init__()
        self.config = config
        self.n_users = n_users
        self.n_items = n_items
        self.best_epoch: int | None = None  # set by families with epochs; refits use it
        self.reads_attributes = False
        """The fit has placed items without events by their attributes."""
        self.scores_in_bulk = False
        """On a CPU, scores of thousands of users at once take less time per user, and are the same bits."""

    @classmethod
    def version_at(cls, rows: int | None, config: ModelConfig | None = None) -> int:
        """The version of a fit on so many rows with that config; None, not known: of a small one, of any."""
        return max(
            (number for first, number in cls.later_versions.items() if (rows or 0) >= first), default=cls.version
        )

    @classmethod
    def config_at(cls, config: ModelConfig, rows: int, given: Collection[str]) -> ModelConfig:
        """The config of a fit on so many rows, on one CPU; `given`: hyperparameters that are set or searched.

        It is that of the lake's key and of refits. Default: as it is.
        """
        return config

    @classmethod
    def refusal(cls, config: ModelConfig, size: FitSize) -> str | None:
        """Why `fit` would refuse data of this size, as a sentence; None: it would not. Default: None."""
        return None

    @classmethod
    def fits_on_ids(cls, config: ModelConfig) -> bool:
        """Whether `fit` needs users, items and what weights depend on, in ids of 32 or of 64 bits, and no ratings and
        times; it then gets none, and needs half the memory. Default: no."""
        return False

    def weighed(self, history: History) -> History:
        """The history with the weights of the config, as `fit` saw it; as it is for families that don't weigh."""
        return weighed(history, self.config)

    @abstractmethod
    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit to `train`; afterwards the state is on `context.device`."""

    @abstractmethod
    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Scores of all items, (B,) -> (B, I), or of `items` (B, C) -> (B, C); higher is better.

        Row b of `history` belongs to users[b]. User index -1 is a user that the fit has not seen; only
        families with `reads_history` get those.
        """

    def learnt_of_items(self) -> list[Tensor]:
        """All that the fit learnt about each item, (I, …) each and writable in place: row i is that of item i.

        A family that has it serves items without events: a map from attributes to these rows is learnt after the fit.
        Empty: the family can't serve them.
        """
        return []

    def set_items(self, items: Tensor, rows: list[Tensor]) -> None:
        """Replace rows of `items` (N,) of `learnt_of_items` by those that their attributes predict, (N, …) each."""
        for table, part in zip(self.learnt_of_items(), rows, strict=True):
            table[items] = part.to(table.dtype)

    def similar(self, items: Tensor) -> Tensor | None:
        """Similarity of `items` to all items, (B,) -> (B, I), or None. Default: cosine of item vectors."""
        similarity = self.similarity()
        return None if similarity is None else similarity(items)

    def similarity(self) -> Callable[[Tensor], Tensor | None] | None:
        """`similar` for many calls: what all of them need is computed once. None: there is none."""
        if type(self).similar is not Recommender.similar:
            return self.similar
        vectors = self.item_vectors()
        if vectors is None:
            return None
        unit = nn.functional.normalize(vectors, dim=1)  # (I, D)
        return lambda items: unit[items] @ unit.T  # (B, I)

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
        """(U, D), (I, D) and item bias (I,) if the score is their dot product plus bias; else None."""
        return None

    def user_factors(self, users: Tensor, history: History) -> Tensor | None:
        """(B, D) whose dot products with the item factors, plus bias, are `score(users, history)`; or None.

        Default: rows of `factors`; None for a family that reads histories, unless it folds them in here.
        """
        factors = None if self.reads_history else self.factors()
        return None if factors is None else factors[0][users]

    def predict(self, users: Tensor, items: Tensor) -> Tensor | None:
        """Predicted ratings on the scale of the fit, (B,), (B,) -> (B,); None if the family has none."""
        return None

    def contributions(self, user: int, history: History, item: int) -> Tensor | None:
        """What each item of a one-row `history` of distinct items adds to the `score` of `item`, (E,).

        They sum to the score. None if the score is not such a sum.
        """
        return None

    def explainer(self) -> "Explainer | None":
        """A function that explains many scores at once as `contributions` explains one; None if it would be slow."""
        return None

    def terms(self, user: int, item: int) -> dict[str, float] | None:
        """Named terms that sum to `score`, for families that read no history; else None."""
        return None


def pick(scores: Tensor, items: Tensor | None) -> Tensor:
    """Scores of `items` (B, C) from those of all items (B, I); all of them if `items` is None."""
    return scores if items is None else scores.gather(1, items)
