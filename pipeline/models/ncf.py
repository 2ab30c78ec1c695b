"""Neural collaborative filtering: GMF, MLP and NeuMF (He et al., WWW 2017)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, Recommender
from pipeline.models.ops.pair_scores import short
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Steps, fit_by_gradient, seeded
from pipeline.training.negative_sampling import FILTER_FROM, Negatives, NegativeSampler
from pipeline.training.optimizers import TrainingConfig

BLOCK = 1 << 23  # numbers in the widest layer while scoring: 32 MB of float32


class NcfConfig(TrainingConfig):
    """Hyperparameters of `Ncf`."""

    variant: Literal["gmf", "mlp", "neumf"] = "neumf"
    """Product of the embeddings, MLP over both, or both: gmf, mlp, neumf."""
    embedding_dim: PositiveInt = 8
    """Length of the user and item vectors, in each of the two towers of neumf."""
    layers: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 32)
    """Widths of the hidden layers of the MLP, which reads the concatenated embeddings."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout after every hidden layer."""
    n_negatives: PositiveInt = 4
    """Negatives per positive."""
    negatives: Negatives = "fresh"
    """fresh: drawn in every epoch; static: drawn once."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Negatives are drawn with weight popularity ** alpha; 0 is uniform."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the normal distribution of the initial embeddings; 1 in torch."""
    epochs: PositiveInt = 30
    """Largest number of epochs; exactly that many if there is no validation."""
    batch_size: NonNegativeInt = 4096
    """Positives and negatives per step; 0: all at once."""
    learning_rate: PositiveFloat = 0.003
    """Learning rate of the optimizer."""

    pretrain: bool = False
    """neumf: first fit gmf and mlp separately with the same settings, and start from their weights."""
    pretrain_epochs: PositiveInt = 10
    """Epochs of each of the two."""
    pretrain_mix: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of gmf in the output layer, the rest being mlp's: the trade-off of the paper."""
    finetune_optimizer: Literal["sgd", "adam", "adamw", "adagrad"] = "sgd"
    """Optimizer after pre-training; sgd in the paper, since adam's moments are not carried over."""
    finetune_rate: PositiveFloat = 0.1
    """Learning rate after pre-training; the learning-rate finder is not used."""

    @model_validator(mode="after")
    def _two_parts(self) -> "NcfConfig":
        if self.pretrain and self.variant != "neumf":
            raise ValueError('pretrain fits the two parts of a neumf first: it goes with variant = "neumf"')
        return self


