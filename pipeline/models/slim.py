"""SLIM: sparse linear item-to-item weights by ADMM (Steck, Dimakopoulou, Riabov, Jebara, "ADMM SLIM", WSDM 2020)."""

import time
from collections.abc import Iterator

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from pipeline.models.base import Explainer, FitContext, NotServable, Recommender, pick
from pipeline.models.ops.history_products import gram_of
from pipeline.models.ops.inverses import inverse as inverse_of
from pipeline.models.ops.item_weights import WeightTable
from pipeline.training.context import TooLate
from pipeline.training.event_weights import WeightsConfig, history_of
from pipeline.training.interactions import History, Interactions

TILE = 512  # columns of B solved at once
USERS = 128  # scored at once
RELAXED = 1.6  # over-relaxation (Boyd et al. 2011, 3.4.3): fewer iterations to the same end
FEWEST = 5  # iterations; with time for fewer the weights would still be far from the optimum


class SlimConfig(WeightsConfig):
    """Hyperparameters of `Slim`."""

    l1: NonNegativeFloat = 2.0
    """λ1 of the paper, on the sum of absolute weights: larger values give fewer weights."""
    l2: NonNegativeFloat = 50.0
    """λ2 of the paper, on half the sum of squared weights."""
    nonnegative: bool = True
    """Weights are 0 or more, as in the first SLIM (Ning and Karypis, ICDM 2011); only then can items of at most
    `l1` users be left out, which does not change the result."""
    rho: PositiveFloat = 1000.0
    """ρ of the paper: the step size. It changes the number of iterations, not the solution."""
    iterations: PositiveInt = 100
    """Largest number of iterations."""
    tolerance: PositiveFloat = 0.01
    """Iterations end when both residuals, relative to the weights and to their duals, are below it. Metrics on
    valid are the same with a tenth of it, at three times the cost."""
    max_side: PositiveInt = 20_000
    """Largest number of items that is fitted: the time grows with its cube."""


