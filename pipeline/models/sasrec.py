"""SASRec: self-attention over a user's history (Kang and McAuley, "Self-Attentive Sequential Recommendation", 2018)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, NotServable, Recommender, pick
from pipeline.models.ops.attention import Block, Dropout, GatedBlock
from pipeline.models.ops.pair_scores import short
from pipeline.models.ops.sequences import Pieces, latest, moments_of
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, TrainingConfig, fit_by_gradient, seeded

FILLED = 0.25
"""Share of real places of a padded batch from which CUDA computes padding too, and asks for no length."""


class SasRecConfig(TrainingConfig):
    """Hyperparameters of `SasRec`."""

    embedding_dim: PositiveInt = 64
    """Length of the item and position vectors."""
    blocks: PositiveInt = 2
    """Transformer blocks: attention and feed-forward."""
    heads: PositiveInt = 2
    """Attention heads; must divide embedding_dim."""
    block: Literal["plain", "ligr"] = "plain"
    """plain: x + f(norm(x)), layers with GELU. ligr: gated residuals x + σ(W x) f(norm(x)) and SwiGLU, as in eSASRec
    (2025, arXiv 2508.06450), which has half as many weights again."""
    max_length: PositiveInt = 200
    """Events that are read. Longer histories are cut into pieces in the fit, and served by their latest events."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of embeddings, and of the outputs of attention and layers."""
    loss: Literal["softmax", "sampled_softmax", "gbce"] = "softmax"
    """softmax: over all items; sampled_softmax: over the target and n_negatives; gbce: Petrov and Macdonald 2023."""
    n_negatives: PositiveInt = 256
    """Negatives of the sampled losses: uniform, drawn once per step."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """t of gbce: 0 is plain binary cross-entropy, 1 corrects all overconfidence due to sampling."""
    epochs: PositiveInt = 25
    """Largest number of epochs; exactly that many if there is no validation."""
    batch_size: NonNegativeInt = 32
    """Pieces of histories per step; each has up to max_length events, so small batches have many targets."""
    learning_rate: PositiveFloat = 0.001
    """Learning rate; the highest one of the schedule."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "cosine"
    """Learning-rate schedule, as for all gradient families."""
    patience: PositiveInt = 6
    """Validations without improvement after which the fit ends; next-item metrics are noisy."""

    added_later: ClassVar[tuple[str, ...]] = (*TrainingConfig.added_later, "block")


class SasRec(Recommender):
    """score(u, i) = <h, q_i>, where h is the last state of a causal transformer over the user's history.

    Item vectors q are shared by input and output. Blocks normalise before each part (Xiong et al. 2020). Events of
    one moment have no order; the fit shuffles them every time. eSASRec (RecSys 2025) is `block = "ligr"` with
    `loss = "sampled_softmax"`.
    """

    family = "sasrec"
    Config = SasRecConfig
    rows_of_state: ClassVar[Mapping[str, str]] = {"item.weight": "items"}
    needs_time = True
    reads_history = True

    def __init__(self, config: SasRecConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: SasRecConfig = config
        dim = config.embedding_dim
        if dim % config.heads:
            raise NotServable(f"sasrec: embedding_dim = {dim} can't be divided among heads = {config.heads}")
        self.item = nn.Embedding(n_items, dim)
        self.place = nn.Embedding(config.max_length, dim)
        kind = GatedBlock if config.block == "ligr" else Block
        self.blocks = nn.ModuleList(kind(dim, config.heads, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(dim)
        self.drop = Dropout(config.dropout)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit the prediction of every event from those before it."""
        if train.timestamps is None:
            raise NotServable("sasrec learns from the order of events, and rows of this data set have no time")
        self.to(context.device)
        pieces = Pieces.of(train.history(), self.config.max_length, moments_of(train))
        if not len(pieces):
            raise NotServable("sasrec learns from pairs of events, and no user of train has two")
        with seeded(seed_of(context.seed, "init"), context.device):
            self.apply(_start)

        static = context.device.type == "cuda" and float(pieces.length.float().mean()) >= FILLED * pieces.width

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            inputs, targets, real = pieces.batch(batch, generator)  # (B, L) each
            if static:
                return self._loss(self._states(inputs, real, padded=True), targets.flatten(), generator, real.flatten())
            states = self._states(inputs, real)  # (T, D)
            return self._loss(states, targets[real], generator)

        self.best_epoch = fit_by_gradient(self, len(pieces), loss, self.config, context, Steps(static))

    def _states(self, items: Tensor, real: Tensor, padded: bool = False) -> Tensor:
        """State after every real event, row by row, (B, L), (B, L) -> (T, D); `padded`: after every place, (B L, D).

        Padding comes last. It takes part only in attention, where causal masking hides it.
        """
        if padded:
            events, read = None, items.flatten()  # (B L,)
            at = self.place.weight[: real.shape[1]].repeat(len(real), 1)  # (B L, D)
        else:
            events = real.flatten().nonzero().squeeze(1)  # (T,)
            read, at = items.flatten()[events], self.place(events % real.shape[1])  # (T,), (T, D)
        states = self.drop(self.item(short(read)) * self.config.embedding_dim**0.5 + at)
        for block in self.blocks:
            states = block(states, events, real.shape)
        return self.norm(states)

    def _loss(self, states: Tensor, targets: Tensor, generator: torch.Generator, real: Tensor | None = None) -> Tensor:
        """Mean over the events, (T, D), (T,); a target among the items drawn doesn't count as a negative.

        With `real` (T,) only over those.
        """
        if self.config.loss == "softmax":
            asked = targets if real is None else targets.masked_fill(~real, -100)  # which counts for nothing
            return F.cross_entropy((states @ self.item.weight.T).float(), asked)
        n = min(self.config.n_negatives, self.n_items)
        drawn = torch.randint(self.n_items, (n,), device=states.device, generator=generator)  # (n,)
        positive = (states * self.item(targets)).sum(1).float()  # (T,)
        negative = (states @ self.item(drawn).T).float()  # (T, n)
        same = drawn == targets.unsqueeze(1)  # (T, n)
        if self.config.loss == "sampled_softmax":
            both = torch.cat([positive.unsqueeze(1), negative.masked_fill(same, -torch.inf)], 1)  # (T, 1 + n)
            return _mean(torch.logsumexp(both, 1) - positive, real)
        rate = n / max(self.n_items - 1, 1)  # α of the paper
        beta = rate * (self.config.calibration * (1 - 1 / rate) + 1 / rate)  # eq. 12
        losses = beta * F.softplus(-positive) + F.softplus(negative).masked_fill(same, 0.0).sum(1)
        return _mean(losses, real)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Of the state after the latest event; 0 without a history. (B, I) or (B, C)."""
        events, length = latest(history, self.config.max_length)  # (B, L), (B,)
        real = torch.arange(events.shape[1], device=length.device) < length.unsqueeze(1)  # (B, L)
        states = self._states(events, real)  # (T, D)
        some = length > 0  # (B,)
        last = states.new_zeros(len(length), states.shape[1])  # (B, D)
        last[some] = states[torch.cumsum(length, 0)[some] - 1]
        return pick(last @ self.item.weight.T, items)

    def learnt_of_items(self) -> list[Tensor]:
        """Vectors; they are also what the model reads of an item in a history."""
        return [self.item.weight.detach()]

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.item.weight.detach()


def _mean(losses: Tensor, real: Tensor | None) -> Tensor:
    """Of the real ones of (T,)."""
    return losses.mean() if real is None else (losses * real).sum() / real.sum()


def _start(module: nn.Module) -> None:
    """Small normal weights; biases 0, norms as torch makes them."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
