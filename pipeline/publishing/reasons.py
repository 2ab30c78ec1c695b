"""Reasons: which items of a user's history a published score comes from."""

from collections.abc import Iterable, Iterator

import polars as pl
import torch
from torch import Tensor

from pipeline.models.base import Explainer
from pipeline.schemas import tables
from pipeline.training.interactions import History

TILE = 1 << 22
"""Numbers in one padded tensor of contributions: 16 MB."""
REST = 0
"""`because_rank` of the row that holds what the other items of the history add."""


def reasons(
    explain: Explainer, users: Tensor, history: History, items: Tensor, most: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Rows of list items and what they come from, by tiles: row b, place k, because_rank, item and share, (N,) each.

    users (B,), history of B rows without repeated items, items (B, K) with -1 where there is nothing to explain.
    A share is what an item of the history adds to the score, relative to all that adds; what lowers the score is left
    out. The `most` largest shares come first, ties by position in the history; the remaining sum has because_rank
    REST and item -1. Shares of a list item sum to 1. List items to which nothing adds have no rows.
    """
    order = torch.argsort(history.lengths)  # short rows together: padding stays small
    wanted = (history.lengths[order] > 0) & (items[order] >= 0).any(1)
    for rows in _tiles(order[wanted], history, items.shape[1]):
        part, listed = history[rows], items[rows]  # (b, K)
        added = explain(users[rows], part, listed.clamp(min=0)).clamp(min=0)  # (E, K)
        of_row, length = part.rows, int(part.lengths.max())
        place = torch.arange(len(of_row), device=of_row.device) - part.offsets[of_row]  # (E,)
        padded = added.new_zeros(len(rows), listed.shape[1], length, dtype=torch.float64)  # (b, K, L)
        padded[of_row, :, place] = added.double()
        padded[listed < 0] = 0
        shares = padded / padded.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        top, at = torch.sort(shares, dim=2, descending=True, stable=True)
        top, at = top[..., :most], at[..., :most]  # (b, K, most)
        rest = torch.where(top.sum(2) > 0, 1 - top.sum(2), 0.0).clamp(min=0)  # (b, K)
        rest[rest < 1e-12] = 0  # rounding
        row, k, rank = (top > 0).nonzero().unbind(1)
        yield rows[row], k, rank + 1, part.items[part.offsets[row] + at[row, k, rank]], top[row, k, rank]
        row, k = (rest > 0).nonzero().unbind(1)
        yield rows[row], k, torch.full_like(row, REST), torch.full_like(row, -1), rest[row, k]


def frame(parts: Iterable[tuple[Tensor, ...]], users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """Rows of tables.REASONS from what `reasons` yields, with the ids of list rows `users` and of `items`."""
    frames = [tables.REASONS.empty()]
    for row, place, because, item, share in ([values.cpu().numpy() for values in part] for part in parts):
        item = pl.Series(item)
        frames.append(
            pl.DataFrame(
                {
                    "user_id": users.gather(row),
                    "rank": (place + 1).astype("int32"),
                    "because_rank": because.astype("int32"),
                    "because_item_id": items.gather(item.set(item < 0, None)),
                    "share": share,
                }
            )
        )
    return pl.concat(frames)


def _tiles(rows: Tensor, history: History, n_listed: int) -> Iterator[Tensor]:
    """`rows`, ordered by length, in parts whose padded contributions are at most TILE numbers."""
    lengths, start = history.lengths[rows].tolist(), 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * lengths[end] * n_listed <= TILE:
            end += 1
        yield rows[start:end]
        start = end
