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
from dataclasses import dataclass, field, replace

import polars as pl
import torch
from torch import Tensor

from pipeline.models import Recommender
from pipeline.models.ops.topk import largest
from pipeline.publishing.listed_users import Users
from pipeline.publishing.lists_by_attribute import Values
from pipeline.ranking.recommend import in_tiles, refuse_non_finite, served, tile_size
from pipeline.schemas import tables

PRIOR = 5.0
SAMPLE = 1000
"""Users whose median variance is v."""
DENSE = 16
"""Scores per candidate up to which whole tiles are merged."""


class Best:
    """The n best users of each of G groups so far, from tiles of users in ascending order."""

    def __init__(self, groups: int, n: int, device: torch.device):
        self.scores = torch.full((groups, n), -torch.inf, device=device)
        self.users = torch.full((groups, n), -1, device=device)

    def add(self, scores: Tensor, users: Tensor) -> None:
        """Scores (B, G) of users (B,), numbers above all earlier ones; -inf: not in the group.

        Only scores above the n-th best so far are sorted. At equal scores the lower number stays.
        """
        bar = self.scores[:, -1]  # (G,)
        if bool((bar == -torch.inf).all()):  # the first users
            self._merge(torch.arange(len(self.scores), device=scores.device), scores.T, users)
            return
        row, group = (scores > bar).nonzero(as_tuple=True)  # (C,) each
        if (count := len(row)) * DENSE > scores.numel():
            self._merge(torch.arange(len(self.scores), device=scores.device), scores.T, users)
        elif count:
            order = torch.argsort(group, stable=True)
            row, group = row[order], group[order]
            touched, sizes = torch.unique_consecutive(group, return_counts=True)  # (G',) each
            place = torch.arange(count, device=row.device) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
            at = torch.repeat_interleave(torch.arange(len(touched), device=row.device), sizes)  # (C,)
            widest = int(sizes.max())
            new = scores.new_full((len(touched), widest), -torch.inf)
            whose = row.new_full((len(touched), widest), -1)
            new[at, place], whose[at, place] = scores[row, group], users[row]
            self._merge(touched, new, whose)

    def _merge(self, groups: Tensor, scores: Tensor, users: Tensor) -> None:
        """Scores (G', C) of further users (C,) or (G', C) of some groups."""
        n = self.scores.shape[1]
        both = torch.cat([self.scores[groups], scores], 1)  # (G', n + C)
        whose = torch.cat([self.users[groups], users.expand(scores.shape)], 1)
        values, at, _ = largest(both, n)
        self.scores[groups], self.users[groups] = values, torch.where(values > -torch.inf, whose.gather(1, at), -1)

    def frame(self, ids: pl.Series) -> pl.DataFrame:
        """Columns group, rank, user_id and score; `ids` by number."""
        n_groups, n = self.users.shape
        flat = pl.DataFrame(
            {
                "group": torch.arange(n_groups).repeat_interleave(n).numpy(),
                "rank": torch.arange(1, n + 1, dtype=torch.int32).repeat(n_groups).numpy(),
                "user": self.users.flatten().cpu().numpy(),
                "score": self.scores.flatten().double().cpu().numpy(),
            }
        ).filter(pl.col("user") >= 0)
        return flat.select("group", "rank", ids.gather(flat["user"]).alias("user_id"), "score")


@dataclass
class Audiences:
    """Collects audiences of `allowed` items (I,), None: of all, and of the values of attributes."""

    model: Recommender
    top_n: int
    allowed: Tensor | None
    values: Mapping[str, Values]
    _items: Best | None = None
    _by: dict[str, Best] = field(default_factory=dict)
    _typical: float | None = None
    _ids: list[pl.Series] = field(default_factory=list)
    _buffer: Tensor | None = None

    @torch.no_grad()
    def collect(self, parts: Iterable[Users]) -> None:
        """One pass over all users, in parts; those whom the model can't serve are in no audience."""
        for part in parts:
            before = sum(map(len, self._ids))
            self._ids.append(part.ids)
            part = replace(part, mask=part.mask.distinct())
            rows = served(self.model, part.index, part.history)  # (B,)
            n_items, device = part.history.n_items, part.index.device
            if self._items is None:
                self._begin(n_items, device)
            if self._typical is None and bool(rows.any()):
                some = rows.nonzero().squeeze(1)
                some = some[:: max(1, len(some) // SAMPLE)]
                spread = [self._centred(part, tile)[1] for tile in some.split(tile_size(n_items, device))]
                self._typical = float(torch.cat(spread).median())
            for tile in in_tiles(rows, tile_size(n_items, device)):
                self._add(part, tile, before)

    def _begin(self, n_items: int, device: torch.device) -> None:
        self._items = Best(n_items, self.top_n, device)
        for name, values in self.values.items():
            self._by[name] = Best(len(values.names), self.top_n, device)

    def _centred(self, part: Users, tile: Tensor) -> tuple[Tensor, Tensor]:
        """Scores less their mean (B, I), in reused memory, and variances (B,), of the items that are not masked."""
        scores = self.model.score(part.index[tile], part.history[tile]).float()  # (B, I)
        refuse_non_finite(scores.amax(1), part.index[tile])
        mask = part.mask[tile]
        own, items = mask.rows, mask.items  # (E,) each, distinct
        zero = scores.new_zeros(len(tile), dtype=torch.float64)
        left = (scores.shape[1] - mask.lengths).clamp(min=1)  # (B,)
        mean = (scores.sum(1).double() - zero.index_add(0, own, scores[own, items].double())) / left  # (B,)
        if self._buffer is None or len(self._buffer) < len(tile):
            self._buffer = torch.empty_like(scores)
        away = torch.sub(scores, mean.float().unsqueeze(1), out=self._buffer[: len(tile)])  # (B, I)
        square = torch.linalg.vector_norm(away, dim=1).double().square()  # (B,)
        square = square - zero.index_add(0, own, away[own, items].double().square())
        return away, (square / left).clamp(min=0).float()

    def _add(self, part: Users, tile: Tensor, before: int) -> None:
        assert self._items is not None and self._typical is not None
        away, variance = self._centred(part, tile)
        spread = (variance + self._typical).sqrt().clamp(min=1e-12).unsqueeze(1)  # (B, 1)
        z = away.div_(spread)  # (B, I)
        mask, users = part.mask[tile], before + tile
        for name, values in self.values.items():
            values = values.to(z.device)
            kept = z.clone()
            if self.allowed is not None:
                kept.mul_(self.allowed.to(z.device))
            kept[mask.rows, mask.items] = 0
            here = torch.ones_like(z) if self.allowed is None else self.allowed.to(z).expand(z.shape).clone()
            here[mask.rows, mask.items] = 0
            left = _total(here, values)  # (B, V)
            of_value = _total(kept, values) / (left + PRIOR)  # (B, V)
            self._by[name].add(of_value.masked_fill_(left == 0, -torch.inf), users)
        z[mask.rows, mask.items] = -torch.inf
        if self.allowed is not None:
            z.masked_fill_(~self.allowed.to(z.device), -torch.inf)
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


def _total(numbers: Tensor, values: Values) -> Tensor:
    """Sums (B, V) of numbers (B, I) over the items of each value."""
    return numbers.new_zeros(len(numbers), len(values.names)).index_add_(1, values.of, numbers[:, values.items])
