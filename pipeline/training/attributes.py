"""Attributes of items as a sparse matrix, and items that a fit has no row of."""

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from pipeline.training.interactions import DAY, History, Interactions


@dataclass(frozen=True)
class ItemAttributes:
    """Which values of which attributes each item has, (I, A) binary: row i of `values` lists those of item i."""

    values: History  # I rows, of values

    @classmethod
    def of_frame(cls, frame: pl.DataFrame, n_items: int, device: torch.device | str = "cpu") -> "ItemAttributes":
        """From columns item_idx and value_idx, one row per item and value that it has."""
        items, values = (
            torch.from_numpy(frame[name].cast(pl.Int64).to_numpy(writable=True)).to(device)
            for name in ("item_idx", "value_idx")
        )
        return cls(History.of(items, values, n_items, int(values.max()) + 1 if len(values) else 0).distinct())

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.values)

    @property
    def n_values(self) -> int:
        """A."""
        return self.values.n_items

    @property
    def described(self) -> Tensor:
        """Items with a value, (I,) bool."""
        return self.values.lengths > 0


@dataclass(frozen=True)
class NewItems:
    """Items without a row in a fit, of I items."""

    unseen: Tensor  # (I,) bool
    described: Tensor  # (I,) bool: has a value of an attribute
    ages: Tensor | None = None  # (I,) float64: days from an item's first row to the newest row, 0 where unseen

    @classmethod
    def of(cls, fitted: Interactions, attributes: ItemAttributes) -> "NewItems":
        """Those without a row in `fitted`, positive or not."""
        counts = torch.bincount(fitted.items, minlength=fitted.n_items)  # (I,)
        ages, times = None, fitted.timestamps
        if times is not None and len(times):
            newest = times.max().expand(fitted.n_items).clone()  # (I,)
            first = newest.scatter_reduce(0, fitted.items, times, "amin")  # (I,)
            ages = (newest - first).double() / DAY
        return cls(counts == 0, attributes.described.to(counts.device), ages)

    @property
    def placed(self) -> Tensor:
        """Those that a model can place by their attributes, (I,) bool."""
        return self.unseen & self.described

    def servable(self, reads_attributes: bool) -> Tensor:
        """Items that a model may list, (I,) bool: those with a row and, if it reads attributes, `placed` ones."""
        return ~self.unseen | self.described if reads_attributes else ~self.unseen
