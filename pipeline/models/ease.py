"""EASE: a linear item-to-item model in closed form (Steck, "Embarrassingly Shallow Autoencoders", WWW 2019)."""

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.models.base import Explainer, FitContext, FitSize, ModelConfig, NotServable, Recommender, pick
from pipeline.models.ops.history_products import DENSE_ITEMS, gram_of, times
from pipeline.models.ops.inverses import inverse
from pipeline.models.ops.item_weights import entries
from pipeline.training.attributes import ItemAttributes
from pipeline.training.event_weights import WeightsConfig, history_of
from pipeline.training.interactions import History, Interactions


class EaseConfig(WeightsConfig):
    """Hyperparameters of `Ease`."""

    l2: PositiveFloat = 250.0
    """Regularisation: λ of the paper, added to the diagonal of the gram matrix."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """p of Steck (NeurIPS 2020, eq. 4): p / (1 - p) of an item's count is added to its λ, most for popular items."""
    user_exponent: Annotated[float, Field(ge=0, le=1)] = 0.0
    """A user has weight (items of the user) ** -user_exponent in the fit; 0: all users weigh 1."""
    rating_exponent: NonNegativeFloat = 0.0
    """An interaction counts as (rating / mean rating) ** rating_exponent in the fit; 0: all weigh 1."""
    item_exponent: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Scores are divided by (users of the item) ** item_exponent; values above 0 demote popular items."""
    max_side: PositiveInt = 30_000
    """Largest min(users, items) that is fitted: the time grows with its cube."""
    attribute_weight: NonNegativeFloat = 0.0
    """Above 0: each value of an attribute is one more row of X, of this weight, with the items that have it (Jeunen et
    al., RecSys 2020); with `[attributes]`. Items without events are then served. 1 is a good first value."""
    added_later: ClassVar[tuple[str, ...]] = (*WeightsConfig.added_later, "attribute_weight")


def is_dual(config: EaseConfig, n_users: int, n_items: int) -> bool:
    """Whether a matrix of users x users is solved."""
    return n_users < n_items and not (config.rating_exponent or config.weighs or config.attribute_weight)


class Ease(Recommender):
    """B = I - P / diag(P), P = (XᵀX + Λ)⁻¹ (eq. 8); the score is a user's binary history times B. An item
    adds nothing to its own score: with `seen = "allow"` a user's items are ranked by what goes with them.

    Λ is diagonal, and rows of X are scaled by s = sqrt(weight of the user); by default Λ = λI and s = 1. With
    rating_exponent, entries of X are powers of ratings, but histories are binary when serving. Where the config weighs
    interactions, entries of X and of histories are their weights.

    With `attribute_weight`, X has a row for each value of an attribute as well (Jeunen, Van Balen, Goethals,
    "Closed-Form Models for Collaborative Filtering with Side-Information", RecSys 2020): XᵀX becomes
    XᵀX + attribute_weight TᵀT, with T (A, I) binary.

    With fewer users than items P is never formed: by Woodbury's identity P = Λ⁻¹(I - XᵀV) with
    V = XP = (I + XΛ⁻¹Xᵀ)⁻¹ XΛ⁻¹, which takes a matrix of users x users. Both ways give the same scores.
    """

    family = "ease"
    Config = EaseConfig
    version = 3
    reads_history = True

    def __init__(self, config: EaseConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: EaseConfig = config
        self.dual = is_dual(config, n_users, n_items)
        self.scores_in_bulk = not self.dual and n_items > DENSE_ITEMS
        side = (n_users, n_items) if self.dual else (n_items, n_items)
        self.weights: Tensor
        self.diagonal: Tensor
        self.train_offsets: Tensor
        self.train_items: Tensor
        self.penalty: Tensor
        self.scale: Tensor
        self.register_buffer("weights", torch.zeros(0, side[1]))  # V (U, I) in dual form, else B (I, I)
        self.register_buffer("diagonal", torch.ones(n_items))  # diag(P), dual form
        self.register_buffer("penalty", torch.ones(n_items))  # diag(Λ)
        self.register_buffer("scale", torch.ones(n_users))  # s
        self.reach: Tensor
        self.register_buffer("reach", torch.ones(n_items))  # of scores
        self.register_buffer("train_offsets", torch.zeros(1, dtype=torch.long))  # X as compressed rows, dual form
        self.register_buffer("train_items", torch.zeros(0, dtype=torch.long))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Solve in closed form."""
        size = FitSize(self.n_users, self.n_items, len(train), context.device.type == "cuda", context.memory)
        if reason := self.refusal(self.config, size):
            raise NotServable(reason)
        if self.config.attribute_weight and context.attributes is None:
            raise NotServable("ease with attribute_weight needs attributes: set attributes.items in the recipe")
        self.to(context.device)
        history = history_of(train, self.config)
        weight = history.lengths.clamp(min=1).float() ** -self.config.user_exponent  # (U,)
        weight *= len(history.items) / weight[history.rows].sum().clamp(min=1e-9)  # counts stay as many
        self.scale = weight.clamp(min=1e-9).sqrt()
        values = self._values(train, history)  # (E,)
        history = replace(history, weights=None)  # they are in the values
        counts = torch.zeros_like(self.penalty).index_add_(0, history.items, weight[history.rows] * values**2)  # (I,)
        self.penalty = self.config.l2 + self.config.dropout / (1 - self.config.dropout) * counts
        self.reach = train.item_counts().clamp(min=1) ** -self.config.item_exponent
        if self.dual:
            self._fit_dual(history)
        else:
            self._fit_primal(history, values, context.attributes)

    def _values(self, train: Interactions, history: History) -> Tensor:
        """Entries of X before users are weighed, (E,), as the history has them; 1 where there is no rating."""
        if history.weights is not None:
            return history.weights
        rows = train.positives()
        if not self.config.rating_exponent:
            return torch.ones(len(history.items), device=rows.users.device)
        if len(rows) != len(history.items):
            raise NotServable("ease with rating_exponent needs one row per user and item; set use_weights")
        if rows.ratings is None or not (rows.ratings > 0).any():
            raise NotServable("ease with rating_exponent needs ratings above 0, and this data set has none")
        relative = rows.ratings / rows.ratings[rows.ratings > 0].mean()  # (E,)
        values = torch.where(relative.isnan(), 1.0, relative.clamp(min=0) ** self.config.rating_exponent)
        return values[torch.argsort(rows.users, stable=True)]

    @classmethod
    def refusal(cls, config: ModelConfig, size: FitSize) -> str | None:
        """More unknowns than `max_side`, or matrices that the memory does not hold."""
        assert isinstance(config, EaseConfig)
        with_attributes = bool(config.attribute_weight)
        side = size.items if with_attributes else min(size.users, size.items)
        if side > config.max_side:
            return (
                f"ease solves {'items' if with_attributes else 'min(users, items)'} = {side:,} unknowns at once; "
                f"max_side = {config.max_side:,}"
            )
        needed = cls.memory_needed(config, size)
        if size.memory is not None and needed > size.memory:
            return (
                f"ease would hold {needed / 1e9:.1f} GB of matrices ({size.users:,} users, {size.items:,} "
                f"items), and the limit is {size.memory / 1e9:.1f} GB; raise memory_limit, or set dataset.filter"
            )
        return None

    @classmethod
    def memory_needed(cls, config: EaseConfig, size: FitSize) -> int:
        """Bytes of float32 that a fit holds at its peak, with what LAPACK copies, and the copy that is saved."""
        if is_dual(config, size.users, size.items):
            return 4 * (3 * size.users * size.items + 3 * size.users**2)
        return 4 * (3 if size.on_cuda else 2) * size.items**2

    def _fit_primal(self, history: History, values: Tensor, attributes: ItemAttributes | None) -> None:
        plain = not (self.config.user_exponent or self.config.rating_exponent or self.config.weighs)
        if plain and self.weights.device.type == "cuda":
            gram = counts_together(history).mul_(self.scale[:1].square())  # (I, I): all users weigh the same
        else:
            gram = gram_of(history, self.scale, None if plain else values)  # (I, I)
        if attributes is not None and self.config.attribute_weight:
            rows = attributes.values.transposed()  # A rows of items
            gram += gram_of(rows, self.penalty.new_full((len(rows),), self.config.attribute_weight**0.5))
            self.reads_attributes = True
        gram.diagonal().add_(self.penalty)
        weights = inverse(gram)  # (I, I) = P
        weights.div_(-weights.diagonal().clone())  # column j divided by P[j, j]
        weights.fill_diagonal_(0)
        self.weights = weights

    def _fit_dual(self, history: History) -> None:
        scaled = history.dense().mul_(self.scale.unsqueeze(1))  # (U, I) = X
        right = scaled / self.penalty  # (U, I) = XΛ⁻¹
        if not (self.config.dropout or self.config.user_exponent) and right.device.type == "cuda":
            gram = counts_together(history.transposed()).mul_(self.scale[:1].square() / self.penalty[:1])  # (U, U)
        else:
            gram = history.sparse(self.scale[history.rows]) @ right.T  # (U, U)
        gram.diagonal().add_(1)
        self.weights = torch.cholesky_solve(right, torch.linalg.cholesky(gram))  # (U, I) = V
        self.diagonal = (1 - scaled.mul_(self.weights).sum(0)) / self.penalty  # (I,)
        self.train_offsets, self.train_items = history.offsets, history.items

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """x B, (B, I) or (B, C)."""
        history = self.weighed(history)
        if not self.dual:
            scores = times(history, self.weights, items)  # (B, I) or (B, C)
            return (
                scores.mul_(self.reach if items is None else self.reach[items]) if self.config.item_exponent else scores
            )
        x = history.dense()  # (B, I)
        x_p = torch.empty_like(x)  # (B, I) = x P
        own = self._of_the_fit(users, history)  # (B,)
        x_p[own] = self.weights[users[own]] / self.scale[users[own], None]  # V = XP
        others = (~own).nonzero().squeeze(1)
        if len(others):
            left = x[others] / self.penalty  # (B', I)
            overlap = (self._train.sparse(self.scale[self._train.rows]) @ left.T).T  # (B', U)
            x_p[others] = left - overlap @ self.weights
        return pick((x - x_p / self.diagonal) * self.reach, items)

    def contributions(self, user: int, history: History, item: int) -> Tensor:
        """B[history, item], (E,), on the scale of scores."""
        if not self.dual:
            parts = self.weights[history.items, item] * self.reach[item]
            return parts if history.weights is None else parts * history.weights
        train = History(self.train_offsets, self.train_items, self.n_items)
        overlap = torch.zeros_like(self.diagonal).index_add_(
            0, train.items, (self.scale * self.weights[:, item])[train.rows]
        )  # (I,) = column of XᵀV
        own = (history.items == item).float()  # (E,)
        row = own - (own - overlap[history.items]) / (self.penalty[history.items] * self.diagonal[item])
        return row * self.reach[item]

    def explainer(self) -> Explainer | None:
        """B[event, item] on the scale of scores; None in dual form, where B is not stored."""
        if self.dual:
            return None
        return lambda users, history, items: entries(self.weights, history, items) * self.reach[items[history.rows]]

    @property
    def _train(self) -> History:
        """Users of the fit, dual form."""
        return History(self.train_offsets, self.train_items, self.n_items)

    def _of_the_fit(self, users: Tensor, history: History) -> Tensor:
        """Whether a user's history is that of the fit, (B,) bool."""
        fitted = self._train[users.clamp(min=0)]
        same = (users >= 0) & (fitted.lengths == history.lengths)  # (B,)
        rows = same.nonzero().squeeze(1)
        ours, theirs = fitted[rows], history[rows]
        same[rows[theirs.rows[ours.items != theirs.items]]] = False
        return same

    def similar(self, items: Tensor) -> Tensor:
        """Rows of B: what one item in the history adds to every score, (B, I)."""
        if not self.dual:
            return self.weights[items] * self.reach
        holders = self._train.transposed()[items]  # (B rows) who has the item, few users each
        x_v = nn.functional.embedding_bag(
            holders.items,
            self.weights,
            holders.offsets,
            mode="sum",
            include_last_offset=True,
            per_sample_weights=self.scale[holders.items],
        )  # (B, I) = XᵀV
        similar = x_v / self.penalty[items, None] / self.diagonal * self.reach  # (B, I) = -P / diag(P), but for j = i
        similar[torch.arange(len(items), device=items.device), items] = 0.0
        return similar


def counts_together(history: History, tile: int = 8192) -> Tensor:
    """Number of users with both items, (I, I), on CUDA: exact, since bfloat16 holds 0 and 1 and float32 the sums."""
    gram = torch.zeros(history.n_items, history.n_items, device=history.items.device)
    for rows in torch.arange(len(history), device=history.items.device).split(tile):
        part = history[rows]
        x = torch.zeros(len(rows), history.n_items, dtype=torch.bfloat16, device=rows.device)  # (tile, I)
        x[part.rows, part.items] = 1
        gram += torch.mm(x.T, x, out_dtype=torch.float32)
    return gram
