"""Bayesian probabilistic matrix factorization by Gibbs sampling (Salakhutdinov and Mnih, ICML 2008)."""

import math
import time

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from pipeline.core.console import log
from pipeline.core.seeding import generator, seed_of
from pipeline.models.base import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.ops.least_squares import TILE, by_length
from pipeline.training.interactions import History, Interactions

MOST_PRECISE = 100.0
"""Largest precision of a rating that is drawn, in units of 1 / variance: tiny data can be fitted exactly."""


class BpmfConfig(ModelConfig):
    """Hyperparameters of `Bpmf`; the regularisation is drawn from the posterior."""

    embedding_dim: PositiveInt = 20
    """Length of the user and item vectors: D of the paper, without the bias."""
    epochs: PositiveInt = 100
    """Sweeps of the sampler. Each draws every user, every item and the hyperparameters once."""
    burn_in: NonNegativeInt = 10
    """Sweeps before the first sample that is kept."""
    samples: PositiveInt = 30
    """Samples to keep, evenly spaced after `burn_in`; each has (users + items) · (embedding_dim + 1) numbers."""
    patience: PositiveInt = 5
    """Validations without improvement after which the fit ends."""
    validate_every: PositiveInt = 10
    """Sweeps between validations."""


class Side:
    """The ratings of all users, or of all items, and their sampled factors."""

    def __init__(self, own: Tensor, other: Tensor, ratings: Tensor, n_own: int, n_other: int, dim: int):
        order = torch.argsort(own, stable=True)
        self.history, self.ratings = History.of(own, other, n_own, n_other), ratings[order]  # (N,)
        self.rows = ratings.new_zeros(n_own, dim + 1)  # (n, D + 1): factors and bias

    def draw(self, other: "Side", noise: float, random: torch.Generator, rng: np.random.Generator) -> None:
        """New rows from their conditional distribution (eq. 11 to 13), grouped by similar length.

        The bias is one more factor, whose partner on the other side is 1; the other side's bias leaves the ratings.
        """
        mean, precision = hyperparameters(self.rows, rng)  # (K,), (K, K); K = D + 1
        ones = torch.ones_like(other.rows[:, :1])
        partners, biases = torch.cat([other.rows[:, :-1], ones], 1), other.rows[:, -1]  # (m, K), (m,)
        lengths, dim = self.history.lengths, partners.shape[1]
        for chosen in by_length(lengths, max(1, TILE // 8 // dim**2)):  # (C,)
            a = precision.repeat(len(chosen), 1, 1)  # (C, K, K)
            b = (precision @ mean).repeat(len(chosen), 1)  # (C, K)
            positions = torch.arange(int(lengths[chosen[-1]]), device=mean.device)
            for at in positions.split(max(1, TILE // 8 // (dim * len(chosen)))) if len(positions) else ():  # (L,)
                real = at < lengths[chosen, None]  # (C, L)
                entries = torch.where(real, self.history.offsets[chosen, None] + at, 0)  # (C, L)
                index = self.history.items[entries]  # (C, L)
                h = partners[index] * real[:, :, None]  # (C, L, K)
                a.baddbmm_(h.transpose(1, 2), h * noise)
                b += noise * torch.einsum("clk,cl->ck", h, self.ratings[entries] - biases[index])
            factor = torch.linalg.cholesky(a)  # (C, K, K)
            normal = torch.randn(len(chosen), dim, 1, generator=random, device=mean.device)
            spread = torch.linalg.solve_triangular(factor.mT, normal, upper=True)
            self.rows[chosen] = (torch.cholesky_solve(b[:, :, None], factor) + spread).squeeze(2)


def hyperparameters(rows: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mean (K,) and precision (K, K) of rows (n, K), drawn from their Gauss-Wishart posterior (eq. 14).

    Prior as in the paper, section 3.4: mean 0 with β = 2, W = I, ν = K.
    """
    (n, dim), strength = rows.shape, 2.0
    average = rows.double().mean(0)  # (K,)
    off = rows.double() - average  # (n, K)
    inverse = off.T @ off + strength * n / (strength + n) * average.outer(average)  # (K, K), of the scale less I
    precision = wishart(np.linalg.inv(np.eye(dim) + inverse.cpu().numpy()), dim + n, rng)  # (K, K)
    spread = np.linalg.solve(np.linalg.cholesky((strength + n) * precision).T, rng.standard_normal(dim))  # (K,)
    mean = n / (strength + n) * average + torch.from_numpy(spread).to(rows.device)
    return mean.to(rows.dtype), torch.from_numpy(precision).to(rows)


def wishart(scale: np.ndarray, freedom: int, rng: np.random.Generator) -> np.ndarray:
    """A draw of W(scale, freedom), (K, K), by Bartlett's decomposition (1933)."""
    dim = len(scale)
    lower = np.tril(rng.standard_normal((dim, dim)), -1)
    lower[np.diag_indices(dim)] = np.sqrt(rng.chisquare(freedom - np.arange(dim)))
    root = np.linalg.cholesky(scale) @ lower
    return root @ root.T


class Bpmf(Recommender):
    """rating(u, i) = mean of <p_u, q_i> + b_u + b_i + μ over samples of the posterior; ranks by the rating.

    The precision of ratings is drawn as well, with a flat prior. An average over samples is not a dot product of D
    numbers, so a user's vector concatenates those of all samples.
    """

    family = "bpmf"
    Config = BpmfConfig
    needs_ratings = True
    samples = True

    def __init__(self, config: BpmfConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: BpmfConfig = config
        width = config.samples * config.embedding_dim
        self.users: Tensor
        self.items: Tensor
        self.biases_of_users: Tensor
        self.biases_of_items: Tensor
        self.mean: Tensor
        self.range: Tensor
        self.register_buffer("users", torch.zeros(n_users, width))
        self.register_buffer("items", torch.zeros(n_items, width))
        self.register_buffer("biases_of_users", torch.zeros(n_users))  # sums over samples, as the products of vectors
        self.register_buffer("biases_of_items", torch.zeros(n_items))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("range", torch.tensor([-torch.inf, torch.inf]))
        self.register_buffer("kept", torch.zeros((), dtype=torch.long))
        self.kept: Tensor

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Sample; with `context.epochs` exactly so many sweeps, else guided by `context.validate`."""
        if train.ratings is None or not len(train.rated()):
            raise NotServable("bpmf learns from ratings, and this data has none")
        rows = train.rated()
        assert rows.ratings is not None
        needed = 4 * (self.users.numel() + self.items.numel())
        if context.memory is not None and needed > context.memory:
            raise NotServable(f"bpmf would keep {needed:,} bytes of samples; lower samples or embedding_dim")
        self.to(context.device)
        for buffer in self.buffers():
            buffer.zero_()
        self.mean.copy_(rows.ratings.mean())
        spread = rows.ratings.std(correction=0).clamp(min=1e-6)
        self.range.copy_(torch.stack([rows.ratings.min(), rows.ratings.max()]))
        rng = generator(context.seed, "bpmf hyperparameters")
        random = torch.Generator(context.device).manual_seed(seed_of(context.seed, "bpmf"))
        scaled, dim = (rows.ratings - self.mean) / spread, self.config.embedding_dim
        users = Side(rows.users, rows.items, scaled, self.n_users, self.n_items, dim)
        items = Side(rows.items, rows.users, scaled, self.n_items, self.n_users, dim)
        for side in (users, items):
            side.rows.normal_(0, 0.1, generator=random)
            side.rows[:, -1] = 0
        last = context.epochs or self.config.epochs
        wanted = self._sweeps_to_keep(self.config.epochs)
        noise, best, waited = 1.0, -math.inf, 0
        validate = context.validate if context.epochs is None else None
        for sweep in range(1, last + 1):
            items.draw(users, noise, random, rng)
            users.draw(items, noise, random, rng)
            squares = float(self._squares(users, items))
            noise = min(rng.chisquare(len(rows)) / max(squares, 1e-12), MOST_PRECISE)
            if sweep in wanted:
                self._keep(spread * users.rows, items.rows, spread)
            values = {"loss": float(spread) ** 2 * squares / len(rows)}
            late = context.deadline is not None and time.monotonic() > context.deadline
            if validate and self.kept and (sweep % self.config.validate_every == 0 or sweep == last or late):
                values["valid"] = float(validate(self))
                waited += 1
                if values["valid"] > best:
                    best, waited = values["valid"], 0
            context.log(sweep, values)
            if (late or waited >= self.config.patience) and self.kept:
                context.cut_short = late and sweep < last
                log.warning("the fit ended after sweep %d of %d", sweep, last)
                self.best_epoch = sweep  # its state is that of all samples so far
                break
        else:
            self.best_epoch = last
        if not self.kept:  # a refit of fewer sweeps than burn_in
            self._keep(spread * users.rows, items.rows, spread)
        if not bool(self.users.isfinite().all() and self.items.isfinite().all()):
            raise NotServable("a draw is no longer finite")

    def _sweeps_to_keep(self, epochs: int) -> set[int]:
        """Evenly spaced after burn-in, the last one among them."""
        after = max(1, epochs - self.config.burn_in)
        n = min(self.config.samples, after)
        return {epochs - round(k * after / n) for k in range(n)}

    def _keep(self, users: Tensor, items: Tensor, spread: Tensor) -> None:
        """Add a sample: users, (U, D + 1), in the unit of ratings already, items, (I, D + 1), not yet."""
        dim = self.config.embedding_dim
        place = slice(int(self.kept) * dim, int(self.kept + 1) * dim)
        self.users[:, place], self.items[:, place] = users[:, :-1], items[:, :-1]
        self.biases_of_users += users[:, -1]
        self.biases_of_items += spread * items[:, -1]
        self.kept += 1

    @staticmethod
    def _squares(users: Side, items: Side) -> Tensor:
        """Squared errors of this sweep's rows on train, a scalar in float64."""
        total = torch.zeros((), dtype=torch.float64, device=users.rows.device)
        chunks = (t.split(1 << 18) for t in (users.history.rows, users.history.items, users.ratings))
        for u, i, ratings in zip(*chunks, strict=True):
            p, q = users.rows[u], items.rows[i]  # (C, D + 1) each
            guess = (p[:, :-1] * q[:, :-1]).sum(1) + p[:, -1] + q[:, -1]  # (C,)
            total += (ratings - guess).double().square().sum()
        return total

    def predict(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings, (B,), (B,) -> (B,), kept within those of the fit."""
        chunks = zip(users.split(1 << 14), items.split(1 << 14), strict=True)  # a row is wide
        dots = torch.cat([(self.users[u] * self.items[i]).sum(1) for u, i in chunks])  # (B,)
        rating = (dots + self.biases_of_users[users] + self.biases_of_items[items]) / self.kept + self.mean  # (B,)
        return rating.clamp(self.range[0], self.range[1])

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Unclipped ratings, so that the best items don't tie; (B, I) or (B, C)."""
        own, theirs, bias = self.factors()
        if items is None:
            return own[users] @ theirs.T + bias
        return torch.einsum("bk,bck->bc", own[users], theirs[items]) + bias[items]

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U, samples · D + 1), (I, samples · D + 1) and the items' biases."""
        of_user = self.biases_of_users / self.kept + self.mean  # (U,)
        users = torch.cat([self.users / self.kept, of_user[:, None]], 1)
        return users, torch.cat([self.items, torch.ones_like(self.items[:, :1])], 1), self.item_biases()

    def user_vectors(self) -> Tensor:
        """(U, samples · D)."""
        return self.users

    def item_vectors(self) -> Tensor:
        """(I, samples · D)."""
        return self.items

    def learnt_of_items(self) -> list[Tensor]:
        """Vectors of all samples, and biases."""
        return [self.items, self.biases_of_items]

    def user_biases(self) -> Tensor:
        """(U,)."""
        return self.biases_of_users / self.kept

    def item_biases(self) -> Tensor:
        """(I,)."""
        return self.biases_of_items / self.kept
