"""The k largest scores of every row, exactly: equal scores go by item index, at the end of the list too."""

from math import isqrt

import torch
from torch import Tensor


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, I) to the k <= I best a row: values (B, k), items (B, k) and `tied` (B,).

    Ordered by score, highest first, then by item. `tied` rows have items with a score equal to the last one
    listed that found no room; -inf never ties. NaN counts as the largest score, so it shows in column 0.
    """
    n_items = scores.shape[1]
    values, items = unordered(scores, min(k + 1, n_items))  # (B, k + 1): one more shows a tie at the end
    tied = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)  # (B,)
    if n_items > k:
        tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
        values, items = values[:, :k], items[:, :k]
        rows = tied.nonzero().squeeze(1)  # (R,)
        if len(rows):
            items[rows] = _lowest_of_equals(scores[rows], values[rows], items[rows])
    return *ordered(values, items), tied


def ordered(values: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """(B, k) values, highest first, and their items; items of equal values by number."""
    rows = (values[:, 1:] == values[:, :-1]).any(1).nonzero().squeeze(1)  # (R,)
    if len(rows):
        own = values[rows]
        by_item = items[rows].argsort(1)  # (R, k)
        order = own.gather(1, by_item).argsort(dim=1, descending=True, stable=True)
        items = items.index_copy(0, rows, items[rows].gather(1, by_item.gather(1, order)))
    return values, items


def unordered(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values, highest first, and items of the k largest scores; which of equal ones is left open.

    `topk` over all items is slow. Cut them into groups: the k groups with the largest maxima hold the k
    largest scores, since a score elsewhere is at most the k-th of those maxima. A group is every G-th item,
    so the maxima run over whole columns at once, which vectorises.
    """
    n_items = scores.shape[1]
    width = isqrt(n_items // k)  # balances the n_items / width maxima against the k * width candidates
    if scores.device.type == "cuda":  # where gathering candidates costs more
        width //= 2
    if width < 4:
        return scores.topk(k, dim=1)
    n_groups = n_items // width
    maxima = scores[:, : width * n_groups].unflatten(1, (width, n_groups)).amax(1)  # (B, G)
    groups = maxima.topk(k, dim=1, sorted=False).indices  # (B, k)
    members = n_groups * torch.arange(width, device=scores.device)  # (W,) of group 0
    rest = torch.arange(width * n_groups, n_items, device=scores.device)  # fewer than W, in no group
    items = (groups.unsqueeze(2) + members).flatten(1)  # (B, k * W)
    items = torch.cat([items, rest.expand(len(scores), -1)], 1)
    values, at = scores.gather(1, items).topk(k, dim=1)
    return values, items.gather(1, at)


def _lowest_of_equals(scores: Tensor, values: Tensor, items: Tensor) -> Tensor:
    """Items (R, k), those equal to the last value replaced by the lowest-numbered items of that score."""
    last = values[:, -1:]  # (R, 1)
    n_items, k = scores.shape[1], values.shape[1]
    minus_index = -torch.arange(n_items, dtype=torch.int32, device=scores.device)  # (I,)
    keys = torch.where(scores == last, minus_index, -n_items)  # (R, I) int32
    equal = -keys.topk(k, dim=1).values.long()  # (R, k), ascending
    greater = (values > last).sum(1, keepdim=True)  # (R, 1)
    place = (torch.arange(k, device=scores.device) - greater).clamp(min=0)  # (R, k)
    return torch.where(values > last, items, equal.gather(1, place))
