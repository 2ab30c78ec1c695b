"""RecVAE: Mult-VAE with a composite prior, user-specific β and alternating updates (Shenbin et al., WSDM 2020)."""

import copy
import math
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, Recommender, pick
from pipeline.models.multvae import (
    AutoencoderConfig,
    DenseRows,
    bagged,
    batches,
    drawn,
    histories,
    log_likelihood,
    thinned,
)
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, fit_by_gradient, seeded

N_LAYERS = 5
PRIOR = (3 / 20, 3 / 4, 1 / 10)
"""Weights of the standard normal, the posterior of the encoder of an epoch ago, and the wide normal."""
WIDE = 10.0
"""Log variance of the wide normal."""


class RecVaeConfig(AutoencoderConfig):
    """Hyperparameters of `RecVae`; the learning rate of the paper is 0.0005, for larger batches."""

    gamma: NonNegativeFloat = 0.005
    """Weight of a user's divergence from the prior, per item of the history."""
    encoder_steps: PositiveInt = 3
    """Steps of the encoder before each step of the decoder."""


class Encoder(nn.Module):
    """Histories to the mean and log variance of latent vectors; every layer sees the sum of all before."""

    def __init__(self, n_items: int, hidden_dim: int, embedding_dim: int):
        super().__init__()
        self.into = nn.EmbeddingBag(n_items, hidden_dim, mode="sum", include_last_offset=True)  # see `bagged`
        self.into_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(N_LAYERS - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_dim, eps=0.1) for _ in range(N_LAYERS))  # as the authors have it
        self.to_latent = nn.Linear(hidden_dim, 2 * embedding_dim)

    def reset_parameters(self) -> None:
        """Draw initial weights."""
        for layer in (*self.layers, *self.norms, self.to_latent):
            layer.reset_parameters()  # type: ignore[operator]
        nn.init.xavier_normal_(self.into.weight)
        nn.init.zeros_(self.into_bias)

    def forward(self, history: History | DenseRows, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, D) each; `kept` weighs the events."""
        first, *norms = self.norms
        hidden = first(functional.silu(bagged(self.into, history, kept) + self.into_bias))  # (B, H)
        before = hidden  # (B, H)
        for layer, norm in zip(self.layers, norms, strict=True):
            hidden = norm(functional.silu(layer(hidden) + before))  # (B, H)
            before = before + hidden
        mean, log_variance = self.to_latent(hidden).float().chunk(2, 1)
        return mean, log_variance


class RecVae(Recommender):
    """Histories to logits over all items, by a deep encoder and a linear decoder, which are updated alternately.

    A step is the encoder's or the decoder's; the other part gets no gradient and so no update. Which it is follows
    from `step`, a number on the host that is part of the state: a fit that goes on from a checkpoint keeps its turn.
    """

    family = "recvae"
    Config = RecVaeConfig
    reads_history = True
    for_tiny_data: ClassVar[dict[str, Any]] = {"learning_rate": 0.005}  # deep layers need smaller steps

    def __init__(self, config: RecVaeConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: RecVaeConfig = config
        self.encoder = Encoder(n_items, config.hidden_dim, config.embedding_dim)
        self.decoder = nn.Linear(config.embedding_dim, n_items)
        self.step = 0

    def get_extra_state(self) -> Tensor:
        """`step`, for `state_dict`."""
        return torch.tensor(self.step, device=self.decoder.bias.device)

    def set_extra_state(self, state: Tensor) -> None:
        """`step` from a `state_dict`."""
        self.step = int(state)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Learn to rebuild every history, the encoder from a part of it, the decoder from all of it."""
        self.to(context.device)
        history = histories(train, "recvae")
        with seeded(seed_of(context.seed, "init"), context.device):
            self.encoder.reset_parameters()
            self.decoder.reset_parameters()
        self.step = 0
        an_epoch = math.ceil(len(history) / (self.config.batch_size or len(history)))  # steps
        old: Encoder | None = None  # no part of the state: it is renewed when an epoch begins, and when a fit goes on
        of_encoder = True
        rows_of, static = batches(history, self.config, context)

        def turn() -> bool:
            """Whether the next step is the encoder's; the encoder of an epoch ago stays where it is in memory."""
            nonlocal old, of_encoder
            if old is None:
                old = copy.deepcopy(self.encoder).requires_grad_(False)
            elif self.step % an_epoch == 0:
                old.load_state_dict(self.encoder.state_dict())
            of_encoder = self.step % (self.config.encoder_steps + 1) < self.config.encoder_steps
            self.step += 1
            return of_encoder

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            assert old is not None
            if of_encoder:
                return self._encoder_loss(rows_of(batch), old, generator)
            return self._decoder_loss(rows_of(batch), generator)

        self.best_epoch = fit_by_gradient(self, len(history), loss, self.config, context, Steps(static, turn))

    def _encoder_loss(self, rows: History | DenseRows, old: Encoder, generator: torch.Generator) -> Tensor:
        """Negative likelihood and γ |history| times the divergence, with a decoder that gets no gradient."""
        mean, log_variance = self.encoder(rows, thinned(rows, self.config.dropout, generator))  # (B, D) each
        latent = drawn(mean, log_variance, generator)  # (B, D)
        with torch.no_grad():
            before = old(rows)  # (B, D) each
        divergence = (log_normal(latent, mean, log_variance) - log_prior(latent, *before)).sum(1)  # (B,): of one draw
        beta = self.config.gamma * rows.lengths  # (B,)
        logits = functional.linear(latent, self.decoder.weight.detach(), self.decoder.bias.detach())  # (B, I)
        return (beta * divergence).mean() - log_likelihood(logits.float(), rows)

    def _decoder_loss(self, rows: History | DenseRows, generator: torch.Generator) -> Tensor:
        """Negative likelihood of whole histories, with an encoder that gets no gradient."""
        with torch.no_grad():
            mean, log_variance = self.encoder(rows)  # (B, D) each
            latent = drawn(mean, log_variance, generator)  # (B, D)
        return -log_likelihood(self.decoder(latent).float(), rows)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Logits from the mean of the latent vector, (B, I) or (B, C)."""
        return pick(self.decoder(self.encoder(history.distinct())[0]).float(), items)

    def learnt_of_items(self) -> list[Tensor]:
        """Rows and biases of the decoder."""
        return [self.decoder.weight.detach(), self.decoder.bias.detach()]

    def item_vectors(self) -> Tensor:
        """Rows of the decoder, (I, D)."""
        return self.decoder.weight.detach()


def log_normal(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of independent normal distributions at `x`, number by number."""
    return -((x - mean).square() * torch.exp(-log_variance) + log_variance + math.log(2 * math.pi)) / 2


def log_prior(latent: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of the composite prior, (B, D): a mixture in every dimension, as the authors' code has it.

    `mean` and `log_variance` (B, D) are those of the encoder of an epoch ago.
    """
    zero, wide = torch.zeros_like(latent), torch.full_like(latent, WIDE)  # (B, D)
    parts = (log_normal(latent, zero, zero), log_normal(latent, mean, log_variance), log_normal(latent, zero, wide))
    weighed = [part + math.log(weight) for part, weight in zip(parts, PRIOR, strict=True)]
    return torch.stack(weighed).logsumexp(0)
