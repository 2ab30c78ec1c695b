"""LightGCN: embeddings smoothed over the graph of users and items (He et al., SIGIR 2020)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, NotServable, Recommender, pick
from pipeline.models.ops.pair_scores import row_scores
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, TrainingConfig, fit_by_gradient, seeded
from pipeline.training.negative_sampling import FILTER_FROM, NegativeSampler


class LightGcnConfig(TrainingConfig):
    """Hyperparameters of `LightGcn`."""

    embedding_dim: PositiveInt = 64
    """Length of the user and item vectors."""
    layers: NonNegativeInt = 3
    """Propagation steps over the graph; 0 is plain matrix factorization."""
    loss: Literal["bpr", "softmax"] = "softmax"
    """bpr: as in the paper; softmax: cross-entropy among the negatives by cosine / temperature."""
    temperature: PositiveFloat = 0.15
    """Temperature of the softmax loss."""
    n_negatives: PositiveInt = 128
    """Negatives per positive; 1 in the paper."""
    l2: NonNegativeFloat = 1e-4
    """Regularisation of the embeddings of each batch, before propagation."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the normal distribution of the initial embeddings."""
    epochs: PositiveInt = 60
    """Largest number of epochs; exactly that many if there is no validation."""
    batch_size: NonNegativeInt = 8192
    """Positives per step; each step propagates over the whole graph."""
    learning_rate: PositiveFloat = 0.01
    """Learning rate; the highest one of the schedule."""


class LightGcn(Recommender):
    """score(u, i) = <e_u, e_i>, where e is the mean of E, ÂE, …, ÂᴸE with Â = D^-½ A D^-½ (eq. 7 and 8).

    After the fit only the propagated vectors are used.
    """

    family = "lightgcn"
    Config = LightGcnConfig
    later_versions: ClassVar[Mapping[int, int]] = {FILTER_FROM: 2}

    def __init__(self, config: LightGcnConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: LightGcnConfig = config
        self.table = nn.Embedding(n_users + n_items, config.embedding_dim)  # E
        self.smoothed: Tensor
        self.register_buffer("smoothed", torch.zeros(n_users + n_items, config.embedding_dim))

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit on the positive rows; negatives are items without any row of the user."""
        self.to(context.device)
        with seeded(seed_of(context.seed, "init"), context.device):
            nn.init.normal_(self.table.weight, std=self.config.init_std)
        rows = train.positives()
        if not len(rows):
            raise NotServable("lightgcn learns from positive rows, and train has none")
        graph = _graph(rows)
        sampler = NegativeSampler(train)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            users, items = rows.users[batch], rows.items[batch]  # (B,) each
            negatives, real = sampler.draw(users, self.config.n_negatives, generator)  # (B, n), (B,)
            return self._loss(self._smooth(graph), users, items, negatives, real)

        validate = context.validate
        if validate is not None:
            context = replace(context, validate=lambda model: validate(model.smoothen(graph)))
        self.best_epoch = fit_by_gradient(self, len(rows), loss, self.config, context, Steps(static=True))
        self.smoothen(graph)

    def _smooth(self, graph: Tensor) -> Tensor:
        """Mean over the layers, (U + I, D)."""
        layer = total = self.table.weight
        for _ in range(self.config.layers):
            layer = _Propagate.apply(graph, layer)
            total = total + layer
        return total / (self.config.layers + 1)

    @torch.no_grad()
    def smoothen(self, graph: Tensor) -> "LightGcn":
        """Compute the served vectors from the current embeddings."""
        smooth = self._smooth(graph)  # (U + I, D)
        self.smoothed.copy_(F.normalize(smooth, dim=1) if self.config.loss == "softmax" else smooth)
        return self

    def _loss(self, smooth: Tensor, users: Tensor, items: Tensor, negatives: Tensor, real: Tensor) -> Tensor:
        places = torch.cat([items.unsqueeze(1), negatives], 1) + self.n_users  # (B, 1 + n)
        if self.config.loss == "softmax":
            unit = F.normalize(smooth, dim=1)  # (U + I, D)
            scores = row_scores(unit[users], unit, places) / self.config.temperature  # (B, 1 + n)
            mask = torch.where(real, 0.0, -torch.inf).unsqueeze(1)  # (B, 1)
            losses = torch.logsumexp(torch.cat([scores[:, :1], scores[:, 1:] + mask], 1), 1) - scores[:, 0]
        else:
            scores = row_scores(smooth[users], smooth, places)  # (B, 1 + n)
            losses = F.softplus(scores[:, 1:] - scores[:, :1]).mean(1) * real
        own = self.table(users).square().sum() + self.table(places[:, :2]).square().sum()
        return losses.mean() + self.config.l2 * own / (2 * len(users))

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Dot products of the smoothed vectors, (B, I) or (B, C)."""
        return pick(self.smoothed[users] @ self.smoothed[self.n_users :].T, items)

    def user_vectors(self) -> Tensor:
        """(U, D)."""
        return self.smoothed[: self.n_users]

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.smoothed[self.n_users :]

    def learnt_of_items(self) -> list[Tensor]:
        """Smoothed vectors."""
        return [self.item_vectors()]

    def factors(self) -> tuple[Tensor, Tensor, None]:
        """(U, D), (I, D), no bias."""
        return self.user_vectors(), self.item_vectors(), None


def _graph(rows: Interactions) -> Tensor:
    """Â of the distinct pairs, as sparse rows, (U + I, U + I); symmetric."""
    pairs = torch.unique(rows.users * rows.n_items + rows.items)  # (E,)
    users, items = pairs // rows.n_items, pairs % rows.n_items + rows.n_users  # (E,) each
    size = rows.n_users + rows.n_items
    edges = History.of(torch.cat([users, items]), torch.cat([items, users]), size, size)
    scale = edges.lengths.clamp(min=1).rsqrt()  # (U + I,)
    return edges.sparse(scale[edges.rows] * scale[edges.items])


class _Propagate(Function):
    """Â times a dense matrix, in float32; since Â is symmetric, so is what comes back.

    Autocast would hand on bfloat16, and cuSPARSE has no product of it with float32.
    """

    @staticmethod
    def forward(ctx: Any, graph: Tensor, dense: Tensor) -> Tensor:
        ctx.graph = graph
        with torch.autocast(dense.device.type, enabled=False):
            return graph @ dense.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        with torch.autocast(grads[0].device.type, enabled=False):
            return None, ctx.graph @ grads[0].float()
