"""Mult-VAE: a variational autoencoder of whole histories (Liang et al., WWW 2018)."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.interactions import History, Interactions
from pipeline.models.base import FitContext, NotServable, Recommender, pick
from pipeline.rng import seed_of
from pipeline.training import TrainingConfig, fit_by_gradient, seeded


class MultVaeConfig(TrainingConfig):
    """Hyperparameters of `MultVae`."""

    hidden_dim: PositiveInt = 600
    """Width of the layer between items and the latent vector, on both sides."""
    embedding_dim: PositiveInt = 200
    """Length of the latent vector."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a history that is hidden from the encoder."""
    beta: NonNegativeFloat = 0.2
    """Weight of the divergence from the prior, reached at the end of the annealing."""
    anneal_steps: NonNegativeInt = 2000
    """Steps over which the weight of the divergence climbs from 0 to beta."""
    epochs: PositiveInt = 100
    """Most epochs, or their number where there is no valid."""
    batch_size: NonNegativeInt = 100
    """Users a step; 500 in the paper, of a hundred thousand users."""
    learning_rate: PositiveFloat = 0.001
    """Of the schedule."""
    patience: PositiveInt = 10
    """Validations without a better figure after which the fit ends; epochs are few steps here."""


class MultVae(Recommender):
    """Histories, scaled to length 1, to logits over all items; the loss is eq. 5 with β annealed (sec. 2.2.2)."""

    Config = MultVaeConfig
    reads_history = True

    def __init__(self, config: MultVaeConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: MultVaeConfig = config
        # the first layer of the encoder as bags of rows: a history is sparse
        self.into = nn.EmbeddingBag(n_items, config.hidden_dim, mode="sum", include_last_offset=True)
        self.into_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.to_latent = nn.Linear(config.hidden_dim, 2 * config.embedding_dim)
        self.from_latent = nn.Linear(config.embedding_dim, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, n_items)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # of the annealing; kept by checkpoints

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Learn to rebuild every history from a part of it."""
        self.to(context.device)
        history = train.history().distinct()
        users = torch.nonzero(history.lengths).flatten()  # (N,)
        if not len(users):
            raise NotServable("multvae learns from histories, and no user of train has one")
        history = history[users]
        with seeded(seed_of(context.seed, "init"), context.device):
            for layer in (self.into, self.to_latent, self.from_latent, self.out):
                nn.init.xavier_normal_(layer.weight)
            for bias in (self.to_latent.bias, self.from_latent.bias, self.out.bias, self.into_bias):
                nn.init.trunc_normal_(bias, std=0.001)
        self.steps.zero_()

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            rows = history[batch]
            kept = torch.rand(len(rows.items), device=batch.device, generator=generator) >= self.config.dropout  # (E,)
            mean, log_variance = self._encode(rows, kept / (1 - self.config.dropout))  # (B, D) each
            noise = torch.randn(mean.shape, device=batch.device, generator=generator)  # (B, D)
            logits = self._decode(mean + noise * torch.exp(log_variance / 2))  # (B, I)
            log_p = logits - logits.logsumexp(1, keepdim=True)  # (B, I)
            likelihood = log_p[rows.rows, rows.items].sum() / len(batch)
            divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
            self.steps += 1
            climbed = (self.steps / max(self.config.anneal_steps, 1)).clamp(max=1.0)
            return self.config.beta * climbed * divergence - likelihood

        self.best_epoch = fit_by_gradient(self, len(users), loss, self.config, context)

    def _encode(self, history: History, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent vectors, (B, D) each; `kept` (E,) weighs the events."""
        weights = history.lengths.clamp(min=1).rsqrt()[history.rows]  # (E,): rows of length 1
        weights = weights if kept is None else weights * kept
        hidden = self.into(history.items, history.offsets, per_sample_weights=weights.to(self.into.weight.dtype))
        latent = self.to_latent(torch.tanh(hidden + self.into_bias))  # (B, 2 D)
        mean, log_variance = latent.float().chunk(2, 1)
        return mean, log_variance

    def _decode(self, latent: Tensor) -> Tensor:
        """(B, D) -> (B, I)."""
        return self.out(torch.tanh(self.from_latent(latent))).float()

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Logits from the mean of the latent vector, (B, I) or (B, C)."""
        return pick(self._decode(self._encode(history.distinct())[0]), items)

    def item_vectors(self) -> Tensor:
        """Rows of the last layer, (I, hidden_dim)."""
        return self.out.weight.detach()
