"""All ratings at once: the squared error of millions of dot products and its gradient, without an (N, D) temporary."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from pipeline.training.interactions import History

CHUNK = 1 << 16
"""Pairs at a time on a CPU, so that what is in between stays in its cache."""


class Pairs:
    """N pairs of a user and an item, ordered by user; what their sums by user and by item need, made once."""

    def __init__(self, users: Tensor, items: Tensor, n_users: int, n_items: int):
        self.users, self.items = users.int(), items.int()  # (N,) each
        self.n_users, self.n_items = n_users, n_items
        self.by_item = torch.argsort(items, stable=True)  # (N,)
        self.user_offsets = History.of(users, items, n_users, n_items).offsets.int()  # (U + 1,)
        self.item_offsets = History.of(items, users, n_items, n_users).offsets.int()  # (I + 1,)
        self.users_by_item = self.users[self.by_item]  # (N,)

    def squared_error(self, x: Tensor, q: Tensor, values: Tensor) -> Tensor:
        """Sum of (value - <x_u, q_i>)² over the pairs, (U, D), (I, D), (N,) -> (); differentiable by x and q."""
        return _SquaredError.apply(x, q, values, self)


class _SquaredError(Function):
    """Forward: a column at a time, for a column fits a CPU's cache. Backward: two sparse-dense products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
        off = values.clone()  # (N,) becomes value - <x_u, q_i>
        columns = list(zip(x.T.contiguous(), q.T.contiguous(), strict=True))  # D times (U,), (I,)
        size = CHUNK if x.device.type == "cpu" else max(len(off), 1)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for part, users, items in zip(*(t.split(size) for t in (off, pairs.users, pairs.items)), strict=True):
            for of_users, of_items in columns:
                part.addcmul_(of_users.index_select(0, users), of_items.index_select(0, items), value=-1)
            total += part.dot(part)
        ctx.save_for_backward(x, q, off)
        ctx.pairs = pairs
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, q, off = ctx.saved_tensors
        pairs, scale = ctx.pairs, -2 * grads[0]
        by_user = _rows(pairs.user_offsets, pairs.items, off, (pairs.n_users, pairs.n_items))
        turned = off[pairs.by_item]  # (N,)
        by_item = _rows(pairs.item_offsets, pairs.users_by_item, turned, (pairs.n_items, pairs.n_users))
        return scale * (by_user @ q), scale * (by_item @ x), None, None


def _rows(offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)
