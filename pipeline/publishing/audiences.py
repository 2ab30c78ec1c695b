"""Audiences: the users who would like an item, or the items of an attribute's value, most; one pass over all users.

Raw scores of two users can't be compared: they grow with the length of the history, or shrink with how little is known.
So a score counts by how far it stands out among all that the user does not have yet:

    z(u, i) = (s(u, i) - mean_u) / sqrt(var_u + v)

with the mean and the variance of the user's scores over the items that may be listed to the user, and v the median of
these variances over users. Without v it is the standard score, by which users with few events win: almost all of their
scores are equal, so the spread is tiny. With a very large v it is the raw score without the user's mean, by which users
with many events win. The score of a value is the sum of z over its items that the user does not have, over PRIOR more
than their number, so that a few items left are no evidence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.models import Recommender
from pipeline.publishing.attribute_values import Members, Values, cells
from pipeline.publishing.listed_users import Users
from pipeline.ranking.recommend import in_tiles, refuse_non_finite, served, tile_size
from pipeline.schemas import tables

PRIOR = 5.0
SAMPLE = 1000
"""Users whose median variance is v."""
POOL = 4
"""Candidates per group that are held, as a multiple of n."""
POOL_CELLS = 1 << 26
"""Most candidates of all groups that are held: 512 MB. There are at least 1.5 n per group, though."""
LAST = (1 << 31) - 1
"""Highest number of a user."""
NOBODY = -2139095041 << 32
"""The key of a score of -inf."""


class Best:
    """The n best users of each of G groups so far, from tiles of users in ascending order.

    A user above the n-th best so far is a candidate. Candidates are appended to a pool as one number each, ordered by
    score and then by user. The pool is cut to the n best of a group only when it is full, so that sorting costs little.
    """

    def __init__(self, groups: int, n: int, device: torch.device):
        self.n, self.width = n, max(n + n // 2 + 1, min(POOL * n, POOL_CELLS // max(groups, 1)))
        self.keys = torch.full((groups, self.width), NOBODY, device=device)  # (G, W), of _keys
        self.filled = torch.zeros(groups, dtype=torch.long, device=device)  # (G,)
        self.bar = torch.full((groups,), -torch.inf, device=device)  # (G,): the n-th best score at the last cut
        self.room = self.width - n
        self.above = torch.empty(2, 0, dtype=torch.bool, device=device)

    def add(self, scores: Tensor, users: Tensor) -> None:
        """Scores (B, G) of users (B,), numbers above all earlier ones; -inf: not in the group.

        At equal scores the lower number stays.
        """
        groups = len(self.bar)
        for own, who in zip(scores.split(self.room), users.split(self.room), strict=True):  # (B', G), (B',)
            if not bool(self.filled.any()):  # the first users: all of them
                self.keys[:, : len(who)] = _keys(own.T, who)
                self.filled += len(who)
                continue
            if self.above.shape[1] < own.numel():
                self.above = self.above.new_empty(2, own.numel())
            flat, turned = self.above[:, : own.numel()]
            torch.gt(own, self.bar, out=flat.view(own.shape))
            turned.view(groups, -1).copy_(flat.view(own.shape).T)  # (G, B')
            found = _places(turned)  # (C,): by group
            group = found // len(who)
            self._append(group, own, who, found - group * len(who))

    def _append(self, group: Tensor, scores: Tensor, users: Tensor, row: Tensor) -> None:
        """Candidates (C,), by group, and their rows of scores (B', G) and users (B',)."""
        counts = torch.bincount(group, minlength=len(self.bar))  # (G,)
        if int((self.filled + counts).max()) > self.width:
            self._cut()
        first = self.filled + counts - counts.cumsum(0)  # (G,): place of a group's first candidate, less its number
        first += self.width * torch.arange(len(first), device=first.device)
        place = torch.arange(len(group), device=group.device) + first.index_select(0, group)
        own = scores.flatten().index_select(0, row * scores.shape[1] + group)  # (C,)
        self.keys.view(-1).index_copy_(0, place, _keys(own, users.index_select(0, row)))
        self.filled += counts

    def _cut(self) -> None:
        best = self.keys.topk(self.n, dim=1, sorted=False).values  # (G, n)
        self.keys[:, : self.n] = best
        self.keys[:, self.n :] = NOBODY
        self.filled.clamp_(max=self.n)
        self.bar = _scores(best.amin(1))

    def frame(self, ids: pl.Series) -> pl.DataFrame:
        """Columns group, rank, user_id and score; `ids` by number."""
        best = self.keys.topk(self.n, dim=1).values  # (G, n)
        scores = _scores(best)
        group, place = (scores > -torch.inf).nonzero(as_tuple=True)  # (R,) each
        users = (LAST - (best[group, place] & LAST)).cpu().numpy()
        return pl.DataFrame(
            {
                "group": group.cpu().numpy(),
                "rank": (place + 1).int().cpu().numpy(),
                "user_id": ids.gather(users),
                "score": scores[group, place].double().cpu().numpy(),
            }
        )


def _keys(scores: Tensor, users: Tensor) -> Tensor:
    """Scores and users as numbers that are larger for a higher score and, of equal scores, for a lower user.

    The high half has the bits of the score, those below the sign turned for negative numbers; so they are in order.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0: of -0 and 0
    bits = bits ^ ((bits >> 31) & LAST)
    return (bits.long() << 32) | (LAST - users)


def _scores(keys: Tensor) -> Tensor:
    bits = (keys >> 32).int()
    return (bits ^ ((bits >> 31) & LAST)).view(torch.float32)


def _places(flags: Tensor) -> Tensor:
    """Indices of the flags (N,) that are true."""
    if flags.device.type == "cpu":  # numpy takes a third of the time
        return torch.from_numpy(np.flatnonzero(flags.numpy()))
    return flags.nonzero().squeeze(1)


