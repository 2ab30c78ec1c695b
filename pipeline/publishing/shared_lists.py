"""Several lists of the same users from one scoring pass."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from pipeline.ranking.recommend import Lists

MakeSome = Callable[[Tensor | None, int, Tensor | None], Lists]
"""From rows (R,) of the users, or None for all, a depth and the allowed items (I,), or None for all, to lists."""
DEEPER = 5
"""How many times deeper than the longest list wanted the shared lists are."""


class SharedLists:
    """A `promotions.MakeLists` that cuts lists of all allowed items out of deeper ones, which are made once.

    The lists are those that a pass of their own would give: the best allowed items of a user are the first allowed ones
    of the deep list, if it has enough of them. The users for whom it has not are scored again.
    """

    def __init__(self, make: MakeSome, longest: int, n_items: int):
        self.make, self.n_items = make, n_items
        self.depth = min(DEEPER * longest, n_items)
        self.again = 0
        """Users who were scored again so far."""

    @cached_property
    def deep(self) -> Lists:
        """The deep lists of all items, (N, D)."""
        return self.make(None, self.depth, None)

    def __call__(self, k: int, allowed: Tensor | None) -> Lists:
        """The best k of the allowed items (I,) for all users, (N, k)."""
        if k > self.depth:
            return self.make(None, k, allowed)
        deep = self.deep
        if allowed is None:
            return Lists(deep.items[:, :k], deep.scores[:, :k], deep.from_fallback)
        allowed = allowed.to(deep.items.device)
        free = (deep.items >= 0) & allowed[deep.items.clamp(min=0)]  # (N, D)
        place = free.cumsum(1) - 1  # (N, D)
        row, column = (free & (place < k)).nonzero(as_tuple=True)  # (E,) each
        items = deep.items.new_full((len(free), k), -1)
        scores = deep.scores.new_full((len(free), k), -torch.inf)
        at = place[row, column]  # (E,)
        items[row, at], scores[row, at] = deep.items[row, column], deep.scores[row, column]
        whole = (deep.items[:, -1] < 0) | (self.depth == self.n_items)  # (N,): no item is left
        short = (~whole & (place[:, -1] + 1 < k)).nonzero().squeeze(1)  # (R,)
        if len(short):
            self.again += len(short)
            own = self.make(short, k, allowed)
            items[short], scores[short] = own.items, own.scores
        return Lists(items, scores, deep.from_fallback)
