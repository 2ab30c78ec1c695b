"""Lists of every user by the values of an item attribute, e.g. the best ten of each category, from one scoring pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from pipeline.config.publishing import ByAttribute
from pipeline.models import Recommender
from pipeline.models.ops.topk import largest
from pipeline.ranking.recommend import LOWEST, ServeInputs, in_tiles, refuse_non_finite, served
from pipeline.schemas import tables
from pipeline.sources import attributes

CELLS = 1 << 24
"""Scores that are held at once: 64 MB, and as much again for their copies by value."""


@dataclass(frozen=True)
class Values:
    """The values of an attribute among the items of a fit."""

    names: pl.Series
    """(V,) sorted."""
    items: Tensor
    """(E,) item indices by value, ascending within one."""
    of: Tensor
    """(E,) value of each."""

    @classmethod
    def read(cls, raw: Path, attribute: str, ids: pl.Series) -> "Values":
        """Of the items `ids` (I,) of a fit, from the attributes of the raw layer."""
        index = ids.alias("item_id").to_frame().with_row_index("item")
        listed = values_of(raw, attribute).join(index, on="item_id").sort("value", "item")
        names = listed["value"].unique().sort()
        of = listed["value"].rank("dense").cast(pl.Int64) - 1
        items = torch.from_numpy(listed["item"].cast(pl.Int64).to_numpy(writable=True))
        return cls(names, items, torch.from_numpy(of.to_numpy(writable=True)))

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First place of each value in `items`, and the one after its last."""
        ends = torch.bincount(self.of, minlength=len(self.names)).cumsum(0).tolist()
        return list(pairwise([0, *ends]))

    def to(self, device: torch.device) -> "Values":
        """The same on another device."""
        return Values(self.names, self.items.to(device), self.of.to(device))


def values_of(raw: Path, attribute: str) -> pl.DataFrame:
    """Columns item_id and value of an attribute; an item with several values has a row for each."""
    return attributes.item_attributes(raw).filter(attribute=attribute).select("item_id", "value")


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


@torch.no_grad()
def lists_by(
    model: Recommender, inputs: ServeInputs, allowed: Tensor | None, values: Values, config: ByAttribute
) -> Iterator[ValueLists]:
    """Lists of all users by value, in tiles of users.

    A user has lists of the `config.values` values whose best items have the highest scores, ties by name. Each list has
    the best items of its value that are `allowed` (I,) and not in the mask. Users that the model can't serve are ranked
    by the fallback.
    """
    assert inputs.fallback is not None
    by_model = served(model, inputs.users, inputs.history)
    size = max(1, CELLS // max(inputs.n_items, len(values.items)))
    if not len(values.names):
        return
    for rows in in_tiles(by_model, size):
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


def _of_tile(rows: Tensor, scores: Tensor, values: Values, config: ByAttribute) -> ValueLists:
    ordered = scores.index_select(1, values.items)  # (B, E): by value, so that each has columns next to one another
    best = torch.stack([ordered[:, start:end].amax(1) for start, end in values.spans], 1)  # (B, V)
    top, chosen, _ = largest(best, min(config.values, len(values.names)))  # (B, m) each
    user, place = (top > -torch.inf).nonzero(as_tuple=True)  # (R,) each
    value = chosen[user, place]  # (R,)
    items = rows.new_full((len(user), config.top_n), -1)  # (R, n)
    found = scores.new_full((len(user), config.top_n), -torch.inf)  # (R, n)
    by_value = value.argsort(stable=True)
    for group in by_value.split(torch.unique(value, return_counts=True)[1].tolist()):
        start, end = values.spans[int(value[group[0]])]
        own, at, _ = largest(ordered[user[group], start:end], min(config.top_n, end - start))  # (G, n') each
        items[group, : own.shape[1]] = torch.where(own > -torch.inf, values.items[start:end][at], -1)
        found[group, : own.shape[1]] = own
    return ValueLists(rows[user], value, items, found)


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
