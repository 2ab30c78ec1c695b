"""Graph filtering in closed form: ChebyCF (Kim et al., "Graph Spectral Filtering with Chebyshev …", SIGIR 2025).

The ideal low-pass filter is that of GF-CF (Shen et al., "How Powerful is Graph Convolution …?", CIKM 2021).
"""

import math
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.models.base import Explainer, FitContext, FitSize, ModelConfig, NotServable, Recommender, pick
from pipeline.models.ops.item_weights import entries
from pipeline.training.interactions import History, Interactions

TILE = 1 << 26  # numbers in the temporary matrices of one tile of signals: 256 MB
OVERSAMPLE, ROUNDS = 16, 4  # of the randomized SVD: further columns, and multiplications before the last one


class GraphFilterConfig(ModelConfig):
    """Hyperparameters of `GraphFilter`."""

    order: PositiveInt = 8
    """Degree of the polynomial, K of the paper: a filter reaches items that many steps away in the item graph."""
    flatness: PositiveFloat = 1.5
    """φ of the paper: 1 is a linear filter; larger values weigh all but the lowest and highest frequencies alike. Dense
    data takes larger values (10 on MovieLens 100K)."""
    components: NonNegativeInt = 256
    """Number of lowest frequencies that the ideal low-pass filter lets through, η of the paper."""
    low_pass_weight: NonNegativeFloat = 0.2
    """Weight of the ideal low-pass filter, α of the paper; 0: none."""
    popularity_exponent: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Histories are divided and scores multiplied by (users of the item) ** popularity_exponent, β of the paper."""
    dense_items: PositiveInt = 8_000
    """Up to this many items, the fit stores the filter as a matrix of items x items, which is faster to serve."""


def rank_of(config: GraphFilterConfig, n_users: int, n_items: int) -> int:
    """Number of singular vectors."""
    return min(config.components, n_users, n_items) if config.low_pass_weight else 0


class GraphFilter(Recommender):
    """score = d^β ∘ (Σₖ cₖ Tₖ(2L - I) + α VVᵀ) (d^-β ∘ x) for a binary history x (sections 3.2 to 3.4).

    L = I - R̃ᵀR̃ is the Laplacian of the item graph, R̃ = Du^-½ R Di^-½, d the users of each item, V the right singular
    vectors of R̃ with the largest singular values, and cₖ interpolate h(t) = ½ - ½ sign(t)|t|^φ at Chebyshev nodes.
    """

    family = "graph_filter"
    Config = GraphFilterConfig
    reads_history = True

    def __init__(self, config: GraphFilterConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: GraphFilterConfig = config
        self.is_dense = n_items <= config.dense_items
        self.rank = rank_of(config, n_users, n_items)
        self.degree_weight: Tensor
        self.filter: Tensor
        self.low_pass: Tensor
        self.register_buffer("degree_weight", torch.ones(n_items))  # (I,) = d^β
        self.register_buffer("filter", torch.zeros((n_items, n_items) if self.is_dense else (0, 0)))  # symmetric
        self.register_buffer("low_pass", torch.zeros((0, 0) if self.is_dense else (n_items, self.rank)))  # V
        self.graph = None if self.is_dense else BipartiteGraph(n_users, n_items)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Compute V and, for few items, the filter as a matrix."""
        size = FitSize(self.n_users, self.n_items, len(train), memory=context.memory)
        if reason := self.refusal(self.config, size):
            raise NotServable(reason)
        self.to(context.device)
        graph = self.graph or BipartiteGraph(self.n_users, self.n_items).to(context.device)
        graph.build(train.history().distinct())
        self.degree_weight = graph.item_degrees.clamp(min=1).float() ** self.config.popularity_exponent
        self.low_pass = graph.right_vectors(self.rank, context.seed)  # (I, η)
        if not self.is_dense:
            return
        tiles = torch.arange(self.n_items, device=context.device).split(graph.tile)
        for items in context.in_time(tiles, self.n_items, len):
            one_each = torch.zeros(self.n_items, len(items), device=context.device)  # (I, t)
            one_each[items, items - items[0]] = 1
            self.filter[:, items] = self._filtered(one_each, graph)
        self.filter = (self.filter + self.filter.T) / 2  # rounding is not symmetric
        self.low_pass = self.low_pass.new_zeros(0, 0)

    @classmethod
    def refusal(cls, config: ModelConfig, size: FitSize) -> str | None:
        """Matrices that the memory does not hold."""
        assert isinstance(config, GraphFilterConfig)
        needed = cls.memory_needed(config, size)
        if size.memory is None or needed <= size.memory:
            return None
        return (
            f"graph_filter would hold {needed / 1e9:.1f} GB of matrices ({size.items:,} items), and the limit is "
            f"{size.memory / 1e9:.1f} GB; raise memory_limit, or set lower components or dense_items"
        )

    @classmethod
    def memory_needed(cls, config: GraphFilterConfig, size: FitSize) -> int:
        """Bytes that a fit holds at its peak."""
        cells = size.items**2 if size.items <= config.dense_items else 0
        rank = rank_of(config, size.users, size.items)
        matrices = cells * 2 + (rank + OVERSAMPLE) * (2 * size.items + size.users) + TILE
        return 4 * matrices + 2 * 12 * size.rows

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        signals = history.dense().div_(self.degree_weight)  # (B, I)
        return pick(self._filter_rows(signals).mul_(self.degree_weight), items)

    def contributions(self, user: int, history: History, item: int) -> Tensor:
        """What the filter passes from each item of the history to `item`, (E,)."""
        one = torch.zeros(1, self.n_items, device=history.items.device)
        one[0, item] = 1
        column = self._filter_rows(one)[0]  # (I,): the filter is symmetric
        return (column * self.degree_weight[item] / self.degree_weight)[history.items]

    def explainer(self) -> Explainer | None:
        """Entries of the stored filter, between the weights of the two items; None where it is not stored."""
        if self.graph is not None:
            return None
        weight = self.degree_weight

        def explain(users: Tensor, history: History, items: Tensor) -> Tensor:
            passed = entries(self.filter, history, items)  # (E, K)
            return passed * weight[items[history.rows]] / weight[history.items, None]

        return explain

    def similar(self, items: Tensor) -> Tensor:
        """What one item in the history adds to every other score, (B, I)."""
        scores = self.score(torch.full_like(items, -1), History.of_single_items(items, self.n_items))
        return scores.scatter_(1, items[:, None], 0.0)

    def _filter_rows(self, signals: Tensor) -> Tensor:
        """Filtered signals, (B, I) -> (B, I)."""
        if self.graph is None:
            return signals @ self.filter
        filtered = torch.empty_like(signals)
        for rows in torch.arange(len(signals), device=signals.device).split(self.graph.tile):
            filtered[rows] = self._filtered(signals[rows].T.contiguous(), self.graph).T
        return filtered

    def _filtered(self, signals: Tensor, graph: "BipartiteGraph") -> Tensor:
        """Σₖ cₖ Tₖ(2L - I) S + α VVᵀS, (I, B) -> (I, B), by T₀ = S, T₁ = (2L - I) S, Tₖ = 2 (2L - I) Tₖ₋₁ - Tₖ₋₂."""
        first, *others = coefficients(self.config.order, self.config.flatness)
        result = signals * first + self.config.low_pass_weight * (self.low_pass @ (self.low_pass.T @ signals))  # (I, B)
        before, current = signals, graph.laplacian(signals)  # T₀, T₁: (I, B)
        for number, weight in enumerate(others, start=1):
            result.add_(current, alpha=weight)
            if number < self.config.order:
                before, current = current, graph.laplacian(current).mul_(2).sub_(before)
        return result