class Ncf(Recommender):
    """score(u, i) = h · [p_u ∘ q_i ; MLP(p'_u, q'_i)] + c, a logit fitted by cross-entropy (eq. 7 to 12).

    The variants gmf and mlp have one of the two halves. As the first layer of the MLP is linear before its
    ReLU, W [p ; q] = W_u p + W_i q: its two parts are computed once per user and once per item, not once per pair.
    """

    family = "ncf"
    Config = NcfConfig
    later_versions: ClassVar[Mapping[int, int]] = {FILTER_FROM: 2}

    def __init__(self, config: NcfConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: NcfConfig = config
        dim, width = config.embedding_dim, 0
        if config.variant != "mlp":
            self.gmf_user, self.gmf_item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
            width += dim
        if config.variant != "gmf":
            self.mlp_user, self.mlp_item = nn.Embedding(n_users, dim), nn.Embedding(n_items, dim)
            self.first = nn.Linear(2 * dim, config.layers[0])
            self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(config.layers))
            width += config.layers[-1]
        self.out = nn.Linear(width, 1)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit on the positive rows; negatives are items without any row of the user."""
        self.to(context.device)
        with seeded(seed_of(context.seed, "init"), context.device):
            self.apply(self._start)
        config = pretrain(self, train, context) if self.config.pretrain else self.config
        rows = train.positives()
        n = config.n_negatives
        sampler = NegativeSampler(train, config.alpha)
        draw = sampler.for_rows(rows.users, n, config.negatives, context.seed)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            users = rows.users[batch]  # (B,)
            negatives, real = draw(batch, generator)  # (B, n), (B,)
            items = torch.cat([rows.items[batch].unsqueeze(1), negatives], 1)  # (B, 1 + n)
            return self._loss(users, items, None if sampler.all_real else real)

        # rows of the loop are positives, each of which brings its negatives
        size = config.batch_size and max(config.batch_size // (1 + n), 1)
        positives = config.model_copy(update={"batch_size": size})
        self.best_epoch = fit_by_gradient(self, len(rows), loss, positives, context, Steps(static=True))

    def _loss(self, users: Tensor, items: Tensor, real: Tensor | None) -> Tensor:
        """Mean over the pairs of column 0 of `items` (B, 1 + n), the positives, and the rest where `real` (B,)."""
        logits = self._pairs(users, items).float()  # (B, 1 + n)
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1
        if real is None:
            return F.binary_cross_entropy_with_logits(logits, labels)
        weights = torch.where(real.unsqueeze(1), 1.0, labels)  # (B, 1 + n)
        return F.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum") / weights.sum()

    def _pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits, (B,), (B, C) -> (B, C)."""
        users, items, parts = short(users), short(items), []
        if self.config.variant != "mlp":
            parts.append(self.gmf_user(users).unsqueeze(1) * self.gmf_item(items))  # (B, C, D)
        if self.config.variant != "gmf":
            parts.append(self._tower(*self._halves(self.mlp_user(users), self.mlp_item(items))))  # (B, C, H')
        return self.out(torch.cat(parts, 2) if len(parts) > 1 else parts[0]).squeeze(2)

    def _halves(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """What user and item each add to the first layer; (…, D) -> (…, H)."""
        for_user, for_item = self.first.weight.split(self.config.embedding_dim, 1)  # (H, D) each
        return F.linear(user, for_user, self.first.bias), F.linear(item, for_item)

    def _tower(self, user: Tensor, item: Tensor) -> Tensor:
        """Hidden layers over the two halves of the first one, (B, H), (B or 1, C, H) -> (B, C, H')."""
        x = F.relu(user.unsqueeze(1) + item)  # (B, C, H)
        for layer in self.hidden:
            x = F.relu(layer(F.dropout(x, self.config.dropout, self.training)))
        return F.dropout(x, self.config.dropout, self.training)

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Logits, (B, I) or (B, C)."""
        if items is not None:
            return self._pairs(users, items)
        scores = torch.zeros(len(users), self.n_items, device=users.device) + self.out.bias  # (B, I)
        dim, variant = self.config.embedding_dim, self.config.variant
        if variant != "mlp":
            gmf = self.out.weight[0, :dim]  # (D,)
            scores += (self.gmf_user(users) * gmf) @ self.gmf_item.weight.T
        if variant != "gmf":
            mlp = self.out.weight[0, -self.config.layers[-1] :]  # (H',)
            user, item = self._halves(self.mlp_user(users), self.mlp_item.weight)  # (B, H), (I, H)
            block = max(BLOCK // (max(self.config.layers) * max(len(users), 1)), 1)
            for start in range(0, self.n_items, block):
                part = self._tower(user, item[None, start : start + block])  # (B, block, H')
                scores[:, start : start + block] += part @ mlp
        return scores

    def user_vectors(self) -> Tensor:
        """(U, D), or (U, 2 D) of neumf."""
        return torch.cat([getattr(self, f"{tower}_user").weight.detach() for tower in self._towers()], 1)

    def item_vectors(self) -> Tensor:
        """(I, D), or (I, 2 D) of neumf."""
        return torch.cat([getattr(self, f"{tower}_item").weight.detach() for tower in self._towers()], 1)

    def learnt_of_items(self) -> list[Tensor]:
        """Embeddings of both towers."""
        return [getattr(self, f"{tower}_item").weight.detach() for tower in self._towers()]

    def _towers(self) -> list[str]:
        return {"gmf": ["gmf"], "mlp": ["mlp"], "neumf": ["gmf", "mlp"]}[self.config.variant]

    def _start(self, module: nn.Module) -> None:
        """Embeddings from N(0, init_std²), layers as torch has it."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, nn.Linear):
            module.reset_parameters()


def pretrain(model: Ncf, train: Interactions, context: FitContext) -> NcfConfig:
    """Fit the two parts, put their weights into `model` (a neumf), and return the settings of what follows.

    The parts are fitted for a fixed number of epochs, without a look at valid, so a refit repeats them.
    """
    config = model.config
    parts = {}
    for variant in ("gmf", "mlp"):
        alone = config.model_copy(update={"variant": variant, "pretrain": False})
        parts[variant] = type(model)(alone, model.n_users, model.n_items)
        of_part = FitContext(
            device=context.device,
            precision=context.precision,
            seed=seed_of(context.seed, "pretraining", variant),
            epochs=config.pretrain_epochs,
            deadline=context.deadline,
            memory=context.memory,
            world=context.world,
            graphs=context.graphs,
        )
        parts[variant].fit(train, of_part)
        context.cut_short |= of_part.cut_short
    join(model, parts["gmf"], parts["mlp"], config.pretrain_mix)
    tuning = {"optimizer": config.finetune_optimizer, "learning_rate": config.finetune_rate}
    context.finder = None  # a refit would take the rate that it found for that of the parts
    return config.model_copy(update=tuning)


@torch.no_grad()
def join(whole: Ncf, gmf: Ncf, mlp: Ncf, mix: float) -> None:
    """Weights of the parts into the whole; h = [mix h_gmf ; (1 - mix) h_mlp] (He et al. 2017, sec. 3.4.1).

    The bias of the output, of which the paper says nothing, is mixed alike, so the logit of every pair is
    the mean of the parts' logits, weighted by `mix`.
    """
    for part in (gmf, mlp):
        learnt = {name: tensor for name, tensor in part.state_dict().items() if not name.startswith("out.")}
        whole.load_state_dict(learnt, strict=False)
    whole.out.weight.copy_(torch.cat([mix * gmf.out.weight, (1 - mix) * mlp.out.weight], 1))  # (1, D + H')
    whole.out.bias.copy_(mix * gmf.out.bias + (1 - mix) * mlp.out.bias)  # (1,)
