"""Scores of chosen pairs: many dot products, without a copy of an item's row for every one of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from pipeline.models.ops.least_squares import products
from pipeline.training.interactions import History


def short(index: Tensor) -> Tensor:
    """The same indices; on CUDA in 32 bits, where gradients of looked-up rows are summed by sorting them."""
    return index.int() if index.device.type == "cuda" else index


def pair_scores(vectors: Tensor, table: nn.Embedding, items: Tensor, large: bool = False) -> Tensor:
    """<vectors[b], table[items[b, c]]>, (B, D), (B, C) -> (B, C); float32, also under autocast.

    The same as `bmm` of looked-up rows, but nothing of size (B, C, D) is ever made: several times faster on
    a CPU. `large`: by a kernel that is faster still, but rounds in another way, so small models keep their results.
    """
    return _PairScores.apply(vectors.float(), table.weight, items, table.sparse, large)


def row_scores(vectors: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """<vectors[b], rows[items[b, c]]>, (B, D), (I, D), (B, C) -> (B, C): `pair_scores` of computed rows."""
    return _PairScores.apply(vectors.float(), rows.float(), items, False, False)


def weighted_norms(table: Tensor, shares: Tensor) -> Tensor:
    """Sum over rows of shares[i] * |table[i]|^2, (I, D), (I,) -> (); no gradient for `shares`.

    The same as squares and sums, but nothing of size (I, D) is made on the way, and one in the backward.
    """
    return _WeightedNorms.apply(table, shares)


class _WeightedNorms(Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, shares)
        return torch.linalg.vector_norm(table, dim=1).square_() @ shares

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        table, shares = ctx.saved_tensors
        return table * (2 * grads[0] * shares).unsqueeze(1), None


class _PairScores(Function):
    """Forward: sampled dense-dense product. Backward: two sparse-dense ones, as weighted bags of rows."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, items: Tensor, sparse: bool, large: bool) -> Tensor:
        ctx.save_for_backward(vectors, weight, items)
        ctx.sparse = sparse
        flat = items.reshape(-1)  # (B * C,)
        if large and items.device.type == "cpu":
            starts = torch.arange(0, len(flat) + 1, max(items.shape[1], 1), device=items.device)  # (B + 1,)
            return products(vectors, weight.detach(), History(starts, flat, len(weight))).view_as(items)
        rows = torch.arange(len(items), device=items.device).repeat_interleave(items.shape[1])  # (B * C,)
        # out[e] = <vectors[rows[e]], weight[flat[e]]>: what autograd needs for the weights of a bag
        product = torch.ops.aten._embedding_bag_per_sample_weights_backward
        starts = torch.arange(0, len(flat), max(items.shape[1], 1), device=items.device)
        return product(vectors, weight, flat, starts, rows, 0, -1).view_as(items)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        vectors, weight, items = ctx.saved_tensors
        grad = grads[0].contiguous()  # (B, C)
        to_vectors, to_weight = None, None
        if ctx.needs_input_grad[0]:
            to_vectors = F.embedding_bag(items, weight.detach(), mode="sum", per_sample_weights=grad)  # (B, D)
        if ctx.needs_input_grad[1]:
            order, touched, bags = _by_item(short(items.reshape(-1)), len(weight), ctx.sparse)
            rows = torch.div(order, items.shape[1], rounding_mode="floor")  # (B * C,)
            to_weight = F.embedding_bag(rows, vectors, bags, mode="sum", per_sample_weights=grad.reshape(-1)[order])
            if ctx.sparse:
                to_weight = torch.sparse_coo_tensor(
                    touched[None], to_weight, weight.shape, is_coalesced=True, check_invariants=False
                )
        return to_vectors, to_weight, None, None, None


def _by_item(flat: Tensor, n_items: int, sparse: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Items (N,) to their order, grouped by item, (N,), and groups (T,): the item, and where it begins.

    The groups are those of all items, or of those that are there (`sparse`).
    """
    everyone = torch.arange(n_items, device=flat.device, dtype=flat.dtype)
    if flat.device.type == "cpu":
        counts = torch.bincount(flat, minlength=n_items)  # (I,)
        touched = counts.nonzero().squeeze(1) if sparse else everyone  # (T,)
        counts = counts[touched] if sparse else counts
        return torch.argsort(flat.int(), stable=True), touched, torch.cumsum(counts, 0) - counts
    grouped, order = torch.sort(flat, stable=True)  # without a sync, unless `sparse`
    touched = torch.unique_consecutive(grouped) if sparse else everyone
    return order, touched, torch.searchsorted(grouped, touched)
