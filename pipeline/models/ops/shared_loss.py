"""Losses of rows that share their negatives in groups: scores by batched matrix products, gradients in closed form."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

LossName = Literal["bpr", "logistic", "softmax", "mse"]
Slopes = tuple[Tensor, Tensor, Tensor]
"""Loss of each row (B,), its derivatives by the score of the positive (B,) and by those of the negatives (B, n)."""


@dataclass(frozen=True)
class SharedBatch:
    """B rows in S groups of equal size; the rows of a group share n negatives."""

    users: Tensor  # (B,)
    items: Tensor  # (B,) the positives
    negatives: Tensor  # (S, n)
    known: Tensor  # (K,) cells of (B, n), as if flat, whose item the user knows: they don't count
    weights: Tensor | None = None  # (B,), None: all count alike


@dataclass(frozen=True)
class Objective:
    """What is minimised, per row; see `MatrixFactorizationConfig`."""

    loss: LossName = "softmax"
    negative_weight: float = 1.0
    l2: float = 0.0
    bias: bool = True
    """The last column of the table of items is added to the dot product."""


def shared_loss(users: Tensor, items: Tensor, batch: SharedBatch, objective: Objective) -> Tensor:
    """Mean loss of a batch, (), by the tables of users (U, D) and of items (I, D), or (I, D + 1) with biases.

    The gradients are sparse, with one entry per row of the batch and per negative, so rows may repeat. A negative that
    R rows share is regularised R / n times: the negatives of one row count as one row together.
    """
    return _SharedLoss.apply(users, items, batch, objective)


class _SharedLoss(Function):
    """Forward computes the gradients too: all that they need is at hand there."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, batch: SharedBatch, objective: Objective) -> Tensor:
        size, (groups, n) = len(batch.users), batch.negatives.shape
        user = users.index_select(0, batch.users)  # (B, D)
        dim = user.shape[1]
        user = F.pad(user, (0, 1), value=1.0) if objective.bias else user  # (B, E)
        positive = items.index_select(0, batch.items)  # (B, E)
        negative = items.index_select(0, batch.negatives.reshape(-1)).view(groups, n, -1)  # (S, n, E)
        grouped = user.view(groups, size // groups, -1)  # (S, R, E)
        scores = torch.bmm(grouped, negative.transpose(1, 2)).view(size, n)  # (B, n)
        own = (user * positive).sum(1)  # (B,)
        losses, to_own, to_scores = _slopes(own, scores, batch.known, objective)
        share = torch.full_like(own, 1 / size) if batch.weights is None else batch.weights / size  # (B,)
        to_own, to_scores = to_own * share, (to_scores * share.unsqueeze(1)).view(groups, -1, n)  # (B,), (S, R, n)

        to_user = torch.bmm(to_scores, negative).view(size, -1).addcmul_(positive, to_own.unsqueeze(1))[:, :dim]
        to_items = items.new_empty(size + groups * n, items.shape[1])  # (B + S * n, E)
        torch.mul(user, to_own.unsqueeze(1), out=to_items[:size])
        torch.bmm(to_scores.transpose(1, 2), grouped, out=to_items[size:].view(groups, n, -1))
        loss = losses @ share
        if objective.l2:
            rows, negatives = objective.l2 / size, objective.l2 / (groups * n)
            to_user = to_user.add(user[:, :dim], alpha=2 * rows)
            to_items[:size].add_(positive, alpha=2 * rows)
            to_items[size:].view(groups, n, -1).add_(negative, alpha=2 * negatives)
            norms = _square(user) - (size if objective.bias else 0) + _square(positive)
            loss = loss + rows * norms + negatives * _square(negative)
        touched = torch.cat([batch.items, batch.negatives.reshape(-1)])  # (B + S * n,)
        ctx.gradients = (batch.users, to_user, users.shape), (touched, to_items, items.shape)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (users, to_user, of_users), (items, to_items, of_items) = ctx.gradients
        return (
            _sparse(users, to_user.mul_(grads[0]), of_users),
            _sparse(items, to_items.mul_(grads[0]), of_items),
            None,
            None,
        )


def _slopes(own: Tensor, scores: Tensor, known: Tensor, objective: Objective) -> Slopes:
    """Loss and derivatives; `scores` (B, n) may be overwritten. Without negatives only the positive counts."""
    n = scores.shape[1]
    if objective.loss == "softmax":
        scores.view(-1)[known] = -torch.inf
        every = torch.cat([own.unsqueeze(1), scores], 1)  # (B, 1 + n)
        total = torch.logsumexp(every, 1)  # (B,)
        shares = torch.exp(every.sub_(total.unsqueeze(1)))  # (B, 1 + n)
        return total - own, shares[:, 0] - 1, shares[:, 1:]
    counts = n - torch.bincount(known // n, minlength=len(own))  # (B,) negatives that count
    each = torch.full_like(scores, objective.negative_weight if objective.loss != "bpr" else 1.0)  # (B, n)
    each.view(-1)[known] = 0.0
    each /= counts.clamp(min=1).unsqueeze(1)
    match objective.loss:
        case "bpr":
            above = scores - own.unsqueeze(1)  # (B, n)
            slope = torch.sigmoid(above).mul_(each)  # (B, n)
            return (F.softplus(above) * each).sum(1), -slope.sum(1), slope
        case "logistic":
            losses = F.softplus(-own) + (F.softplus(scores) * each).sum(1)  # (B,)
            return losses, torch.sigmoid(own) - 1, torch.sigmoid(scores) * each
        case _:
            return (own - 1) ** 2 + (scores.square() * each).sum(1), 2 * (own - 1), 2 * scores * each


def _square(rows: Tensor) -> Tensor:
    """Sum of squares, ()."""
    return torch.dot(rows.view(-1), rows.view(-1))


def _sparse(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    """A gradient whose rows (N,) may repeat, with values (N, D). Products of torch would sum them."""
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, shape, check_invariants=False)
