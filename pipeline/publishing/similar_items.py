"""Similar items: by the model where it has a similarity, else items with which the same users interacted."""

from collections.abc import Callable

import polars as pl
import torch
from torch import Tensor

from pipeline.models import Recommender
from pipeline.models.ops.history_products import gram_of
from pipeline.models.ops.topk import largest
from pipeline.schemas import tables
from pipeline.training.interactions import History

COOCCURRENCE = "cooccurrence"
TILE_BYTES = 64 * 2**20
COUNTED_ITEMS, COUNTED_FROM = 8192, 1 << 30
"""Items up to which co-occurrences are counted at once, in 256 MB, and entries times items from which that pays."""


def similar_items(
    model: Recommender, label: str, by_user: History, ids: pl.Series, k: int, allowed: Tensor | None = None
) -> pl.DataFrame:
    """The `k` nearest `allowed` (I,) items of every item, only those with a positive similarity; ties by item index.

    `by_user` is used where the model has no similarity; the column `model` says which of the two was used.
    """
    n_items, device = len(ids), by_user.items.device
    k = min(k, n_items - 1)
    if k < 1:
        return tables.SIMILAR_ITEMS.without("run_id").empty()
    own = model.similarity()
    if own is not None and own(torch.zeros(1, dtype=torch.long, device=device)) is None:
        own = None
    similarity = own or cooccurrence(by_user)
    width = n_items if own else max(n_items, len(by_user))
    tile = max(1, TILE_BYTES // (4 * max(width, 1)))
    # One table for all: small tensors that stay between large ones that go would scatter the memory of the process.
    near = torch.full((n_items, k), -1, dtype=torch.long)
    values = torch.zeros(n_items, k)
    for start in range(0, n_items, tile):
        items = torch.arange(start, min(start + tile, n_items), device=device)  # (B,)
        scores = similarity(items)
        assert scores is not None
        if allowed is not None:
            scores = scores.masked_fill(~allowed.to(device), -torch.inf)
        scores = scores.float().clone()  # (B, I)
        scores[torch.arange(len(items), device=device), items] = -torch.inf  # not similar to itself
        of_tile, similar, _ = largest(scores, k)  # (B, k) each
        values[start : start + tile], near[start : start + tile] = of_tile.cpu(), similar.cpu()
    return _frame(near, values, ids).with_columns(pl.lit(label if own else COOCCURRENCE).alias("model"))


def _frame(near: Tensor, values: Tensor, ids: pl.Series) -> pl.DataFrame:
    """Rows of the table: the items of positive similarity (I, k), nearest first."""
    n_items, k = near.shape
    flat = pl.DataFrame(
        {
            "item": torch.arange(n_items).repeat_interleave(k).numpy(),
            "similar": near.flatten().numpy(),
            "score": values.flatten().double().numpy(),
            "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(n_items).numpy(),
        }
    ).filter(pl.col("score") > 0)
    return flat.select(
        ids.gather(flat["item"]).alias("item_id"),
        "rank",
        ids.gather(flat["similar"]).alias("similar_item_id"),
        "score",
    )


def cooccurrence(by_user: History) -> Callable[[Tensor], Tensor]:
    """Cosine of the user sets of items and of all items, as a function (B,) -> (B, I).

    Of large histories of not too many items, all pairs are counted at once.
    """
    users_of = History.of(by_user.items, by_user.rows, by_user.n_items, len(by_user))  # rows are items
    length = users_of.lengths.clamp(min=1).rsqrt()  # (I,)
    if by_user.n_items <= COUNTED_ITEMS and len(by_user.items) * by_user.n_items > COUNTED_FROM:
        counts = gram_of(by_user, torch.ones(len(by_user), device=length.device))  # (I, I)
        return lambda items: counts[items] * length[items].unsqueeze(1) * length
    unit = users_of.sparse(length[users_of.rows])  # (I, U), rows of length 1

    def cosine(items: Tensor) -> Tensor:
        own = users_of[items].dense() * length[items].unsqueeze(1)  # (B, U)
        return (unit @ own.T).T

    return cosine
