"""Promotions of `[export]`: places of the lists that are given to items of a choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.ranking.recommend import Lists

MakeLists = Callable[[int, Tensor | None], Lists]
"""From a depth and the allowed items (I,) bool, or None for all, to the best lists (N, depth)."""


@dataclass(frozen=True)
class Promotion:
    """The items of a place."""

    place: int
    """1 is the top."""
    items: Tensor
    """(I,) bool."""


def promote(
    lists: Lists, promotions: Sequence[Promotion], make: MakeLists, allowed: Tensor | None
) -> tuple[Lists, Tensor, list[tuple[Tensor, int]]]:
    """Lists (N, k) with promoted items at their places, and which of their items are promoted, (N, k) bool.

    Then, for each promotion, the item of each list that has the place or a higher one by its score, (N,), or -1, and
    the column of the place.

    For each user the best of a promotion's items that is allowed, not masked and not chosen for another place goes to
    the place, and what stood there moves down. If that item is in the list at this place or above, the list stays as
    it is. A list that is too short for the place gets the item at its end.
    """
    items, scores = lists.items, lists.scores
    device, k = items.device, items.shape[1]
    promoted = torch.zeros_like(items, dtype=torch.bool)  # (N, k)
    chosen: list[Tensor] = []  # (N,) each
    by_score: list[tuple[Tensor, int]] = []
    column = torch.arange(k, device=device)  # (k,)
    for promotion in sorted(promotions, key=lambda each: each.place):
        among = promotion.items if allowed is None else promotion.items & allowed  # (I,)
        if not among.any():
            continue
        best = _first_free(make(min(len(promotions), int(among.sum())), among), chosen)  # item, score: (N,) each
        chosen.append(best[0])
        is_there = items == best[0].unsqueeze(1)  # (N, k)
        at = torch.where(is_there.any(1), is_there.int().argmax(1), k)  # (N,); k: not in the list
        moves = (best[0] >= 0) & (at >= promotion.place)  # (N,)
        by_score.append((torch.where(moves, -1, best[0]), promotion.place - 1))
        target = (items >= 0).sum(1).clamp(max=promotion.place - 1)  # (N,)
        shifted = (column > target.unsqueeze(1)) & (column <= at.unsqueeze(1)) & moves.unsqueeze(1)  # (N, k)
        source = column - shifted.long()  # (N, k)
        placed = (column == target.unsqueeze(1)) & moves.unsqueeze(1)  # (N, k)
        items = torch.where(placed, best[0].unsqueeze(1), items.gather(1, source))
        scores = torch.where(placed, best[1].unsqueeze(1), scores.gather(1, source))
        promoted = placed | (promoted.gather(1, source) & ~placed)
    return Lists(items, scores, lists.from_fallback), promoted, by_score


def _first_free(candidates: Lists, chosen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The first item of each list (N, C) that is not in `chosen`, and its score, (N,); item -1 where there is none."""
    free = candidates.items >= 0  # (N, C)
    for taken in chosen:
        free &= candidates.items != taken.unsqueeze(1)
    first = free.int().argmax(1, keepdim=True)  # (N, 1)
    item, score = candidates.items.gather(1, first), candidates.scores.gather(1, first)
    return torch.where(free.any(1), item.squeeze(1), -1), score.squeeze(1)
