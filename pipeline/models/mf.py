"""Matrix factorization with item biases and sampled negatives (BPR: Rendle et al., UAI 2009)."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, ModelConfig, Recommender
from pipeline.models.ops.pair_scores import pair_scores, short, weighted_norms
from pipeline.models.ops.shared_loss import LossName, Objective, SharedBatch, shared_loss
from pipeline.training.event_weights import WeightsConfig, row_weights
from pipeline.training.interactions import History, Interactions
from pipeline.training.loop import Loss, Steps, TrainingConfig, fit_by_gradient, seeded
from pipeline.training.negative_sampling import FILTER_FROM, Negatives, NegativeSampler, SharedNegatives
from pipeline.training.row_order import CHUNK, ChunkedOrder

LARGE = FILTER_FROM
"""Rows from which a fit shares negatives."""
SHARING = 16
"""Rows that then share them."""
LARGE_BATCH = 16_384
"""Rows per step of large fits."""
LEAST_IMPROVEMENT = 0.002
"""Improvement that large fits go on for: below it, valid is flat, and an epoch takes as long as other models."""
SPARSE_FROM = 4_000_000  # parameters in a table above which updating all of it in every step costs more than it saves


class MatrixFactorizationConfig(TrainingConfig, WeightsConfig):
    """Hyperparameters of `MatrixFactorization`."""

    embedding_dim: PositiveInt = 64
    """Length of the user and item vectors."""
    epochs: PositiveInt = 15
    """Largest number of epochs; exactly that many if there is no validation."""
    loss: LossName = "softmax"
    """bpr: positive above each negative; logistic: binary cross-entropy; softmax: cross-entropy of the positive among
    the negatives; mse: squared error to 1 for the positive and 0 for negatives."""
    n_negatives: PositiveInt = 16
    """Negatives per positive."""
    negatives: Negatives = "fresh"
    """fresh: drawn in every epoch; static: drawn once."""
    negative_weight: PositiveFloat = 1.0
    """logistic and mse: total weight of the negatives of one positive, which itself has weight 1."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Negatives are drawn with weight popularity ** alpha; 0 is uniform."""
    l2: NonNegativeFloat = 0.02
    """Regularisation of the embeddings of each batch, so frequent users and items are regularised more."""
    item_bias: bool = True
    """b_i: part of the score that is equal for all users; also regularised by `l2`."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the normal distribution of the initial embeddings."""
    sparse: bool | None = None
    """Sparse gradients. Unset: on the CPU for tables of more than 4 million parameters, on CUDA if memory is short."""
    shared_negatives: NonNegativeInt | None = None
    """So many rows of a step share their `n_negatives` drawn items, less those that a row's user knows; 0: every row
    has its own. Unset: 16 for fits of 2 million rows and more on one CPU process, which then also have, where they are
    not set or searched, `optimizer = "row_adagrad"` with `learning_rate = 0.1` and `batch_size = 16384`, and
    `patience = 2` with `min_improvement = 0.002`. On a CPU an epoch of such a fit takes random chunks of 4,096 users,
    one after another."""

    added_later: ClassVar[tuple[str, ...]] = (
        *TrainingConfig.added_later, *WeightsConfig.added_later, "shared_negatives",
    )  # fmt: skip

    @model_validator(mode="after")
    def _sharing_is_possible(self) -> "MatrixFactorizationConfig":
        if self.shared_negatives and self.negatives == "static":
            raise ValueError('shared_negatives are drawn in every step: they go with negatives = "fresh"')
        if self.shared_negatives and self.sparse is False:
            raise ValueError("gradients of shared_negatives are sparse: sparse = false does not go with them")
        return self


