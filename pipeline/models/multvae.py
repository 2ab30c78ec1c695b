"""Mult-VAE: a variational autoencoder of whole histories (Liang et al., WWW 2018)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, NotServable, Recommender, pick
from pipeline.training.event_weights import WeightsConfig, history_of
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, TrainingConfig, fit_by_gradient, seeded

DENSE_CELLS = 1 << 27
"""Users times items of a step, up to which CUDA has its histories dense: half a GB a matrix."""


class AutoencoderConfig(TrainingConfig):
    """Hyperparameters of all autoencoders of histories."""

    hidden_dim: PositiveInt = 600
    """Width of the layers between items and the latent vector."""
    embedding_dim: PositiveInt = 200
    """Length of the latent vector."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a history that is hidden from the encoder during the fit."""
    epochs: PositiveInt = 100
    """Largest number of epochs; exactly that many if there is no validation."""
    batch_size: NonNegativeInt = 100
    """Users per step; 500 in the papers, for a hundred thousand users."""
    learning_rate: PositiveFloat = 0.001
    """Learning rate; the highest one of the schedule."""
    patience: PositiveInt = 10
    """Validations without improvement after which the fit ends; an epoch is only a few steps."""


class MultVaeConfig(AutoencoderConfig, WeightsConfig):
    """Hyperparameters of `MultVae`."""

    beta: NonNegativeFloat = 0.2
    """Weight of the divergence from the prior, reached at the end of annealing."""
    anneal_steps: NonNegativeInt = 2000
    """Steps over which the weight of the divergence rises from 0 to beta."""
    added_later: ClassVar[tuple[str, ...]] = (*AutoencoderConfig.added_later, *WeightsConfig.added_later)