@dataclass(frozen=True)
class Centred:
    """Scores of some users, less the mean of each."""

    away: Tensor
    """(B, I)"""
    variance: Tensor
    """(B,), of the items that may be listed to the user."""
    masked: Tensor
    """(E,) places of masked items in the flat scores, ascending."""


@dataclass
class Audiences:
    """Collects audiences of `allowed` items (I,), None: of all, and of the values of attributes."""

    model: Recommender
    top_n: int
    allowed: Tensor | None
    values: Mapping[str, Values]
    _items: Best | None = None
    _by: dict[str, Best] = field(default_factory=dict)
    _members: dict[str, Members] = field(default_factory=dict)
    _allowed: Tensor | None = None
    _typical: float | None = None
    _ids: list[pl.Series] = field(default_factory=list)
    _buffer: Tensor | None = None

    @torch.no_grad()
    def collect(self, parts: Iterable[Users]) -> None:
        """One pass over all users, in parts; those whom the model can't serve are in no audience."""
        for part in parts:
            before = sum(map(len, self._ids))
            self._ids.append(part.ids)
            rows = served(self.model, part.index, part.history)  # (B,)
            n_items, device = part.history.n_items, part.index.device
            if self._items is None:
                self._begin(n_items, device)
            if self._typical is None and bool(rows.any()):
                some = rows.nonzero().squeeze(1)
                some = some[:: max(1, len(some) // SAMPLE)]
                spread = [self._centred(part, tile).variance for tile in some.split(tile_size(n_items, device))]
                self._typical = float(torch.cat(spread).median())
            for tile in in_tiles(rows, tile_size(n_items, device)):
                self._add(self._centred(part, tile), before + tile)

    def _begin(self, n_items: int, device: torch.device) -> None:
        self._items = Best(n_items, self.top_n, device)
        self._allowed = None if self.allowed is None else self.allowed.to(device)
        for name, values in self.values.items():
            self._by[name] = Best(len(values.names), self.top_n, device)
            self._members[name] = Members(values.to(device), self._allowed, n_items)

    def _centred(self, part: Users, tile: Tensor) -> "Centred":
        """Of the users `tile` (B,) of a part; in memory that the next call uses again."""
        scores = self.model.score(part.index[tile], part.history[tile]).float().contiguous()  # (B, I)
        refuse_non_finite(scores.amax(1), part.index[tile])
        masked = cells(part.mask[tile])  # (E,)
        known, listable = self._listable(masked, scores)  # (K,)
        own = known // scores.shape[1]  # (K,)
        zero = scores.new_zeros(len(tile), dtype=torch.float64)
        seen = scores.view(-1).index_select(0, known)  # (K,)
        n = scores.shape[1] if self._allowed is None else int(self._allowed.sum())
        left = (n - torch.bincount(own, minlength=len(tile))).clamp(min=1)  # (B,)
        mean = ((listable.sum(1).double() - zero.index_add(0, own, seen.double())) / left).float()  # (B,)
        if self._buffer is None or len(self._buffer) < len(tile):
            self._buffer = torch.empty_like(scores)
        away = torch.sub(scores, mean.unsqueeze(1), out=self._buffer[: len(tile)])  # (B, I)
        if self._allowed is not None:
            away.masked_fill_(~self._allowed, 0)  # they count for nothing, and are in no audience
        square = torch.linalg.vector_norm(away, dim=1).double().square()  # (B,)
        square = square - zero.index_add(0, own, (seen - mean.index_select(0, own)).double().square())
        return Centred(away, (square / left).clamp(min=0).float(), masked)

    def _listable(self, masked: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Places (K,) of `masked` (E,) with an allowed item, and scores (B, I) that are 0 for items that are not."""
        if self._allowed is None:
            return masked, scores
        return masked[self._allowed[masked % scores.shape[1]]], scores.masked_fill(~self._allowed, 0)

    def _add(self, tile: "Centred", users: Tensor) -> None:
        assert self._items is not None and self._typical is not None
        spread = (tile.variance + self._typical).sqrt().clamp(min=1e-12).unsqueeze(1)  # (B, 1)
        z = tile.away.div_(spread)  # (B, I)
        if self.values:
            z.view(-1).index_fill_(0, tile.masked, 0)
            turned = z.T.contiguous()  # (I, B)
            for name, members in self._members.items():
                left = members.left(tile.masked, len(users))  # (B, V)
                of_value = members.total(turned).T / (left + PRIOR)  # (B, V)
                self._by[name].add(of_value.masked_fill_(left == 0, -torch.inf), users)
        z.view(-1).index_fill_(0, tile.masked, -torch.inf)
        if self._allowed is not None:
            z.masked_fill_(~self._allowed, -torch.inf)
        self._items.add(z, users)

    def of_items(self, items: pl.Series) -> pl.DataFrame:
        """Rows of tables.AUDIENCES; ids (I,) of the items."""
        if self._items is None:
            return tables.AUDIENCES.empty()
        found = self._items.frame(pl.concat(self._ids))
        return found.select(items.gather(found["group"]).alias("item_id"), "rank", "user_id", "score")

    def of_values(self) -> pl.DataFrame:
        """Rows of tables.ATTRIBUTE_AUDIENCES."""
        parts: Sequence[pl.DataFrame] = [tables.ATTRIBUTE_AUDIENCES.empty()]
        for name, best in self._by.items():
            found = best.frame(pl.concat(self._ids))
            value = self.values[name].names.gather(found["group"]).alias("value")
            parts = [*parts, found.select(pl.lit(name).alias("attribute"), value, "rank", "user_id", "score")]
        return pl.concat(parts)
