"""The loss of a batch of ratings and its gradient in few kernels: on CUDA their number is what a small step takes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def batch_loss(
    pairs: tuple[Tensor, Tensor, Tensor],
    l2: Tensor,
    embeddings: tuple[Tensor, Tensor],
    biases: tuple[Tensor | None, ...],
) -> Tensor:
    """mean(off² + l2 · squares), off = rating - <p_u, q_i> - b_u - b_i - μ, over the users, items and ratings (B,).

    `l2` (4,) weighs the squares of p_u, q_i, b_u and b_i. `embeddings` are (U, D) and (I, D), `biases` (U, 1), (I, 1)
    and (); those that are None are 0. Differentiable by embeddings and biases.
    """
    return _BatchLoss.apply(*pairs, l2, *embeddings, *biases)


class _BatchLoss(Function):
    """Rows are looked up once, and gradients are written down instead of followed back."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        ratings: Tensor,
        l2: Tensor,
        user: Tensor,
        item: Tensor,
        user_bias: Tensor | None,
        item_bias: Tensor | None,
        mean: Tensor | None,
    ) -> Tensor:
        looked_up = ((user, users), (item, items), (user_bias, users), (item_bias, items))
        p, q, b_u, b_i = (None if table is None else table.index_select(0, at) for table, at in looked_up)
        assert p is not None and q is not None
        off = ratings - (p * q).sum(1)  # (B,)
        for bias in (b_u, b_i):
            off = off if bias is None else off - bias.squeeze(1)
        off = off if mean is None else off - mean
        there = [at for at, rows in enumerate((p, q, b_u, b_i)) if rows is not None]
        weights = l2 if len(there) == 4 else torch.stack([l2[at] for at in there])  # (parts,)
        parts = [rows for rows in (p, q, b_u, b_i) if rows is not None]
        norms = torch._foreach_norm([off, *parts])  # pyright: ignore[reportPrivateImportUsage]
        squares = torch.stack(norms).square()  # (1 + parts,)
        ctx.save_for_backward(users, items, off, l2, p, q, b_u, b_i)
        ctx.sizes, ctx.with_mean = (len(user), len(item)), mean is not None
        return (squares[0] + squares[1:].dot(weights)) / len(ratings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        users, items, off, l2, p, q, b_u, b_i = ctx.saved_tensors
        n_users, n_items = ctx.sizes
        pull = grads[0] * (2 / len(off)) * l2  # (4,)
        push = (off * (grads[0] * (-2 / len(off)))).unsqueeze(1)  # (B, 1)
        to_table = torch.ops.aten.embedding_dense_backward
        return (
            None,
            None,
            None,
            None,
            to_table(torch.addcmul(p * pull[0], push, q), users, n_users, -1, False),
            to_table(torch.addcmul(q * pull[1], push, p), items, n_items, -1, False),
            None if b_u is None else to_table(torch.addcmul(push, b_u, pull[2]), users, n_users, -1, False),
            None if b_i is None else to_table(torch.addcmul(push, b_i, pull[3]), items, n_items, -1, False),
            push.sum() if ctx.with_mean else None,
        )
