"""Interactions as tensors on one device, and histories as compressed sparse rows."""

import warnings
from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def stable_order(index: Tensor) -> Tensor | None:
    """The stable order of non-negative indices (N,) below 2**31, (N,); None where they ascend already.

    On a CPU torch sorts integers digit by digit, so half the digits take about half the time.
    """
    if bool((index[1:] >= index[:-1]).all()):
        return None
    return torch.argsort(index.int() if index.device.type == "cpu" else index, stable=True)


@dataclass(frozen=True)
class History:
    """Events of B users, oldest first within a user; row b is `items[offsets[b] : offsets[b + 1]]`."""

    offsets: Tensor  # (B + 1,) int64
    items: Tensor  # (E,) int64
    n_items: int

    @property
    def lengths(self) -> Tensor:
        """Number of events per row, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def rows(self) -> Tensor:
        """Row of every event, (E,)."""
        rows = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=len(self.items))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Tensor) -> "History":
        """The rows with these indices (B',), in that order."""
        lengths = self.lengths[rows]  # (B',)
        offsets = torch.zeros(len(rows) + 1, dtype=torch.long, device=rows.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        shift = self.offsets[rows] - offsets[:-1]  # (B',)
        total = int(offsets[-1])
        events = torch.arange(total, device=rows.device) + torch.repeat_interleave(shift, lengths, output_size=total)
        return History(offsets, self.items[events], self.n_items)

    def dense(self) -> Tensor:
        """A matrix with 1 where the user has the item, else 0; (B, I) float32."""
        matrix = torch.zeros(len(self), self.n_items, device=self.items.device)
        matrix[self.rows, self.items] = 1.0
        return matrix

    def distinct(self) -> "History":
        """The same rows with every item once, ordered by item index."""
        keys = self.rows * self.n_items + self.items  # (E,)
        if bool((keys[1:] > keys[:-1]).all()):  # they are already
            return self
        keys = torch.unique(keys)  # (E',)
        return History.of(keys // self.n_items, keys % self.n_items, len(self), self.n_items)

    def repeats(self) -> Tensor | None:
        """Which events have an item that an earlier event of their row has, (E,) bool; None: no event has."""
        keys = self.rows * self.n_items + self.items  # (E,)
        ordered, at = torch.sort(keys, stable=True)
        again = (ordered[1:] == ordered[:-1]).nonzero().squeeze(1)
        if not len(again):
            return None
        found = torch.zeros_like(keys, dtype=torch.bool)
        found[at[again + 1]] = True
        return found

    def transposed(self) -> "History":
        """The transposed matrix: items as rows of the users that have them, ordered by user."""
        return History.of(self.items, self.rows, self.n_items, len(self))

    def to(self, device: torch.device | str) -> "History":
        """The same rows on another device."""
        return History(self.offsets.to(device), self.items.to(device), self.n_items)

    def sparse(self, values: Tensor | None = None) -> Tensor:
        """A sparse (B, I) matrix of `values` (E,), by default 1. Items must be distinct within a row."""
        values = torch.ones(len(self.items), device=self.items.device) if values is None else values
        size = (len(self), self.n_items)
        return torch.sparse_csr_tensor(self.offsets, self.items, values, size, check_invariants=False)

    @classmethod
    def of(cls, users: Tensor, items: Tensor, n_users: int, n_items: int) -> "History":
        """From pairs in time order, (N,) each; the order within a user is kept."""
        counts = torch.bincount(users, minlength=n_users)
        offsets = torch.zeros(n_users + 1, dtype=torch.long, device=users.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        order = stable_order(users)
        return cls(offsets, items if order is None else items[order], n_items)

    @classmethod
    def of_lists(cls, lists: list[list[int]], n_items: int, device: torch.device | str = "cpu") -> "History":
        """From a list of item indices per user, oldest first."""
        lengths = torch.tensor([0, *map(len, lists)], device=device)
        flat = torch.tensor([i for row in lists for i in row], dtype=torch.long, device=device)
        return cls(torch.cumsum(lengths, 0), flat, n_items)


@dataclass(frozen=True)
class Interactions:
    """N interactions that a fit may read, ordered by user, then time. All tensors are (N,) and on one device."""

    users: Tensor  # int64
    items: Tensor  # int64
    n_users: int
    n_items: int
    ratings: Tensor | None = None  # float32, NaN where a row has none
    timestamps: Tensor | None = None  # int64, microseconds UTC
    positive: Tensor | None = None  # bool; None: every row is

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of_frame(
        cls, frame: pl.DataFrame, n_users: int, n_items: int, device: torch.device | str = "cpu"
    ) -> "Interactions":
        """From rows of the encoded table; columns without values become None."""

        def tensor(name: str, dtype: pl.DataType | type[pl.DataType]) -> Tensor:
            return torch.from_numpy(frame[name].cast(dtype).to_numpy(writable=True)).to(device)

        has_ratings = frame["rating"].null_count() < frame.height
        has_times = frame.height > 0 and frame["timestamp"].null_count() == 0
        rated = frame.with_columns(pl.col("rating").fill_null(float("nan"))) if has_ratings else frame
        return cls(
            users=tensor("user_idx", pl.Int64),
            items=tensor("item_idx", pl.Int64),
            n_users=n_users,
            n_items=n_items,
            ratings=torch.from_numpy(rated["rating"].to_numpy(writable=True)).float().to(device)
            if has_ratings
            else None,
            timestamps=tensor("timestamp", pl.Int64) if has_times else None,
            positive=None if frame["positive"].all() else tensor("positive", pl.Boolean),
        )

    def select(self, rows: Tensor) -> "Interactions":
        """The rows of a mask or of indices, in order."""
        parts = {n: getattr(self, n) for n in ("users", "items", "ratings", "timestamps", "positive")}
        return replace(self, **{n: None if t is None else t[rows] for n, t in parts.items()})

    def positives(self) -> "Interactions":
        """The positive rows."""
        return self if self.positive is None else self.select(self.positive)

    def rated(self) -> "Interactions":
        """The rows that have a rating."""
        if self.ratings is None:
            raise ValueError("these interactions have no ratings")
        return self.select(~torch.isnan(self.ratings))

    def history(self) -> History:
        """The positive rows as one compressed row per user, oldest first."""
        rows = self.positives()
        return History.of(rows.users, rows.items, self.n_users, self.n_items)

    def item_counts(self) -> Tensor:
        """Number of positive rows per item, (I,) float32."""
        return torch.bincount(self.positives().items, minlength=self.n_items).float()

    def to(self, device: torch.device | str) -> "Interactions":
        """The same rows on another device."""
        parts = {n: getattr(self, n) for n in ("users", "items", "ratings", "timestamps", "positive")}
        return replace(self, **{n: None if t is None else t.to(device) for n, t in parts.items()})
