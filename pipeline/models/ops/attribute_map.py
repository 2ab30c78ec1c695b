"""Vectors for items without events: a linear map from attributes to what a fit learnt about each item.

Ridge regression of the learnt rows on the attributes, as in Gantner et al., "Learning Attribute-to-Feature Mappings for
Cold-Start Recommendations", ICDM 2010, section IV-B. An item with n events weighs n ** EXPONENT. The map gives the row
that is expected, so an item of which its attributes say little has low scores.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.seeding import seed_of
from pipeline.models.base import FitContext, NotServable, Recommender
from pipeline.training.attributes import NewItems
from pipeline.training.interactions import History, Interactions

PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0)
"""Penalties that are tried."""
EXPONENT = 0.5
"""With 0 a new item is expected to be like any item, which is rarely listed; with 1 like the item of any event, which
is popular. On Amazon Sports 1 costs the other items 2 % of their recall, and 0.5 nothing."""
HELD_OUT = 5
"""The penalty is chosen on one of so many parts of the items."""
STEPS, TOLERANCE = 200, 1e-4
"""Of conjugate gradients."""


@dataclass(frozen=True)
class AttributeMap:
    """(I, A) attributes to (I, D) rows: mean + X B."""

    mean: Tensor  # (D,)
    weights: Tensor  # (A, D)
    l2: float

    def __call__(self, values: History) -> Tensor:
        """Rows of items with these values, (B, D)."""
        return self.mean + _matrix(values) @ self.weights


@torch.no_grad()
def place_new_items(model: Recommender, train: Interactions, context: FitContext) -> int:
    """Give items without a row in `train`, but with attributes, the rows that the map expects; returns their number.

    0 if there are none, or nothing to learn the map from. `model` must have `learnt_of_items`.
    """
    tables, attributes = model.learnt_of_items(), context.attributes
    assert attributes is not None and tables
    new = NewItems.of(train, attributes)
    rows = train.rated() if model.needs_ratings else train.positives()
    counts = torch.bincount(rows.items, minlength=train.n_items).double()  # (I,)
    known = ((counts > 0) & new.described).nonzero().squeeze(1)  # (K,)
    wanted = new.placed.nonzero().squeeze(1)  # (N,)
    if not len(known) or not len(wanted):
        return 0
    learnt = torch.cat([table.reshape(len(table), -1).double() for table in tables], 1)  # (I, D)
    seed = seed_of(context.seed, "attribute map")
    fitted = fit_map(attributes.values[known], learnt[known], counts[known] ** EXPONENT, seed)
    placed = fitted(attributes.values[wanted]).split([table[0].numel() for table in tables], 1)  # (N, ·) each
    model.set_items(wanted, [part.reshape(-1, *table.shape[1:]) for table, part in zip(tables, placed, strict=True)])
    return len(wanted)


def fit_map(values: History, targets: Tensor, weights: Tensor, seed: int, l2: float | None = None) -> AttributeMap:
    """The ridge regression of `targets` (K, D) on `values` (K rows), items weighted by `weights` (K,).

    Its penalty is `l2`; without one it is the one of PENALTIES that predicts a fifth of the items best from the others.
    """
    weights = weights / weights.mean()
    if l2 is not None or len(targets) < HELD_OUT:
        return _solved(values, targets, weights, PENALTIES[-1] if l2 is None else l2)
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(targets), generator=random).to(targets.device)  # (K,)
    out, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    errors, tried = [], None
    for penalty in PENALTIES:  # each starts from the solution of the one before
        tried = _solved(values[kept], targets[kept], weights[kept], penalty, tried)
        errors.append(float((weights[out, None] * (tried(values[out]) - targets[out]).square()).sum()))
    return _solved(values, targets, weights, PENALTIES[errors.index(min(errors))], tried)


class AttributePrior:
    """The factors that attributes predict for items with events, learnt again from the factors of each epoch."""

    def __init__(self, family: str, train: Interactions, context: FitContext):
        if context.attributes is None:
            raise NotServable(f"{family} with attribute_prior needs attributes: set attributes.items in the recipe")
        counts = context.world.summed(train.item_counts().double())  # (I,)
        self.known = ((counts > 0) & context.attributes.described.to(counts.device)).nonzero().squeeze(1)  # (K,)
        self.values, self.weights = context.attributes.values[self.known], counts[self.known] ** EXPONENT
        self.seed, self.l2 = seed_of(context.seed, "attribute prior"), None

    def of(self, items: Tensor) -> Tensor:
        """Predicted factors, (I, D) -> (I, D); 0 for items without an event or an attribute."""
        if not len(self.known):
            return torch.zeros_like(items)
        fitted = fit_map(self.values, items[self.known].double(), self.weights, self.seed, self.l2)
        self.l2 = fitted.l2  # chosen once
        return torch.zeros_like(items).index_copy(0, self.known, fitted(self.values).to(items.dtype))


def _solved(
    values: History, targets: Tensor, weights: Tensor, l2: float, start: AttributeMap | None = None
) -> AttributeMap:
    """min Σ w |t - mean - x B|² + l2 |B|², with the weighted mean of the targets."""
    mean = (weights[:, None] * targets).sum(0) / weights.sum()  # (D,)
    x, turned = _matrix(values), _matrix(values.transposed())  # (K, A), (A, K)
    right = turned @ (weights[:, None] * (targets - mean))  # (A, D)
    diagonal = (turned @ weights[:, None]) + l2  # (A, 1): of the normal equations, as values are binary
    solution = torch.zeros_like(right) if start is None else start.weights.clone()
    residual = right - turned @ (weights[:, None] * (x @ solution)) - l2 * solution
    limit = TOLERANCE**2 * (right * right / diagonal).sum(0)
    scaled = residual / diagonal
    direction, size = scaled.clone(), (residual * scaled).sum(0)  # (D,)
    for _ in range(STEPS):
        if not bool((size > limit).any()):
            break
        product = turned @ (weights[:, None] * (x @ direction)) + l2 * direction  # (A, D)
        step = torch.where(size > limit, size / (direction * product).sum(0).clamp(min=1e-300), 0.0)  # (D,)
        solution += step * direction
        residual -= step * product
        scaled = residual / diagonal
        before, size = size, (residual * scaled).sum(0)
        direction = scaled + size / before.clamp(min=1e-300) * direction
    return AttributeMap(mean, solution, l2)


def _matrix(values: History) -> Tensor:
    """(K, A), sparse, float64."""
    return values.sparse(torch.ones(len(values.items), dtype=torch.float64, device=values.items.device))
