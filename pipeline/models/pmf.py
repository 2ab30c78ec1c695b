"""Probabilistic matrix factorization of ratings (Salakhutdinov and Mnih, NIPS 2007)."""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, NotServable, Recommender
from pipeline.models.ops.rated_batches import batch_loss
from pipeline.models.ops.squared_error import Pairs
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, TrainingConfig, fit_by_gradient, seeded


class PmfConfig(TrainingConfig):
    """Hyperparameters of `Pmf`."""

    embedding_dim: PositiveInt = 16
    """Length of the user and item vectors: D of the paper."""
    epochs: PositiveInt = 15
    """Largest number of epochs; exactly that many if there is no validation."""
    batch_size: NonNegativeInt = 512
    """Ratings per step; 0: all at once, without a dense matrix."""
    learning_rate: PositiveFloat = 0.005
    """Learning rate at the start of the schedule."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Learning-rate schedule, as for all gradient families."""
    l2: NonNegativeFloat = 0.1
    """λ of the paper: Gaussian priors on embeddings and biases, as a squared norm per rating."""
    l2_bias: NonNegativeFloat | None = None
    """The same for biases only. Unset: as `l2`."""
    l2_per: Literal["rating", "row"] = "rating"
    """row: one such term per user or item, as in the paper; rating: one per rating, which regularises those with many
    ratings as much as those with few (Zhou et al., AAIM 2008)."""
    user_bias: bool = True
    """b_u: how far a user's ratings are above average."""
    item_bias: bool = True
    """b_i: how far an item's ratings are above average."""
    global_bias: bool = True
    """μ: starts at the mean rating and is learned; without it, predictions start at 0."""
    init: Literal["normal", "uniform"] = "normal"
    """Distribution of the initial embeddings."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of `normal`, which has mean 0."""
    init_range: tuple[float, float] = (0.0, 0.1)
    """Lowest and highest value of `uniform`."""
    clip: bool = True
    """Clip predictions to the lowest and highest rating of the fit."""


