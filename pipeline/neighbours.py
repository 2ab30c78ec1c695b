"""Similar items: of a model that has a notion of them, else items interacted with by the same users."""

import polars as pl
import torch
from torch import Tensor

from pipeline import tables
from pipeline.interactions import History
from pipeline.models import Recommender

COOCCURRENCE = "cooccurrence"
TILE_BYTES = 256 * 2**20


def similar_items(model: Recommender, label: str, by_user: History, ids: pl.Series, k: int) -> pl.DataFrame:
    """The `k` nearest items of every item, only those with a positive similarity; ties by item index.

    `by_user` is used where the model has no similarity of its own; the column `model` says which one spoke.
    """
    n_items, device = len(ids), by_user.items.device
    k = min(k, n_items - 1)
    if k < 1:
        return tables.SIMILAR_ITEMS.without("run_id").empty()
    probe = model.similar(torch.zeros(1, dtype=torch.long, device=device))
    users_of = None if probe is not None else _users_of_items(by_user)
    parts = []
    tile = max(1, TILE_BYTES // (4 * n_items))
    for start in range(0, n_items, tile):
        items = torch.arange(start, min(start + tile, n_items), device=device)  # (B,)
        scores = model.similar(items) if users_of is None else _cosine(users_of, items)
        assert scores is not None
        parts.append(_nearest(scores, items, ids, k))
    return pl.concat(parts).select(
        "item_id", "rank", "similar_item_id", "score",
        pl.lit(label if users_of is None else COOCCURRENCE).alias("model"),
    )  # fmt: skip


def _nearest(scores: Tensor, items: Tensor, ids: pl.Series, k: int) -> pl.DataFrame:
    scores = scores.float().clone()  # (B, I)
    scores[torch.arange(len(items), device=items.device), items] = -torch.inf  # not similar to itself
    order = torch.sort(scores, dim=1, descending=True, stable=True)
    flat = pl.DataFrame(
        {
            "item": items.repeat_interleave(k).cpu().numpy(),
            "similar": order.indices[:, :k].flatten().cpu().numpy(),
            "score": order.values[:, :k].flatten().double().cpu().numpy(),
            "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(len(items)).numpy(),
        }
    ).filter(pl.col("score") > 0)
    return flat.select(
        ids.gather(flat["item"]).alias("item_id"),
        "rank",
        ids.gather(flat["similar"]).alias("similar_item_id"),
        "score",
    )


def _users_of_items(by_user: History) -> Tensor:
    """Users of every item with rows of unit length, sparse (I, U)."""
    counts = torch.bincount(by_user.items, minlength=by_user.n_items).clamp(min=1)
    at = torch.stack([by_user.items, by_user.rows])
    values = counts.float().rsqrt()[by_user.items]
    return torch.sparse_coo_tensor(at, values, (by_user.n_items, len(by_user))).to_sparse_csr()


def _cosine(users_of: Tensor, items: Tensor) -> Tensor:
    """Cosine of the user sets of `items` and of all, (B, I)."""
    own = torch.stack([users_of[i].to_dense() for i in items.tolist()])  # (B, U)
    return (users_of @ own.T).T