class MatrixFactorization(Recommender):
    """score(u, i) = <p_u, q_i> + b_i (bpr: Rendle et al., UAI 2009; softmax: Jean et al., ACL 2015).

    Where the config weighs interactions, the loss of each is multiplied by its weight.
    """

    family = "mf"
    Config = MatrixFactorizationConfig
    later_versions: ClassVar[Mapping[int, int]] = {FILTER_FROM: 3}
    rows_of_state: ClassVar[Mapping[str, str]] = {"user.weight": "users", "item.weight": "items"}

    def __init__(self, config: MatrixFactorizationConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: MatrixFactorizationConfig = config
        self.user = nn.Embedding(n_users, config.embedding_dim)
        # the last column is the item's bias: one table, one look-up, one product
        self.item = nn.Embedding(n_items, config.embedding_dim + config.item_bias)
        self._set_gradients(FitContext())

    @classmethod
    def config_at(cls, config: ModelConfig, rows: int, given: Collection[str]) -> ModelConfig:
        """Large fits share negatives, and have what suits these."""
        assert isinstance(config, MatrixFactorizationConfig)
        if (
            config.shared_negatives is not None
            or rows < LARGE
            or config.negatives == "static"
            or config.sparse is False
        ):
            return config
        changes: dict[str, Any] = {"shared_negatives": SHARING}
        if not {"optimizer", "learning_rate"} & {*given}:
            changes |= {"optimizer": "row_adagrad", "learning_rate": 0.1}
            changes |= {} if "batch_size" in given else {"batch_size": LARGE_BATCH}
        if not {"patience", "min_improvement"} & {*given}:
            changes |= {"patience": 2, "min_improvement": LEAST_IMPROVEMENT}
        return config.model_copy(update=changes)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Fit on the positive rows; negatives are items without any row of the user."""
        self.to(context.device)
        self._set_gradients(context)
        with seeded(seed_of(context.seed, "init"), context.device):
            nn.init.normal_(self.user.weight, std=self.config.init_std)
            nn.init.normal_(self.item.weight, std=self.config.init_std)
            if self.config.item_bias:
                nn.init.zeros_(self.item.weight[:, -1])
        rows = train.positives()
        weights = row_weights(rows, self.config)  # (N,)
        weights = None if weights is None else weights / weights.mean().clamp(min=1e-9)
        sharing = bool(self.config.shared_negatives)
        loss = (self._shared_loss if sharing else self._own_loss)(train, rows, weights, context.seed)
        is_large = len(train.users) >= LARGE and self.n_users > CHUNK
        chunked = sharing and is_large and context.device.type == "cpu"
        order = ChunkedOrder(rows.users, self.n_users) if chunked else None
        steps = Steps(static=not sharing, order=order)
        self.best_epoch = fit_by_gradient(self, len(rows), loss, self.config, context, steps)

    def _own_loss(self, train: Interactions, rows: Interactions, weights: Tensor | None, seed: int) -> Loss:
        """The loss of steps whose rows have negatives of their own."""
        sampler = NegativeSampler(train, self.config.alpha)
        draw = sampler.for_rows(rows.users, self.config.n_negatives, self.config.negatives, seed)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            users = rows.users[batch]  # (B,)
            negatives, real = draw(batch, generator)  # (B, n), (B,)
            own = None if weights is None else weights[batch]  # (B,)
            return self._loss(users, torch.cat([rows.items[batch].unsqueeze(1), negatives], 1), real, own)

        return loss

    def _shared_loss(self, train: Interactions, rows: Interactions, weights: Tensor | None, seed: int) -> Loss:
        """The loss of steps whose rows share negatives in groups."""
        config = self.config
        sampler, objective = (
            SharedNegatives(train, config.alpha),
            Objective(config.loss, config.negative_weight, config.l2, config.item_bias),
        )

        def part(batch: Tensor, groups: int, generator: torch.Generator) -> Tensor:
            users = rows.users[batch]  # (B,)
            negatives, known = sampler.draw(users.view(groups, -1), config.n_negatives, generator)  # (S, n), (K,)
            own = None if weights is None else weights[batch]  # (B,)
            shared = SharedBatch(users, rows.items[batch], negatives, known, own)
            return shared_loss(self.user.weight, self.item.weight, shared, objective)

        def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
            groups = len(batch) // (config.shared_negatives or 1)
            whole = groups * (config.shared_negatives or 1)
            if whole == len(batch):
                return part(batch, groups, generator)
            rest = part(batch[whole:], 1, generator) * ((len(batch) - whole) / len(batch))
            return part(batch[:whole], groups, generator) * (whole / len(batch)) + rest if whole else rest

        return loss

    def _set_gradients(self, context: FitContext) -> None:
        """Choose sparse gradients, table by table: cheaper for large ones on a CPU; on CUDA many launches and syncs."""
        if self.config.shared_negatives:
            self.user.sparse = self.item.sparse = True
        elif self.config.sparse is not None:
            self.user.sparse = self.item.sparse = self.config.sparse
        elif context.device.type == "cuda" and context.world.size == 1:
            needed = 16 * (self.n_users + self.n_items) * (self.config.embedding_dim + 1)  # with gradient and moments
            self.user.sparse = self.item.sparse = context.memory is not None and 4 * needed > context.memory
        else:
            for table in (self.user, self.item):
                table.sparse = table.num_embeddings * self.config.embedding_dim > SPARSE_FROM

    def _loss(self, users: Tensor, items: Tensor, real: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean loss; column 0 of `items` (B, 1 + n) is the positive, `real` (B,) whether the others count.

        `weights` (B,) of the positives have a mean of 1 over all rows.
        """
        user = self.user(short(users))  # (B, D)
        large = self.user.sparse or self.item.sparse
        scores = pair_scores(self._with_one(user), self.item, items, large)  # (B, 1 + n)
        positive, negative = scores[:, 0], scores[:, 1:]  # (B,), (B, n)
        match self.config.loss:
            case "bpr":
                losses = F.softplus(negative - positive.unsqueeze(1)).mean(1) * real
            case "softmax":
                mask = torch.where(real, 0.0, -torch.inf).unsqueeze(1)  # (B, 1)
                losses = torch.logsumexp(torch.cat([scores[:, :1], negative + mask], 1), 1) - positive
            case "logistic":
                losses = F.softplus(-positive) + self.config.negative_weight * F.softplus(negative).mean(1) * real
            case _:
                losses = (positive - 1) ** 2 + self.config.negative_weight * (negative**2).mean(1) * real
        loss = losses.mean() if weights is None else (losses * weights).mean()
        if self.config.l2:
            loss = loss + self.config.l2 * (user.square().sum() + self._size(items, real)) / len(users)
        return loss

    def _size(self, items: Tensor, real: Tensor) -> Tensor:
        """Squared norms of the rows of a batch; the negatives of one positive count as one row together."""
        share = torch.ones_like(items, dtype=torch.float32)  # (B, 1 + n)
        share[:, 1:] = real.unsqueeze(1) / (items.shape[1] - 1)
        shares = share.new_zeros(self.n_items).index_add(0, items.reshape(-1), share.reshape(-1))  # (I,)
        if not self.item.sparse:
            weight = self.item.weight
            # two ways that round differently: small models keep their results
            return weighted_norms(weight, shares) if self.user.sparse else weight.square().sum(1) @ shares
        touched = torch.unique(items)  # (T,)
        return self.item(touched).square().sum(1) @ shares[touched]

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """Dot product plus bias; (B, I) or (B, C)."""
        user = self._with_one(self.user.weight[users])  # (B, D or D + 1)
        return user @ self.item.weight.T if items is None else pair_scores(user, self.item, items)

    def learnt_of_items(self) -> list[Tensor]:
        """Vectors and biases, one table."""
        return [self.item.weight.detach()]

    def _with_one(self, user: Tensor) -> Tensor:
        """(B, D) with a column of ones, which meets the biases."""
        return F.pad(user, (0, 1), value=1.0) if self.config.item_bias else user

    def terms(self, user: int, item: int) -> dict[str, float]:
        """Dot product and bias."""
        dot = float(self.user_vectors()[user] @ self.item_vectors()[item])
        bias = self.item_biases()
        return {"dot product": dot} | ({} if bias is None else {"item bias": float(bias[item])})

    def user_vectors(self) -> Tensor:
        """(U, D)."""
        return self.user.weight.detach()

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.item.weight.detach()[:, : self.config.embedding_dim]

    def item_biases(self) -> Tensor | None:
        """(I,)."""
        return self.item.weight.detach()[:, -1] if self.config.item_bias else None

    def factors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(U, D), (I, D), (I,)."""
        return self.user_vectors(), self.item_vectors(), self.item_biases()