class Pmf(Recommender):
    """rating(u, i) = <p_u, q_i> + b_u + b_i + μ, by squared error; ranks by the predicted rating.

    The loss of a batch is mean((r - r̂)² + l2 (|p_u|² + |q_i|²) + l2_bias (b_u² + b_i²)) (eq. 4, a term a rating).
    """

    family = "pmf"
    Config = PmfConfig
    version = 2
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
        """Fit on the rows with a rating, positive or not."""
        if train.ratings is None:
            raise NotServable("pmf learns from ratings, and this data set has none")
        rows = train.rated()
        if not len(rows):
            raise NotServable("pmf learns from ratings, and no row of train has one")
        assert rows.ratings is not None
        ratings = rows.ratings  # (N,)
        self.to(context.device)
        self._start(ratings, seed_of(context.seed, "init"), context.device)
        priors = self._priors(rows)
        of_bias = self.config.l2 if self.config.l2_bias is None else self.config.l2_bias
        strengths = torch.tensor([self.config.l2, self.config.l2, of_bias, of_bias], device=context.device)  # (4,)
        few_kernels = context.device.type == "cuda" and self.config.l2_per == "rating"
        everything = None if self.config.batch_size else Pairs(rows.users, rows.items, self.n_users, self.n_items)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            if everything and len(batch) == len(rows):
                return self._loss_of_all(everything, ratings, priors)
            users, items = rows.users[batch], rows.items[batch]  # (B,) each
            if few_kernels:
                return self._loss_in_few_kernels(users, items, ratings[batch], strengths)
            losses = (ratings[batch] - self._raw(users, items).float()).square()  # (B,)
            for table, of_user, l2 in priors:
                index = users if of_user else items  # (B,)
                losses = losses + l2[index] * table(index).square().sum(1)
            return losses.mean()

        steps = Steps(static=everything is None)
        self.best_epoch = fit_by_gradient(self, len(rows), loss, self.config, self._logging_mse(context, rows), steps)

    def _loss_in_few_kernels(self, users: Tensor, items: Tensor, ratings: Tensor, l2: Tensor) -> Tensor:
        """The loss of a batch whose priors are terms of a rating, `l2` (4,); sums are in another order."""
        tables = (None if table is None else table.weight for table in (self.user_bias, self.item_bias))
        embeddings = self.user.weight, self.item.weight
        return batch_loss((users, items, ratings), l2, embeddings, (*tables, self.mean))

    def _loss_of_all(self, pairs: Pairs, ratings: Tensor, priors: list[tuple[nn.Embedding, bool, Tensor]]) -> Tensor:
        """The loss of all N rows, in their order, as one batch."""
        users, items = (f.float() for f in self._augmented())
        squares = pairs.squared_error(users, items, ratings)
        for table, of_user, l2 in priors:
            offsets = pairs.user_offsets if of_user else pairs.item_offsets
            squares = squares + (l2 * offsets.diff()) @ table.weight.square().sum(1)  # a term a rating
        return squares / len(ratings)

    def _augmented(self) -> tuple[Tensor, Tensor]:
        """(U, D + 2), (I, D + 2): their dot products are the ratings, with biases and mean (if there are any)."""
        users, items = [self.user.weight], [self.item.weight]
        of_user = [] if self.user_bias is None else [self.user_bias.weight]
        if self.mean is not None:
            of_user = [self.mean.expand(self.n_users, 1) + sum(of_user)]
        if of_user:
            users, items = [*users, *of_user], [*items, torch.ones_like(items[0][:, :1])]
        if self.item_bias is not None:
            users, items = [*users, torch.ones_like(users[0][:, :1])], [*items, self.item_bias.weight]
        return torch.cat(users, 1), torch.cat(items, 1)

    def _logging_mse(self, context: FitContext, rows: Interactions) -> FitContext:
        """The same context, but validations also log the squared error on train, without priors."""
        if context.validate is None:
            return context
        validate, log_epoch = context.validate, context.log
        at_validation: dict[str, float] = {}

        def measure(model: Recommender) -> float:
            total = torch.zeros((), dtype=torch.float64, device=rows.users.device)
            for part in torch.arange(len(rows), device=rows.users.device).split(1 << 18):  # bounded memory
                assert rows.ratings is not None
                total += (rows.ratings[part] - self._raw(rows.users[part], rows.items[part])).double().square().sum()
            at_validation["train_mse"] = float(total) / len(rows)
            return validate(model)

        def log(epoch: int, values: dict[str, float]) -> None:
            values |= at_validation  # in place: a checkpoint keeps it
            at_validation.clear()
            log_epoch(epoch, values)

        return replace(context, validate=measure, log=log)

    def _priors(self, rows: Interactions) -> list[tuple[nn.Embedding, bool, Tensor]]:
        """Tables that are held back, whether of users, and how strongly at each rating of a row, (U,) or (I,)."""
        of_bias = self.config.l2 if self.config.l2_bias is None else self.config.l2_bias
        sizes = ((rows.users, self.n_users), (rows.items, self.n_items))
        counts = [torch.bincount(index, minlength=n) for index, n in sizes]  # (U,), (I,)
        terms = [1 / n.clamp(min=1) if self.config.l2_per == "row" else torch.ones_like(n).float() for n in counts]
        tables = [(self.user, True, self.config.l2), (self.item, False, self.config.l2)]
        tables += [(self.user_bias, True, of_bias), (self.item_bias, False, of_bias)]
        of = {True: terms[0], False: terms[1]}
        return [(table, of_user, l2 * of[of_user]) for table, of_user, l2 in tables if table is not None and l2]

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

    def factors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(U, D + 1), (I, D + 1) and the items' biases."""
        users, items = (f.detach() for f in self._augmented())
        if self.item_bias is None:
            return users, items, None
        return users[:, :-1].contiguous(), items[:, :-1].contiguous(), self.item_biases()

    def user_vectors(self) -> Tensor:
        """(U, D)."""
        return self.user.weight.detach()

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.item.weight.detach()

    def learnt_of_items(self) -> list[Tensor]:
        """Vectors and biases."""
        return [table.weight.detach() for table in (self.item, self.item_bias) if table is not None]

    def user_biases(self) -> Tensor | None:
        """(U,)."""
        return None if self.user_bias is None else self.user_bias.weight.detach().squeeze(1)

    def item_biases(self) -> Tensor | None:
        """(I,)."""
        return None if self.item_bias is None else self.item_bias.weight.detach().squeeze(1)
