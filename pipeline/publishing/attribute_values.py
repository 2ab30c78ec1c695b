"""The values of an attribute of items, and what is counted and summed over the items of a value."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.sources import attributes
from pipeline.training.interactions import History

LARGEST_INT = (1 << 31) - 1


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

    @cached_property
    def starts(self) -> Tensor:
        """(V,) first place of each value in `items`."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def sizes(self) -> Tensor:
        """(V,) items of each value."""
        return torch.bincount(self.of, minlength=len(self.names))

    def by_item(self, n_items: int) -> Tensor:
        """The values of every item, (I, A), filled up with V; A is the largest number of values of an item."""
        order = torch.argsort(self.items, stable=True)
        item, of = self.items[order], self.of[order]  # (E,) each
        counts = torch.bincount(item, minlength=n_items)  # (I,)
        place = torch.arange(len(item), device=item.device) - (counts.cumsum(0) - counts)[item]
        table = of.new_full((n_items, int(counts.max())), len(self.names))
        table[item, place] = of
        return table

    def to(self, device: torch.device) -> "Values":
        """The same on another device."""
        return Values(self.names, self.items.to(device), self.of.to(device))


def values_of(raw: Path, attribute: str) -> pl.DataFrame:
    """Columns item_id and value of an attribute; an item with several values has a row for each."""
    return attributes.item_attributes(raw).filter(attribute=attribute).select("item_id", "value")


class Members:
    """Items of the values of an attribute, without those that are not `allowed` (I,)."""

    def __init__(self, values: Values, allowed: Tensor | None, n_items: int):
        kept = torch.ones_like(values.items, dtype=torch.bool) if allowed is None else allowed[values.items]
        self.items, of = values.items[kept], values.of[kept]  # (E,) each, by value
        self.count = torch.bincount(of, minlength=len(values.names))  # (V,)
        self.starts = self.count.cumsum(0) - self.count  # (V,)
        order = torch.argsort(self.items, stable=True)
        self.values_of = of[order]  # (E,) by item
        self.n_values = torch.bincount(self.items, minlength=n_items)  # (I,)
        self.first_of = self.n_values.cumsum(0) - self.n_values  # (I,)

    def total(self, numbers: Tensor) -> Tensor:
        """Sums (V, B) of numbers (I, B) over the items of each value."""
        return embedding_bag(self.items, numbers, self.starts, mode="sum")

    def left(self, masked: Tensor, n_users: int) -> Tensor:
        """How many items of each value are not masked, (B, V); `masked`: places (E,) in a matrix (B, I)."""
        user = masked // len(self.n_values)  # (E,)
        item = masked - user * len(self.n_values)
        sizes = self.n_values.index_select(0, item)  # (E,)
        before = sizes.cumsum(0) - sizes
        at = torch.repeat_interleave(self.first_of.index_select(0, item) - before, sizes)  # (E',)
        at += torch.arange(len(at), device=at.device)
        cell = torch.repeat_interleave(user, sizes) * len(self.count) + self.values_of.index_select(0, at)  # (E',)
        return self.count - torch.bincount(cell, minlength=n_users * len(self.count)).view(n_users, -1)


def cells(mask: History) -> Tensor:
    """Places of the items of a mask in a flat matrix (B, I), each once, ascending."""
    cells = mask.rows * mask.n_items + mask.items  # (E,)
    if bool((cells[1:] > cells[:-1]).all()):
        return cells
    small = len(mask) * mask.n_items <= LARGEST_INT
    return torch.unique_consecutive((cells.int() if small else cells).sort().values).long()
