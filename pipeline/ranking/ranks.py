"""Top-k lists, and ranks of holdout events: exact, and independent of the tile size."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.models.base import Recommender
from pipeline.ranking.recommend import (
    Lists,
    ScoreError,
    ServeInputs,
    in_tiles,
    make_lists,
    refuse_non_finite,
    served,
    tile_size,
)
from pipeline.training.interactions import History

__all__ = [
    "LeakError",
    "Lists",
    "Ranks",
    "ScoreError",
    "candidate_ranks",
    "holdout_ranks",
    "refuse_leak",
    "served",
    "top_k",
]


USERS = 1 << 16
"""Users whose lists are ranked at once; a multiple of recommend.DOT_TILE."""


class LeakError(ValueError):
    """A holdout item is masked, so the event to predict is already known."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of the holdout events of N users; row n has events offsets[n] : offsets[n + 1]."""

    offsets: Tensor  # (N + 1,) int64
    ranks: Tensor  # (E,) int64; 1 is the best, 0 means below `depth`
    depth: int
    warm: Tensor  # (N,) bool: the user has a history
    lists: Lists | None = None  # top-`depth` lists; None where only candidates were ranked
    values: dict[tuple[str, int], Tensor] = field(default_factory=dict, compare=False, repr=False)
    """Metrics that were computed from these ranks, (N,) by metric and cutoff."""

    @property
    def n_holdout(self) -> Tensor:
        """Number of holdout events per user, (N,)."""
        return self.offsets[1:] - self.offsets[:-1]


@torch.no_grad()
def top_k(
    model: Recommender,
    users: Tensor,
    history: History,
    mask: History | None,
    k: int,
    *,
    allowed: Tensor | None = None,
    fallback: Tensor | None = None,
    tile: int | None = None,
) -> Lists:
    """The k best items for users (N,), without items in `mask`; a list is shorter only if fewer items are left.

    Rows of `history` and `mask` belong to `users`. `allowed` (I,) bool limits the items for all users. Users that the
    model can't serve (see `served`) get the items with the highest `fallback` scores (I,). Equal scores are ordered by
    item index. `tile` is the number of users scored at once, by default what fits TILE_BYTES. Raises ScoreError if a
    score is NaN or +inf, and ValueError if a fallback is needed and there is none.
    """
    _check_rows(users, history=history, mask=mask)
    if fallback is None and (n := int((~served(model, users, history)).sum())):
        raise ValueError(f"{type(model).__name__} can't serve {n:,} of {len(users):,} users, and there is no fallback")
    return make_lists(model, ServeInputs(users, history, mask, fallback), k, allowed=allowed, tile=tile)[0]


@torch.no_grad()
def holdout_ranks(
    model: Recommender,
    users: Tensor,
    history: History,
    mask: History | None,
    holdout: History,
    k_max: int,
    *,
    allowed: Tensor | None = None,
    fallback: Tensor | None = None,
    tile: int | None = None,
    leak_checked: bool = False,
) -> Ranks:
    """Rank of every holdout event among all unmasked items, up to k_max, and the top-k_max lists.

    Ties count against the model: rank = number of other unmasked items with a score >= the event's, plus the place
    among the user's own holdout items by score. So a constant scorer hits nothing. Events of users that neither the
    model nor a fallback serves have rank 0, as have those of items that are not `allowed`, (I,) bool. Raises LeakError
    if an item is both masked and held out, unless the caller has called `refuse_leak` (`leak_checked`), and ScoreError
    if a score is NaN or +inf.
    """
    _check_rows(users, history=history, mask=mask, holdout=holdout)
    if mask is not None and not leak_checked:
        refuse_leak(users, mask, holdout)
    parts = []
    for rows in torch.arange(len(users), device=users.device).split(USERS):  # at least one part
        all_rows = len(rows) == len(users)
        few, own, masked, held = (t if all_rows or t is None else t[rows] for t in (users, history, mask, holdout))
        assert isinstance(few, Tensor) and isinstance(own, History) and isinstance(held, History)
        assert not isinstance(masked, Tensor)
        inputs = ServeInputs(few, own, masked, fallback)
        lists, equals = make_lists(model, inputs, k_max, allowed=allowed, tile=tile, holdout=held)
        parts.append((lists, ranks_in(lists, equals, held, k_max)))
    ranks = torch.cat([ranks for _, ranks in parts])  # (E,)
    return Ranks(holdout.offsets, ranks, k_max, history.lengths > 0, Lists.joined([lists for lists, _ in parts]))