class BipartiteGraph(nn.Module):
    """R̃ = Du^-½ R Di^-½ (U, I) and its transpose, as compressed rows with values (E,)."""

    def __init__(self, n_users: int, n_items: int):
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.tile = max(1, TILE // (n_users + 5 * n_items))
        """Number of signals that are filtered at once."""
        self.user_offsets: Tensor
        self.user_items: Tensor
        self.user_values: Tensor
        self.item_offsets: Tensor
        self.item_users: Tensor
        self.item_values: Tensor
        self.register_buffer("user_offsets", torch.zeros(n_users + 1, dtype=torch.long))
        self.register_buffer("user_items", torch.zeros(0, dtype=torch.long))
        self.register_buffer("user_values", torch.zeros(0))
        self.register_buffer("item_offsets", torch.zeros(n_items + 1, dtype=torch.long))
        self.register_buffer("item_users", torch.zeros(0, dtype=torch.long))
        self.register_buffer("item_values", torch.zeros(0))

    def build(self, by_user: History) -> None:
        """Set the entries from distinct interactions."""
        by_item = by_user.transposed()
        per_user = by_user.lengths.clamp(min=1).float() ** -0.5  # (U,)
        per_item = by_item.lengths.clamp(min=1).float() ** -0.5  # (I,)
        self.user_offsets, self.user_items = by_user.offsets, by_user.items
        self.item_offsets, self.item_users = by_item.offsets, by_item.items
        self.user_values = per_user[by_user.rows] * per_item[by_user.items]
        self.item_values = per_item[by_item.rows] * per_user[by_item.items]

    @property
    def item_degrees(self) -> Tensor:
        """Users of every item, (I,)."""
        return self.item_offsets[1:] - self.item_offsets[:-1]

    def laplacian(self, signals: Tensor) -> Tensor:
        """(2L - I) S = S - 2 R̃ᵀR̃ S, (I, B) -> (I, B)."""
        return torch.sub(signals, self.smoothed(signals), alpha=2)

    def smoothed(self, signals: Tensor) -> Tensor:
        """R̃ᵀR̃ S, (I, B) -> (I, B)."""
        of_users = _product(self.user_items, self.user_offsets, self.user_values, signals)  # (U, B)
        return _product(self.item_users, self.item_offsets, self.item_values, of_users)

    def right_vectors(self, rank: int, seed: int) -> Tensor:
        """Right singular vectors of R̃ with the largest singular values, (I, rank).

        Randomized subspace iteration (Halko, Martinsson, Tropp, SIAM Review 2011, algorithm 4.4) on R̃ᵀR̃.
        """
        device, width = self.user_values.device, min(rank + OVERSAMPLE, self.n_items)
        if not rank:
            return torch.zeros(self.n_items, 0, device=device)
        generator = torch.Generator().manual_seed(seed)
        basis = torch.randn(self.n_items, width, generator=generator).to(device)  # (I, width)
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(self._smoothed_by_tiles(basis)).Q
        inner = basis.T @ self._smoothed_by_tiles(basis)  # (width, width)
        vectors = torch.linalg.eigh((inner + inner.T) / 2).eigenvectors  # ascending
        return basis @ vectors[:, -rank:]

    def _smoothed_by_tiles(self, signals: Tensor) -> Tensor:
        return torch.cat([self.smoothed(part.contiguous()) for part in signals.split(self.tile, dim=1)], dim=1)


def _product(columns: Tensor, offsets: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """Sparse rows (N, M), given by columns and values (E,), times `dense` (M, B): (N, B)."""
    if not dense.shape[1]:  # on some CPUs, embedding_bag refuses a matrix without columns
        return dense.new_zeros(len(offsets) - 1, 0)
    return nn.functional.embedding_bag(
        columns, dense, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def coefficients(order: int, flatness: float) -> list[float]:
    """c₀ … c_K: Σ cₖ Tₖ interpolates h(t) = ½ - ½ sign(t)|t|^φ at the K + 1 Chebyshev nodes (eq. 6 to 9)."""
    angles = [math.pi * (j + 0.5) / (order + 1) for j in range(order + 1)]  # of the nodes; Tₖ(cos a) = cos(ka)
    values = [0.5 - 0.5 * math.copysign(abs(math.cos(a)) ** flatness, math.cos(a)) for a in angles]
    sums = [sum(v * math.cos(k * a) for v, a in zip(values, angles, strict=True)) for k in range(order + 1)]
    return [total * (1 if k == 0 else 2) / (order + 1) for k, total in enumerate(sums)]