class Slim(Recommender):
    """min over B of ½|X - XB|² + l2/2 |B|² + l1 |B|₁ with diag(B) = 0; the score is a user's history times B.

    Histories are binary, or have the weights of their interactions. An item adds nothing to its own score.

    Columns of B are independent, so they are solved in tiles, from one inverse P = (XᵀX + (l2 + ρ)I)⁻¹.
    Kept by target item: row j has the items whose weight to j isn't 0.
    """

    family = "slim"
    Config = SlimConfig
    reads_history = True

    def __init__(self, config: SlimConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        self.config: SlimConfig = config
        self.offsets: Tensor
        self.sources: Tensor
        self.weights: Tensor
        self.register_buffer("offsets", torch.zeros(n_items + 1, dtype=torch.long))
        self.register_buffer("sources", torch.zeros(0, dtype=torch.long))  # (E,), by target, then source
        self.register_buffer("weights", torch.zeros(0))  # (E,)

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Solve; a deadline reduces the number of iterations."""
        self.to(context.device)
        history, counts = history_of(train, self.config), train.item_counts()  # counts (I,)
        held = (
            counts > self.config.l1 if history.weights is None and self.config.nonnegative else counts > 0
        )  # (I,); the others' weights are 0
        solved = held.nonzero().squeeze(1)  # (K,)
        self._refuse_too_many(len(solved), context.memory)
        place = torch.full_like(held, -1, dtype=torch.long)  # (I,) -> 0 … K - 1
        place[solved] = torch.arange(len(solved), device=solved.device)
        kept = held[history.items]  # (N,)
        x = History.of(history.rows[kept], place[history.items[kept]], len(history), len(solved))
        values = None if history.weights is None else history.weights[kept]  # (N',)
        gram = gram_of(x, torch.ones(len(x), device=solved.device), values)  # (K, K)
        gram.diagonal().add_(self.config.l2 + self.config.rho)
        inverse = inverse_of(gram)  # (K, K) = P
        edges = [torch.empty(0, 2, dtype=torch.long, device=solved.device)]  # of a tile, (E', 2): target, source
        weights, held_bytes = [torch.empty(0, device=solved.device)], 4 * len(solved) ** 2
        for targets, columns in self._columns(inverse, context):
            edges.append(columns.T.nonzero())
            weights.append(columns.T[edges[-1].unbind(1)])
            edges[-1][:, 0] += targets[0]
            held_bytes += 40 * len(weights[-1])  # twice: these parts, and all of them in one
            if context.memory is not None and held_bytes > context.memory:
                raise NotServable(f"slim has too many weights for {context.memory / 1e9:.1f} GB; raise l1")
        target, source = solved[torch.cat(edges)].unbind(1)  # (E,) each
        of_target = History.of(target, source, self.n_items, self.n_items)
        self.offsets, self.sources, self.weights = of_target.offsets, of_target.items, torch.cat(weights)

    def _refuse_too_many(self, n: int, memory: int | None) -> None:
        if n > self.config.max_side:
            raise NotServable(f"slim would solve for {n:,} items; max_side = {self.config.max_side:,}; raise l1")
        needed = 4 * 3 * n**2  # with what LAPACK copies
        if memory is not None and needed > memory:
            raise NotServable(
                f"slim would hold {needed / 1e9:.1f} GB of matrices ({n:,} items), and the limit is "
                f"{memory / 1e9:.1f} GB; raise memory_limit or l1, or set dataset.filter"
            )

    def _columns(self, inverse: Tensor, context: FitContext) -> Iterator[tuple[Tensor, Tensor]]:
        """Tiles of B from P (K, K): targets (T,), their columns (K, T)."""
        tiles = torch.arange(len(inverse), device=inverse.device).split(TILE) if len(inverse) else ()
        done, most, started = 0, self.config.iterations, time.monotonic()
        for number, targets in enumerate(tiles):
            if context.deadline is not None and done:
                left, each = context.deadline - time.monotonic(), (time.monotonic() - started) / done
                most = min(self.config.iterations, int(left / each / (len(tiles) - number)))
                if most < FEWEST:
                    whole = each * len(tiles)
                    raise TooLate(f"slim would not end in time: an iteration of all items takes {whole:.1f} s")
            columns, iterations = self._solve(inverse, targets, most)
            context.cut_short |= iterations == most < self.config.iterations
            done += iterations
            yield targets, columns

    def _solve(self, inverse: Tensor, targets: Tensor, most: int) -> tuple[Tensor, int]:
        """Columns of B by ADMM, (K, T), and the iterations it took, `most` or fewer."""
        config, at = self.config, torch.arange(len(targets), device=targets.device)
        ridge, cut = config.l2 + config.rho, config.l1 / config.rho
        of_targets = inverse[:, targets]  # (K, T)
        first = -ridge * of_targets  # (K, T): P XᵀX = I - (l2 + ρ) P
        first[targets, at] += 1
        diagonal = of_targets[targets, at]  # (T,)
        sparse = torch.zeros_like(first)  # (K, T) = C
        dual = torch.zeros_like(first)  # (K, T) = Γ / ρ
        iteration, converged = 0, False
        while iteration < most and not converged:
            iteration += 1
            dense = torch.addmm(first, inverse, sparse - dual, alpha=config.rho)  # (K, T)
            dense -= of_targets * (dense[targets, at] / diagonal)  # = B, whose diagonal is 0
            before = sparse
            dual += RELAXED * dense + (1 - RELAXED) * before
            sparse = (dual - cut).clamp_(min=0) if config.nonnegative else torch.nn.functional.softshrink(dual, cut)
            dual -= sparse
            primal_off, dual_off = (dense - sparse).norm(), (sparse - before).norm()
            small = config.tolerance * torch.stack([torch.maximum(dense.norm(), sparse.norm()), dual.norm()])  # (2,)
            converged = bool((torch.stack([primal_off, dual_off]) <= small).all())
        return sparse, iteration

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """x B, (B, I) or (B, C)."""
        if not len(users):
            return self.weights.new_zeros(0, self.n_items if items is None else items.shape[1])
        history = self.weighed(history)
        scores = self.weights.new_empty(len(users), self.n_items)  # (B, I)
        for rows in torch.arange(len(users), device=users.device).split(USERS):  # few, so that x stays in the cache
            part = history[rows]
            x = torch.zeros(self.n_items, len(rows), device=users.device)  # (I, B')
            x[part.items, part.rows] = 1 if part.weights is None else part.weights
            scores[rows] = nn.functional.embedding_bag(
                self.sources, x, self.offsets, mode="sum", per_sample_weights=self.weights, include_last_offset=True
            ).T  # (I, B') -> (B', I)
        return pick(scores, items)

    def contributions(self, user: int, history: History, item: int) -> Tensor:
        """B[history, item], (E,)."""
        column = self.weights.new_zeros(self.n_items)
        own = slice(int(self.offsets[item]), int(self.offsets[item + 1]))
        column[self.sources[own]] = self.weights[own]
        parts = column[history.items]
        return parts if history.weights is None else parts * history.weights

    def explainer(self) -> Explainer:
        """B[event, item]."""
        targets = History(self.offsets, self.sources, self.n_items).rows  # (E,)
        table = WeightTable(targets, self.sources, self.weights, self.n_items)
        return lambda users, history, items: table.entries(history, items)

    def similar(self, items: Tensor) -> Tensor:
        """Rows of B: what one item in the history adds to every score, (B, I)."""
        return self.score(torch.full_like(items, -1), History.of_single_items(items, self.n_items))
