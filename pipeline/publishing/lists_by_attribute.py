"""Lists of every user by the values of an item attribute, e.g. the best ten of each category, from one scoring pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.models import Recommender
from pipeline.models.ops.topk import largest
from pipeline.publishing.attribute_values import Members, Values, cells
from pipeline.ranking.recommend import LOWEST, Lists, ServeInputs, in_tiles, refuse_non_finite, served
from pipeline.schemas import tables

CELLS = 1 << 24
"""Scores that are held at once: 64 MB, and as much again for their copies by value."""
CUT_CELLS = 1 << 20
"""Places of deep lists, times values of an item, that are looked at at once: what stays in the cache of a CPU."""
MOST_CELLS = 1 << 26
"""Largest table of the values of all items."""
DEEPER, DEEPEST = 4, 500
"""How many times more items than all lists of a user have the deep lists have, and at most."""


@dataclass(frozen=True)
class ValueLists:
    """Lists of some users, one for each of their values."""

    users: Tensor
    """(R,) row of the user."""
    values: Tensor
    """(R,) index of the value."""
    items: Tensor
    """(R, n) best first; -1 where a list ends."""
    scores: Tensor
    """(R, n)"""


def depth(config: ByAttribute) -> int:
    """How deep lists of all items should be, so that most of `lists_by` can be cut out of them; 0: they do not help."""
    wanted = config.values * config.top_n
    return 0 if wanted > DEEPEST else min(DEEPER * wanted, DEEPEST)


@torch.no_grad()
def lists_by(
    model: Recommender,
    inputs: ServeInputs,
    allowed: Tensor | None,
    values: Values,
    config: ByAttribute,
    deep: Lists | None = None,
) -> Iterator[ValueLists]:
    """Lists of all users by value, in tiles of users; those of a user may be in several tiles.

    A user has lists of the `config.values` values whose best items have the highest scores, ties by name. Each list has
    the best items of its value that are `allowed` (I,) and not in the mask. Users that the model can't serve are ranked
    by the fallback.

    `deep` are lists of all items by the same model and mask, of at least the allowed items. What they have enough of is
    cut out of them, so that only users with a longer list of a value are scored again.
    """
    assert inputs.fallback is not None
    if not len(values.names):
        return
    to_do = served(model, inputs.users, inputs.history)  # (N,)
    by_model = to_do.clone()
    size = max(1, CELLS // max(inputs.n_items, len(values.items)))
    if deep is not None and (cutter := Cutter.of(deep, inputs, allowed, values, config)):
        again = []
        for rows in in_tiles(by_model, cutter.size):
            cut = cutter.cut(rows)
            yield cut.lists
            again.append(cut.again)
            to_do[rows[cut.settled]] = False
        pairs = torch.cat(again) if again else inputs.users.new_empty(0, 2)  # (P, 2) by user
        counts = torch.bincount(pairs[:, 0], minlength=len(to_do))  # (N,)
        for rows in in_tiles(counts > 0, size):
            scores = _listable(model.score(inputs.users[rows], inputs.history[rows]), rows, inputs, allowed)
            some, pairs = pairs.tensor_split([int(counts[rows].sum())])
            user = torch.repeat_interleave(counts[rows])
            yield _best_of(Pairs(rows, user, some[:, 1]), scores, values, config)
    for rows in in_tiles(to_do, size):
        scores = model.score(inputs.users[rows], inputs.history[rows])
        yield _of_tile(rows, _listable(scores, rows, inputs, allowed), values, config)
    for rows in in_tiles(~by_model, size):
        scores = inputs.fallback.expand(len(rows), -1)
        yield _of_tile(rows, _listable(scores, rows, inputs, allowed), values, config)


def _listable(scores: Tensor, rows: Tensor, inputs: ServeInputs, allowed: Tensor | None) -> Tensor:
    """Scores (B, I), -inf where an item must not be listed. Raises ScoreError for a score that is NaN or +inf."""
    refuse_non_finite(scores.amax(1), inputs.users[rows])
    kept = scores.float().clamp(min=LOWEST)  # (B, I)
    if allowed is not None:
        kept.masked_fill_(~allowed, -torch.inf)
    if inputs.mask is not None:
        masked = inputs.mask[rows]
        kept[masked.rows, masked.items] = -torch.inf
    return kept


@dataclass(frozen=True)
class Pairs:
    """Lists that are wanted: of users and values."""

    rows: Tensor
    """(B,) the users of a tile."""
    user: Tensor
    """(P,) place of the user in it."""
    value: Tensor
    """(P,)"""


def _of_tile(rows: Tensor, scores: Tensor, values: Values, config: ByAttribute) -> ValueLists:
    ordered = scores.index_select(1, values.items)  # (B, E): by value, so that each has columns next to one another
    best = torch.stack([ordered[:, start:end].amax(1) for start, end in values.spans], 1)  # (B, V)
    top, chosen, _ = largest(best, min(config.values, len(values.names)))  # (B, m) each
    user, place = (top > -torch.inf).nonzero(as_tuple=True)  # (P,) each
    return _best_of(Pairs(rows, user, chosen[user, place]), scores, values, config)


def _best_of(pairs: Pairs, scores: Tensor, values: Values, config: ByAttribute) -> ValueLists:
    """Lists of pairs from the scores (B, I) of a tile."""
    items = pairs.rows.new_full((len(pairs.user), config.top_n), -1)  # (P, n)
    found = scores.new_full((len(pairs.user), config.top_n), -torch.inf)  # (P, n)
    sizes, order = values.sizes[pairs.value].sort()  # (P,) each: pairs with about as many items are ranked together
    start, n_items, ends = 0, scores.shape[1], sizes.tolist()
    while start < len(order):
        end = start + 1
        while end < len(order) and ends[end] * (end - start + 1) <= CUT_CELLS and ends[end] <= 2 * ends[start]:
            end += 1
        some, width = order[start:end], ends[end - 1]  # (G,)
        column = torch.arange(width, device=order.device)  # (W,)
        there = column < sizes[start:end, None]  # (G, W)
        place = torch.where(there, values.starts[pairs.value[some], None] + column, 0)
        item = values.items[place]  # (G, W)
        own = scores.view(-1)[pairs.user[some, None] * n_items + item].masked_fill_(~there, -torch.inf)
        best, at, _ = largest(own, min(config.top_n, width))  # (G, n') each
        items[some, : best.shape[1]] = torch.where(best > -torch.inf, item.gather(1, at), -1)
        found[some, : best.shape[1]] = best
        start = end
    return ValueLists(pairs.rows[pairs.user], pairs.value, items, found)


@dataclass(frozen=True)
class Cut:
    """What deep lists (B, D) have of the lists of a tile of users."""

    lists: ValueLists
    settled: Tensor
    """(B,): it is known which values the user has lists of."""
    again: Tensor
    """(P, 2) user and value of lists of these users that are longer than what the deep ones have; by user."""


@dataclass(frozen=True)
class Cutter:
    """Cuts lists of values out of deep lists.

    The first items of a value in a deep list are its best ones. A list is complete with `top_n` of them, or with all
    items of the value that the user may get. The values with the best items are known if their best scores are above
    the last one of the deep list, since all further items have at most that.
    """

    deep: Lists
    inputs: ServeInputs
    allowed: Tensor | None
    config: ByAttribute
    members: Members
    values_of: Tensor
    """(I, A)"""

    @classmethod
    def of(
        cls, deep: Lists, inputs: ServeInputs, allowed: Tensor | None, values: Values, config: ByAttribute
    ) -> "Cutter | None":
        """None where items have so many values that a table of them is too large."""
        widest = int(torch.bincount(values.items).max())
        if widest * inputs.n_items > MOST_CELLS:
            return None
        members = Members(values, allowed, inputs.n_items)
        return cls(deep, inputs, allowed, config, members, values.by_item(inputs.n_items))

    @property
    def size(self) -> int:
        """Users per tile."""
        per_user = max(self.deep.items.shape[1] * self.values_of.shape[1], len(self.members.count))
        return max(1, CUT_CELLS // per_user)

    def cut(self, rows: Tensor) -> Cut:
        """The lists of users (B,), as far as the deep lists have them."""
        items, scores = self.deep.items[rows], self.deep.scores[rows]  # (B, D) each
        free = items >= 0
        whole = ~free[:, -1] | (items.shape[1] == self.inputs.n_items)  # (B,): no item is left
        items = items.clamp(min=0)
        if self.allowed is not None:
            free &= self.allowed[items]
        n_values, n = len(self.members.count), self.config.top_n
        own = self.values_of[items].masked_fill_(~free.unsqueeze(2), n_values)  # (B, D, A)
        best = scores.new_full((len(rows), n_values + 1), -torch.inf)
        best.scatter_reduce_(1, own.flatten(1), scores.unsqueeze(2).expand(own.shape).flatten(1), "amax")
        top, chosen, _ = largest(best[:, :-1].contiguous(), min(self.config.values, n_values))  # (B, m) each
        settled = whole | (top[:, -1] > scores[:, -1])  # (B,)
        wanted = settled.unsqueeze(1) & (top > -torch.inf)  # (B, m)
        found_items = items.new_full((*top.shape, n), -1)  # (B, m, n)
        found_scores = scores.new_full((*top.shape, n), -torch.inf)
        counts = torch.zeros_like(chosen)
        for at in range(top.shape[1]):
            value = chosen[:, at : at + 1]  # (B, 1)
            is_of = (own == value.unsqueeze(2)).any(2)  # (B, D)
            place = is_of.cumsum(1, dtype=torch.int32)  # (B, D)
            counts[:, at] = place[:, -1]
            row, column = (is_of & (place <= n)).nonzero(as_tuple=True)  # (E,) each
            to = place[row, column].long() - 1
            found_items[row, at, to], found_scores[row, at, to] = items[row, column], scores[row, column]
        done = whole.unsqueeze(1) | (counts >= n)  # (B, m)
        few = (wanted & ~done).any(1).nonzero().squeeze(1)  # (F,)
        if len(few):
            done[few] |= counts[few] == self._left(rows[few]).gather(1, chosen[few])
        user, at = (wanted & done).nonzero(as_tuple=True)  # (R,) each
        lists = ValueLists(rows[user], chosen[user, at], found_items[user, at], found_scores[user, at])
        short, place = (wanted & ~done).nonzero(as_tuple=True)  # (P,) each
        return Cut(lists, settled, torch.stack([rows[short], chosen[short, place]], 1))

    def _left(self, rows: Tensor) -> Tensor:
        """How many items of each value the users (B,) may get, (B, V)."""
        if self.inputs.mask is None:
            return self.members.count.expand(len(rows), -1)
        return self.members.left(cells(self.inputs.mask[rows]), len(rows))


def frame(
    lists: Iterator[ValueLists], attribute: str, names: pl.Series, users: pl.Series, ids: pl.Series
) -> pl.DataFrame:
    """Rows of tables.RECOMMENDATIONS_BY without list_id; users (N,) and ids (I,) are the source's."""
    parts = [tables.RECOMMENDATIONS_BY.without("list_id").empty()]
    for made in lists:
        n, k = made.items.shape
        flat = pl.DataFrame(
            {
                "user": made.users.repeat_interleave(k).cpu().numpy(),
                "value": made.values.repeat_interleave(k).cpu().numpy(),
                "rank": torch.arange(1, k + 1, dtype=torch.int32).repeat(n).numpy(),
                "item": made.items.flatten().cpu().numpy(),
                "score": made.scores.flatten().double().cpu().numpy(),
            }
        ).filter(pl.col("item") >= 0)
        parts.append(
            flat.select(
                users.gather(flat["user"]).alias("user_id"),
                pl.lit(attribute).alias("attribute"),
                names.gather(flat["value"]).alias("value"),
                "rank",
                ids.gather(flat["item"]).alias("item_id"),
                "score",
            )
        )
    return pl.concat(parts)