class MultVae(Recommender):
    """Histories, scaled to length 1, to logits over all items; the loss is eq. 5 with β annealed (sec. 2.2.2).

    Where the config weighs interactions, histories have their weights, in the loss as well.
    """

    family = "multvae"
    Config = MultVaeConfig
    reads_history = True

    def __init__(self, config: MultVaeConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: MultVaeConfig = config
        self.into = nn.EmbeddingBag(n_items, config.hidden_dim, mode="sum", include_last_offset=True)  # see `bagged`
        self.into_bias = nn.Parameter(torch.zeros(config.hidden_dim))
        self.to_latent = nn.Linear(config.hidden_dim, 2 * config.embedding_dim)
        self.from_latent = nn.Linear(config.embedding_dim, config.hidden_dim)
        self.out = nn.Linear(config.hidden_dim, n_items)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # of the annealing; kept by checkpoints

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit the reconstruction of every history from a part of it."""
        self.to(context.device)
        history = histories(train, "multvae", self.config)
        with seeded(seed_of(context.seed, "init"), context.device):
            for layer in (self.into, self.to_latent, self.from_latent, self.out):
                nn.init.xavier_normal_(layer.weight)
            for bias in (self.to_latent.bias, self.from_latent.bias, self.out.bias, self.into_bias):
                nn.init.trunc_normal_(bias, std=0.001)
        self.steps.zero_()

        rows_of, static = batches(history, self.config, context)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            rows = rows_of(batch)
            mean, log_variance = self._encode(rows, thinned(rows, self.config.dropout, generator))  # (B, D) each
            logits = self._decode(drawn(mean, log_variance, generator))  # (B, I)
            divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
            self.steps += 1
            climbed = (self.steps / max(self.config.anneal_steps, 1)).clamp(max=1.0)
            return self.config.beta * climbed * divergence - log_likelihood(logits, rows)

        self.best_epoch = fit_by_gradient(self, len(history), loss, self.config, context, Steps(static))

    def _encode(self, history: "History | DenseRows", kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent vectors, (B, D) each; `kept` weighs the events."""
        latent = self.to_latent(torch.tanh(bagged(self.into, history, kept) + self.into_bias))  # (B, 2 D)
        mean, log_variance = latent.float().chunk(2, 1)
        return mean, log_variance

    def _decode(self, latent: Tensor) -> Tensor:
        """(B, D) -> (B, I)."""
        return self.out(torch.tanh(self.from_latent(latent))).float()

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Logits from the mean of the latent vector, (B, I) or (B, C)."""
        return pick(self._decode(self._encode(self.weighed(history).unrepeated())[0]), items)

    def learnt_of_items(self) -> list[Tensor]:
        """Rows and biases of the last layer."""
        return [self.out.weight.detach(), self.out.bias.detach()]

    def item_vectors(self) -> Tensor:
        """Rows of the last layer, (I, hidden_dim)."""
        return self.out.weight.detach()


def histories(train: Interactions, family: str, config: WeightsConfig | None = None) -> History:
    """The distinct items of every user who has any, with the weights of `config`; NotServable if there are none."""
    history = (train.history() if config is None else history_of(train, config)).unrepeated()
    users = torch.nonzero(history.lengths).flatten()  # (N,)
    if not len(users):
        raise NotServable(f"{family} learns from histories, and no user of train has one")
    return history[users]


@dataclass(frozen=True)
class DenseRows:
    """B histories of distinct items as a matrix: its shape, unlike theirs, is the same in every step."""

    x: Tensor  # (B, I), 1 or the weight where the user has the item, else 0
    lengths: Tensor  # (B,) number of items; with weights the squared length of the row

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, history: History) -> Callable[[Tensor], "DenseRows"]:
        """A function of row indices (B,), which asks the device for nothing."""
        places = torch.arange(max(int(history.lengths.max()), 1), device=history.items.device)  # (W,)

        def rows(batch: Tensor) -> DenseRows:
            lengths = history.lengths[batch]  # (B,)
            real = places < lengths.unsqueeze(1)  # (B, W)
            events = (history.offsets[batch].unsqueeze(1) + places).masked_fill(~real, 0)  # (B, W)
            items = history.items[events].masked_fill(~real, history.n_items)  # (B, W)
            x = torch.zeros(len(batch), history.n_items + 1, device=batch.device)
            if history.weights is None:
                return cls(x.scatter_(1, items, 1.0)[:, :-1], lengths)
            x = x.scatter_(1, items, history.weights[events])[:, :-1]
            return cls(x, x.square().sum(1))

        return rows


def batches(
    history: History, config: AutoencoderConfig, context: FitContext
) -> tuple[Callable[[Tensor], "History | DenseRows"], bool]:
    """What gives the histories of a step, and whether their shapes never change (on CUDA, where memory allows)."""
    cells = (config.batch_size or len(history)) * history.n_items
    if context.device.type != "cuda" or cells > DENSE_CELLS:
        return history.__getitem__, False
    return DenseRows.of(history), True


def thinned(history: History | DenseRows, dropout: float, generator: torch.Generator) -> Tensor:
    """Weights of the events of which a random share `dropout` is hidden, (E,) or (B, I); their mean is 1."""
    shape = history.x.shape if isinstance(history, DenseRows) else (len(history.items),)
    kept = torch.rand(shape, device=history.lengths.device, generator=generator) >= dropout
    return kept / (1 - dropout)


def bagged(layer: nn.EmbeddingBag, history: History | DenseRows, kept: Tensor | None = None) -> Tensor:
    """A dense first layer over histories scaled to length 1, (B, H), as bags of its rows: a history is sparse.

    `kept` weighs the events, after the scaling.
    """
    if isinstance(history, DenseRows):
        x = history.x * _unit(history.lengths).unsqueeze(1)  # (B, I)
        return (x if kept is None else x * kept) @ layer.weight
    if history.weights is None:
        weights = history.lengths.clamp(min=1).rsqrt()[history.rows]  # (E,)
    else:
        size = history.weights.new_zeros(len(history)).index_add_(0, history.rows, history.weights.square())  # (B,)
        weights = _unit(size)[history.rows] * history.weights  # (E,)
    weights = weights if kept is None else weights * kept
    return layer(history.items, history.offsets, per_sample_weights=weights.to(layer.weight.dtype))


def _unit(size: Tensor) -> Tensor:
    """Factor that gives rows of this squared length (B,) the length 1; 1 for empty rows."""
    return torch.where(size > 0, size, 1).rsqrt()


def drawn(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """A latent vector a row from its normal distribution, (B, D), through which gradients pass."""
    noise = torch.randn(mean.shape, device=mean.device, generator=generator)  # (B, D)
    return mean + noise * torch.exp(log_variance / 2)


def log_likelihood(logits: Tensor, history: History | DenseRows) -> Tensor:
    """Multinomial log-likelihood of the histories given logits (B, I), up to a constant; the mean of the rows."""
    log_p = logits - logits.logsumexp(1, keepdim=True)  # (B, I)
    if isinstance(history, DenseRows):
        return (log_p * history.x).sum() / len(history)
    of_events = log_p[history.rows, history.items]  # (E,)
    return (of_events if history.weights is None else of_events * history.weights).sum() / len(history)
