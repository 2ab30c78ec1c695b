"""Probabilistic matrix factorization of ratings (Salakhutdinov and Mnih, NIPS 2007)."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.interactions import History, Interactions
from pipeline.models.base import FitContext, NotServable, Recommender
from pipeline.rng import seed_of
from pipeline.training import TrainingConfig, fit_by_gradient, seeded


class PmfConfig(TrainingConfig):
    """Hyperparameters of `Pmf`."""

    embedding_dim: PositiveInt = 16
    """D of the paper."""
    epochs: PositiveInt = 15
    """Most epochs, or their number where there is no valid."""
    batch_size: NonNegativeInt = 512
    """Ratings a step; 0: all at once (never as a dense matrix)."""
    learning_rate: PositiveFloat = 0.005
    """At the start of the schedule."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """As for every gradient family."""
    l2: NonNegativeFloat = 0.1
    """λ of the paper: Gaussian priors on embeddings and biases, as a squared norm for every rating."""
    user_bias: bool = True
    """b_u: how far a user's ratings lie above the others'."""
    item_bias: bool = True
    """b_i: how far an item's ratings lie above the others'."""
    global_bias: bool = True
    """μ: starts from the mean rating and is learnt on; without it, predictions start from 0."""
    init: Literal["normal", "uniform"] = "normal"
    """Distribution that the embeddings start from."""
    init_std: PositiveFloat = 0.1
    """Of `normal`, with mean 0."""
    init_range: tuple[float, float] = (0.0, 0.1)
    """Of `uniform`: lowest and highest."""
    clip: bool = True
    """Keep predictions within the lowest and highest rating of the fit."""


class Pmf(Recommender):
    """rating(u, i) = <p_u, q_i> + b_u + b_i + μ, by squared error; ranks by the predicted rating.

    The loss of a batch is mean((r - r̂)² + l2 (|p_u|² + |q_i|² + b_u² + b_i²)) (eq. 4, a term a rating).
    """

    Config = PmfConfig
    needs_ratings = True

    def __init__(self, config: PmfConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: PmfConfig = config
        self.user = nn.Embedding(n_users, config.embedding_dim)
        self.item = nn.Embedding(n_items, config.embedding_dim)
        self.user_bias = nn.Embedding(n_users, 1) if config.user_bias else None
        self.item_bias = nn.Embedding(n_items, 1) if config.item_bias else None
        self.mean = nn.Parameter(torch.zeros(())) if config.global_bias else None
        self.range: Tensor
        self.register_buffer("range", torch.tensor([-torch.inf, torch.inf]))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Learn from the rows with a rating, positive or not."""
        if train.ratings is None:
            raise NotServable("pmf learns from ratings, and this data set has none")
        rows = train.rated()
        if not len(rows):
            raise NotServable("pmf learns from ratings, and no row of train has one")
        assert rows.ratings is not None
        ratings = rows.ratings  # (N,)
        self.to(context.device)
        self._start(ratings, seed_of(context.seed, "init"), context.device)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            users, items = rows.users[batch], rows.items[batch]  # (B,) each
            error = ratings[batch] - self._raw(users, items).float()  # (B,)
            if not self.config.l2:
                return error.square().mean()
            tables = [
                (self.user, users),
                (self.item, items),
                (self.user_bias, users),
                (self.item_bias, items),
            ]
            norms = [table(index).square().sum(1) for table, index in tables if table is not None]  # (B,) each
            return (error.square() + self.config.l2 * torch.stack(norms).sum(0)).mean()

        self.best_epoch = fit_by_gradient(self, len(rows), loss, self.config, context)

    def _start(self, ratings: Tensor, seed: int, device: torch.device) -> None:
        """Draw the embeddings; biases start from 0, μ from the mean rating."""
        with seeded(seed, device):
            for table in (self.user, self.item):
                if self.config.init == "uniform":
                    nn.init.uniform_(table.weight, *self.config.init_range)
                else:
                    nn.init.normal_(table.weight, std=self.config.init_std)
        for table in (self.user_bias, self.item_bias):
            if table is not None:
                nn.init.zeros_(table.weight)
        if self.mean is not None:
            self.mean.data.copy_(ratings.mean())
        self.range.copy_(torch.stack([ratings.min(), ratings.max()]))

    def _raw(self, users: Tensor, items: Tensor) -> Tensor:
        """Unclipped ratings of pairs, (B,), (B,) -> (B,)."""
        rating = (self.user(users) * self.item(items)).sum(1)  # (B,)
        for table, index in ((self.user_bias, users), (self.item_bias, items)):
            if table is not None:
                rating = rating + table(index).squeeze(1)
        return rating if self.mean is None else rating + self.mean

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings, (B,), (B,) -> (B,), kept within those of the fit."""
        rating = self._raw(users, items)  # (B,)
        return rating.clamp(self.range[0], self.range[1]) if self.config.clip else rating

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Unclipped ratings, so that the best items don't tie; (B, I) or (B, C)."""
        if items is not None:
            shape = items.shape  # (B, C)
            return self._raw(users.repeat_interleave(shape[1]), items.reshape(-1)).view(shape)
        scores = self.user.weight[users] @ self.item.weight.T  # (B, I)
        if self.user_bias is not None:
            scores = scores + self.user_bias.weight[users]
        if self.item_bias is not None:
            scores = scores + self.item_bias.weight.T
        return scores if self.mean is None else scores + self.mean

    def terms(self, user: int, item: int) -> dict[str, float]:
        """Mean, biases and dot product, in the unit of ratings."""
        user_bias, item_bias = self.user_biases(), self.item_biases()
        return {
            **({} if self.mean is None else {"mean": float(self.mean)}),
            **({} if user_bias is None else {"user bias": float(user_bias[user])}),
            **({} if item_bias is None else {"item bias": float(item_bias[item])}),
            "dot product": float(self.user_vectors()[user] @ self.item_vectors()[item]),
        }

    def user_vectors(self) -> Tensor:
        """(U, D)."""
        return self.user.weight.detach()

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.item.weight.detach()

    def user_biases(self) -> Tensor | None:
        """(U,)."""
        return None if self.user_bias is None else self.user_bias.weight.detach().squeeze(1)

    def item_biases(self) -> Tensor | None:
        """(I,)."""
        return None if self.item_bias is None else self.item_bias.weight.detach().squeeze(1)
