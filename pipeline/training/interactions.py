"""Interactions as tensors on one device, and histories as compressed sparse rows."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import Tensor

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Facts:
    """What the weights of E events depend on, see event_weights.py; None: not known, or equal for all."""

    kinds: Tensor | None = None  # (E,) int64, code of the event type
    quantities: Tensor | None = None  # (E,) float32, above 0
    ages: Tensor | None = None  # (E,) float32, days before the newest event

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Facts":
        return Facts(*(None if t is None else change(t) for t in (self.kinds, self.quantities, self.ages)))

    @property
    def _any(self) -> Tensor:
        return next(t for t in (self.kinds, self.quantities, self.ages) if t is not None)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self._any.device

    def __len__(self) -> int:
        return len(self._any)

    def __getitem__(self, events: Tensor) -> "Facts":
        """Those of some events, by index or mask."""
        return self._each(lambda tensor: tensor[events])

    def followed_by(self, other: "Facts") -> "Facts":
        """Those of the events of both, one after the other; what one of them lacks is not known."""
        pairs = ((self.kinds, other.kinds), (self.quantities, other.quantities), (self.ages, other.ages))
        return Facts(*(None if a is None or b is None else torch.cat([a, b]) for a, b in pairs))

    def to(self, device: torch.device | str) -> "Facts":
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))


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

    offsets: Tensor  # (B + 1,) int64; int32 where it is narrow
    items: Tensor  # (E,) int64; int32 likewise
    n_items: int
    facts: Facts | None = None  # of the events
    weights: Tensor | None = None  # (E,) float32, of distinct items; None: all count alike

    @property
    def lengths(self) -> Tensor:
        """Number of events per row, (B,)."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def rows(self) -> Tensor:
        """Row of every event, (E,)."""
        rows = torch.arange(len(self.offsets) - 1, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=len(self.items))

    @property
    def mass(self) -> Tensor:
        """Sum of the weights of each row, (B,) float32; without weights the number of events."""
        if self.weights is None:
            return self.lengths.float()
        return self.weights.new_zeros(len(self)).index_add_(0, self.rows, self.weights)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Tensor) -> "History":
        """The rows with these indices (B',), in that order."""
        offsets = torch.zeros(len(rows) + 1, dtype=self.offsets.dtype, device=rows.device)
        torch.cumsum(self.lengths[rows], 0, out=offsets[1:])
        return replace(self, offsets=offsets, **self._taken(self.places(rows)))

    def places(self, rows: Tensor) -> Tensor:
        """Where the events of rows (B',) are in `items`, row by row, (E',)."""
        lengths = self.lengths[rows]  # (B',)
        before = torch.cumsum(lengths, 0) - lengths  # (B',)
        total = int(lengths.sum())
        shift = torch.repeat_interleave(self.offsets[rows] - before, lengths, output_size=total)
        return torch.arange(total, device=rows.device) + shift

    def _taken(self, events: Tensor) -> dict[str, Any]:
        """Items, facts and weights of some events."""
        return {
            "items": self.items[events],
            "facts": None if self.facts is None else self.facts[events],
            "weights": None if self.weights is None else self.weights[events],
        }

    def dense(self) -> Tensor:
        """A matrix with the weight, by default 1, where the user has the item, else 0; (B, I) float32."""
        matrix = torch.zeros(len(self), self.n_items, device=self.items.device)
        matrix[self.rows, self.items] = 1.0 if self.weights is None else self.weights
        return matrix

    def distinct(self) -> "History":
        """The same rows with every item once, ordered by item index, and without facts and weights."""
        keys = self.rows * self.n_items + self.items  # (E,)
        if bool((keys[1:] > keys[:-1]).all()):  # they are already
            return replace(self, facts=None, weights=None)
        keys = torch.unique(keys)  # (E',)
        return History.of(keys // self.n_items, keys % self.n_items, len(self), self.n_items)

    def unrepeated(self) -> "History":
        """Rows with every item once: as they are with weights, which only distinct items have; else `distinct`."""
        return self.distinct() if self.weights is None else self

    def repeats(self) -> Tensor | None:
        """Which events have an item that an earlier event of their row has, (E,) bool; None: no event has."""
        order, rows = stable_order(self.items), self.rows  # (E,) by item, then row, then event
        items, of = (self.items, rows) if order is None else (self.items[order], rows[order])
        again = ((items[1:] == items[:-1]) & (of[1:] == of[:-1])).nonzero().squeeze(1) + 1
        if not len(again):
            return None
        found = torch.zeros_like(self.items, dtype=torch.bool)
        found[again if order is None else order[again]] = True
        return found

    def doubled(self) -> bool:
        """Whether an event has the item of the one before in its row; if `transposed`: whether anything repeats."""
        rows = self.rows  # (E,)
        return bool(((self.items[1:] == self.items[:-1]) & (rows[1:] == rows[:-1])).any())

    def once(self) -> "History":
        """The same rows, in the same order, with the first event of every item."""
        again = self.repeats()
        if again is None:
            return self
        kept = ~again
        return History.of(self.rows[kept], self.items[kept], len(self), self.n_items)

    def narrow(self) -> "History":
        """With ids and places of 32 bits, half the memory, on a CPU and where they do; else of 64 bits."""
        fits = self.items.device.type == "cpu" and max(self.n_items, len(self.items)) < 2**31
        kind = torch.int32 if fits else torch.int64
        return replace(self, offsets=self.offsets.to(kind), items=self.items.to(kind))

    def transposed(self) -> "History":
        """The transposed matrix: items as rows of the users that have them, ordered by user."""
        turned = History.of(self.items, self.rows.to(self.items.dtype), self.n_items, len(self))
        if self.weights is None:
            return turned
        return replace(turned, weights=self.weights[torch.argsort(self.items, stable=True)])

    def to(self, device: torch.device | str) -> "History":
        """The same rows on another device."""
        facts = None if self.facts is None else self.facts.to(device)
        weights = None if self.weights is None else self.weights.to(device)
        return History(self.offsets.to(device), self.items.to(device), self.n_items, facts, weights)

    def sparse(self, values: Tensor | None = None) -> Tensor:
        """A sparse (B, I) matrix of `values` (E,), by default 1. Items must be distinct within a row."""
        values = torch.ones(len(self.items), device=self.items.device) if values is None else values
        size = (len(self), self.n_items)
        return torch.sparse_csr_tensor(self.offsets, self.items, values, size, check_invariants=False)

    @classmethod
    def of(cls, users: Tensor, items: Tensor, n_users: int, n_items: int, facts: Facts | None = None) -> "History":
        """From pairs in time order, (N,) each; the order within a user is kept."""
        counts = torch.bincount(users, minlength=n_users)
        offsets = torch.zeros(n_users + 1, dtype=torch.long, device=users.device)
        torch.cumsum(counts, 0, out=offsets[1:])
        order = stable_order(users)
        if order is not None:
            items, facts = items[order], None if facts is None else facts[order]
        return cls(offsets, items, n_items, facts)

    @classmethod
    def of_single_items(cls, items: Tensor, n_items: int) -> "History":
        """One row with one item for each of `items` (B,)."""
        return cls(torch.arange(len(items) + 1, device=items.device), items, n_items)

    @classmethod
    def of_lists(cls, lists: list[list[int]], n_items: int, device: torch.device | str = "cpu") -> "History":
        """From a list of item indices per user, oldest first."""
        lengths = torch.tensor([0, *map(len, lists)], device=device)
        flat = torch.tensor([i for row in lists for i in row], dtype=torch.long, device=device)
        return cls(torch.cumsum(lengths, 0), flat, n_items)


@dataclass(frozen=True)
class Interactions:
    """N interactions that a fit may read, ordered by user, then time. All tensors are (N,) and on one device."""

    users: Tensor  # int64; int32 for families that need no more (`fits_on_ids`)
    items: Tensor  # likewise
    n_users: int
    n_items: int
    ratings: Tensor | None = None  # float32, NaN where a row has none
    timestamps: Tensor | None = None  # int64, microseconds UTC
    positive: Tensor | None = None  # bool; None: every row is
    facts: Facts | None = None  # of the rows
    target: Tensor | None = None  # bool: held out where a split holds it out; None: every row is
    masks: Tensor | None = None  # bool: the item is not recommended again; None: by every row

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of_frame(
        cls,
        frame: pl.DataFrame,
        n_users: int,
        n_items: int,
        device: torch.device | str = "cpu",
        recency: bool = False,
    ) -> "Interactions":
        """From rows of the encoded table; columns without values become None.

        `recency`: with ages, which rows with event types or quantities have in any case.
        """

        from pipeline.training.encoded_rows import Wanted, interactions_of

        return interactions_of([frame], (n_users, n_items), device, Wanted(recency))

    def select(self, rows: Tensor) -> "Interactions":
        """The rows of a mask or of indices, in order."""
        return replace(self, **{n: None if t is None else t[rows] for n, t in self._parts().items()})

    def _parts(self) -> dict[str, Any]:
        """All that there is one of per row."""
        names = ("users", "items", "ratings", "timestamps", "positive", "facts", "target", "masks")
        return {name: getattr(self, name) for name in names}

    def positives(self) -> "Interactions":
        """The positive rows."""
        return self if self.positive is None else self.select(self.positive)

    def held_out(self) -> "Interactions":
        """The positive rows of the target's event types: what a split that these rows are of holds out."""
        return self.positives() if self.target is None else self.select(self.target).positives()

    def off_limits(self) -> "Interactions":
        """The rows whose items are no negatives: those that mask their item, or may be held out."""
        return self if self.masks is None or self.target is None else self.select(self.masks | self.target)

    def masking(self) -> "Interactions":
        """The rows after which an item is not recommended again."""
        return self if self.masks is None else self.select(self.masks)

    def rated(self) -> "Interactions":
        """The rows that have a rating."""
        if self.ratings is None:
            raise ValueError("these interactions have no ratings")
        return self.select(~torch.isnan(self.ratings))

    def history(self) -> History:
        """The positive rows as one compressed row per user, oldest first."""
        rows = self.positives()
        return History.of(rows.users, rows.items, self.n_users, self.n_items, rows.facts)

    def pairs(self) -> History:
        """`history` without repeated items; in its order where there are none."""
        return self.history() if self.target is None else self.history().distinct()

    def fallback_counts(self) -> Tensor:
        """Number of positive rows of the target's event types per item, (I,) float32: what the fallback ranks by."""
        return torch.bincount(self.held_out().items, minlength=self.n_items).float()

    def item_counts(self) -> Tensor:
        """Number of positive rows per item, (I,) float32."""
        return torch.bincount(self.positives().items, minlength=self.n_items).float()

    def to(self, device: torch.device | str) -> "Interactions":
        """The same rows on another device."""
        return replace(self, **{n: None if t is None else t.to(device) for n, t in self._parts().items()})