def ranks_in(lists: Lists, equals: Tensor, holdout: History, k_max: int) -> Tensor:
    """Rank of every holdout event in the lists of its row, 0 below `k_max`, (E,)."""
    events = _keys(holdout)  # (E,)
    listed, at = _row_keys(lists.items, holdout.n_items).flatten().sort()  # (N * k,)
    place = torch.searchsorted(listed, events).clamp(max=len(listed) - 1)  # (E,)
    found = listed[place] == events  # (E,)
    hit = torch.zeros_like(lists.items, dtype=torch.bool)  # (N, k)
    hit.view(-1)[at[place[found]]] = True
    ranks = _pessimistic(lists.scores, hit, equals)  # (N, k)
    ranks = torch.where(found, ranks.flatten()[at[place]], 0)  # (E,)
    return torch.where(ranks <= k_max, ranks, 0)


@torch.no_grad()
def candidate_ranks(
    model: Recommender,
    users: Tensor,
    history: History,
    holdout: Tensor,
    candidates: Tensor,
    *,
    fallback: Tensor | None = None,
    tile: int | None = None,
) -> Ranks:
    """Rank of holdout items (N,) among candidates (N, C), which are -1 where a row has fewer than C.

    Ties count against the model. A candidate that is the holdout item itself is ignored. The rank is the last one for
    users that neither the model nor a fallback serves.
    """
    _check_rows(users, history=history)
    items = torch.cat([holdout.unsqueeze(1), candidates], 1)  # (N, 1 + C)
    real = (items >= 0) & (items != items[:, :1])  # (N, 1 + C); the holdout item itself does not count
    scores = torch.zeros(items.shape, device=items.device)  # all equal, so the holdout is last
    by_model = served(model, users, history)
    for rows in in_tiles(by_model, tile or tile_size(history.n_items, users.device)):
        scores[rows] = model.score(users[rows], history[rows], items[rows].clamp(min=0)).float()
    if fallback is not None:
        scores = torch.where(by_model.unsqueeze(1), scores, fallback.float()[items.clamp(min=0)])
    refuse_non_finite(scores.masked_fill(items < 0, 0).amax(1), users)
    ranks = 1 + (real & (scores >= scores[:, :1])).sum(1)  # (N,)
    return Ranks(torch.arange(len(users) + 1, device=users.device), ranks, items.shape[1], history.lengths > 0)


def _pessimistic(scores: Tensor, hit: Tensor, equals: Tensor) -> Tensor:
    """Rank of every place in the lists (N, k) if all non-holdout items with the same score came first."""
    others = (~hit).cumsum(1)  # (N, k)
    end = torch.searchsorted(-scores, -scores, right=True) - 1  # (N, k) last place with the same score
    last = scores == scores[:, -1:]  # (N, k)
    unlisted = (equals - (last & ~hit).sum(1)).clamp(min=0).unsqueeze(1)  # (N, 1)
    return others.gather(1, end) + hit.cumsum(1) + last * unlisted


def _row_keys(items: Tensor, n_items: int) -> Tensor:
    """A unique number per row and item, (N, k); -1 for item -1."""
    rows = torch.arange(len(items), device=items.device).unsqueeze(1)
    return torch.where(items < 0, -1, rows * n_items + items)


def _keys(history: History) -> Tensor:
    """A unique number per row and item, (E,)."""
    return history.rows * history.n_items + history.items


def refuse_leak(users: Tensor, mask: History, holdout: History) -> None:
    """Raise LeakError if an item is both masked and held out for one of the users (N,)."""
    total, first = 0, ""
    for rows in torch.arange(len(users), device=users.device).split(USERS):
        few, known, held = (t if len(rows) == len(users) else t[rows] for t in (users, mask, holdout))
        assert isinstance(few, Tensor) and isinstance(known, History) and isinstance(held, History)
        leaks = _are_in(_keys(held), _keys(known)).nonzero()
        if len(leaks) and not total:
            event = leaks[0, 0]
            first = f"user {int(few[held.rows[event]])}, item {int(held.items[event])}"
        total += len(leaks)
    if total:
        raise LeakError(f"{total:,} holdout events are masked as well, first: {first}")


def _are_in(few: Tensor, many: Tensor) -> Tensor:
    """Which of `few` (E,) are among `many` (K,), both non-negative; most of `many` are dismissed by a table of bits."""
    bits = torch.zeros(1 << max(10, (16 * len(few)).bit_length()), dtype=torch.bool, device=few.device)
    bits[few & (len(bits) - 1)] = True
    return torch.isin(few, many[bits[many & (len(bits) - 1)]])


def _check_rows(users: Tensor, **histories: History | None) -> None:
    for name, rows in histories.items():
        if rows is not None and len(rows) != len(users):
            raise ValueError(f"{name} has {len(rows):,} rows for {len(users):,} users")
