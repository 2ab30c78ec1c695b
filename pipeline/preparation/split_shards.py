"""The stage `split`, shard by shard: the labels and counts that it has of all rows at once.

Most kinds decide user by user. What they need of all rows is found first: whether rows have times, the two cuts in
time, and the hashes up to which rows are held out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.config.settings import Split
from pipeline.preparation import splitters
from pipeline.preparation.seen import SeenRule
from pipeline.preparation.shards import Shards
from pipeline.preparation.splitters import TEST, TRAIN, VALID, Draw, Drawn, TimeCuts

Chunks = Callable[[], Iterator[np.ndarray]]
"""Numbers in parts, uint64, as often as asked."""
_SIGN = np.uint64(1 << 63)
ROWS_AT_ONCE = 2**20
"""Rows that are checked and written at a time, at least, where all rows are in memory."""


def order_statistics(chunks: Chunks, places: list[int]) -> list[int]:
    """The numbers at these places of all numbers in order, without sorting or holding them: 16 bits per pass."""
    found, left = [0] * len(places), list(places)
    for shift in (48, 32, 16, 0):
        counts = [np.zeros(2**16, dtype=np.int64) for _ in places]
        for numbers in chunks():
            for at, prefix in enumerate(found):
                same = numbers if shift == 48 else numbers[(numbers >> np.uint64(shift + 16)) == np.uint64(prefix)]
                digits = (same >> np.uint64(shift)) & np.uint64(0xFFFF)
                counts[at] += np.bincount(digits.astype(np.int64), minlength=2**16)
        for at, count in enumerate(counts):
            upto = np.cumsum(count)
            digit = int(np.searchsorted(upto, left[at], side="right"))
            left[at] -= int(upto[digit] - count[digit])
            found[at] = (found[at] << 16) | digit
    return found


def as_unsigned(times: np.ndarray) -> np.ndarray:
    """Int64 as uint64 in the same order."""
    return times.view(np.uint64) ^ _SIGN


class RowDraw:
    """`splitters.random_by_row` for rows that come in parts: the same labels as for all hashes at once."""

    def __init__(self, chunks: Chunks, valid: float, test: float):
        n_rows = sum(len(hashes) for hashes in chunks())
        n_test = min(splitters.rounded(test, n_rows), n_rows)
        self._ends = [n_test, min(n_test + splitters.rounded(valid, n_rows), n_rows)]
        self._last = order_statistics(chunks, [max(end - 1, 0) for end in self._ends]) if n_rows else [0, 0]
        below = [0, 0]
        for hashes in chunks():
            for at, last in enumerate(self._last):
                below[at] += int((hashes < np.uint64(last)).sum())
        self._equal = [end - n if end else 0 for end, n in zip(self._ends, below, strict=True)]
        """Rows with the last hash that are still before the end; equal ones are taken in the order of rows."""

    def __call__(self, hashes: np.ndarray, valid: float, test: float) -> np.ndarray:
        """Labels (N,) of the next part."""
        labels = np.full(len(hashes), TRAIN, dtype=np.int8)
        for at, label in ((1, VALID), (0, TEST)):
            if not self._ends[at]:
                continue
            labels[hashes < np.uint64(self._last[at])] = label
            equal = np.flatnonzero(hashes == np.uint64(self._last[at]))[: self._equal[at]]
            self._equal[at] -= len(equal)
            labels[equal] = label
        return labels


@dataclass(frozen=True)
class Shard:
    """A shard's rows in encoded order, with indices of users from 0 on."""

    rows: pl.DataFrame
    users: pl.Series
    """Their source ids."""
    first: int
    """Index of the first user among those of all shards."""

    def of(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The pairs of users of this shard, with its indices."""
        own = pairs.filter(pl.col("user_idx").is_between(self.first, self.first + len(self.users) - 1))
        return own.with_columns(pl.col("user_idx") - self.first)

    def among_all(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with the indices of users among those of all shards."""
        return rows.with_columns(pl.col("user_idx") + self.first)


@dataclass(frozen=True)
class Wanted:
    """How rows are split."""

    split: Split
    rule: SeenRule
    seed: int
    items: pl.Series
    """Source ids by index."""
    pairs: pl.DataFrame | None = None
    """user_idx and item_idx that a published split has in test."""

    def label(self, shard: Shard, kind: str, timed: bool | None, by_row: Drawn) -> np.ndarray:
        """Labels (R,) of all rows, or of a shard for which `timed` and `by_row` are given."""
        draw = Draw(shard.users, self.items, self.seed, by_row)
        if self.rule.allow and kind == "random":
            return splitters.random_repeats(shard.rows, draw, self.split)
        listed = shard.of(self.pairs) if self.pairs is not None else None
        return splitters.label_rows(shard.rows, draw, kind, self.split, listed, timed)


@dataclass(frozen=True)
class WholeRows:
    """All rows at once."""

    rows: pl.DataFrame
    users: pl.Series
    wanted: Wanted

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.rows.height

    @property
    def untimed(self) -> int:
        """Rows without a time."""
        return self.rows["timestamp"].null_count()

    @cached_property
    def cuts(self) -> TimeCuts:
        """The cuts in time of all rows. None of them may be without one."""
        split = self.wanted.split
        return splitters.time_cuts(self.rows["timestamp"].to_physical().to_numpy(), split.valid, split.test)

    def choose_kind(self) -> tuple[str, str]:
        """As `splitters.choose_kind`."""
        has_published = self.wanted.pairs is not None
        counts = self.untimed, self.height
        return splitters.kind_of(
            counts, self.wanted.split, has_published, lambda: splitters.warm_by_time(self.rows, self.cuts)
        )

    def labelled(self, kind: str) -> Iterator[tuple[Shard, np.ndarray]]:
        """The rows and their labels, as shards of about ROWS_AT_ONCE rows: checks and copies then fit into caches."""
        if kind == "global_time":
            labels = splitters.label_by_time(self.rows, self.cuts)
        else:
            labels = self.wanted.label(Shard(self.rows, self.users, 0), kind, None, splitters.random_by_row)
        user, start = self.rows["user_idx"].to_numpy(), 0  # (R,) ascending
        while start < self.height:
            last = user[min(start + ROWS_AT_ONCE, self.height) - 1]
            stop = int(np.searchsorted(user, last, side="right"))
            first = int(user[start])
            rows = self.rows[start:stop].with_columns(pl.col("user_idx") - first)
            yield Shard(rows, self.users[first : int(last) + 1], first), labels[start:stop]
            start = stop


@dataclass(frozen=True)
class ShardedRows:
    """Rows of one shard after another."""

    rows: Shards
    users: Shards
    wanted: Wanted

    @property
    def height(self) -> int:
        """Number of rows."""
        return sum(self.rows.rows)

    def __iter__(self) -> Iterator[Shard]:
        """Shard after shard."""
        first = 0
        for number in range(len(self.rows.rows)):
            users = self.users.read(number)["user_id"]
            rows = self.rows.read(number).with_columns(pl.col("user_idx") - first)
            yield Shard(rows, users, first)
            first += len(users)

    @cached_property
    def untimed(self) -> int:
        """Rows without a time."""
        times = pl.scan_parquet(self.rows.path).select(pl.col("timestamp").null_count())
        return int(times.collect(engine="streaming").item())

    @cached_property
    def cuts(self) -> TimeCuts:
        """The cuts in time of all rows. None of them may be without one."""
        split = self.wanted.split
        places = splitters.places_of_cuts(self.height, split.valid, split.test)
        numbers = range(len(self.rows.rows))

        def times() -> Iterator[np.ndarray]:
            for number in numbers:
                yield as_unsigned(self.rows.read(number, ["timestamp"])["timestamp"].to_physical().to_numpy())

        at_valid, at_test = (value - (1 << 63) for value in order_statistics(times, list(places)))
        return TimeCuts(at_valid if split.valid else None, at_test)

    def choose_kind(self) -> tuple[str, str]:
        """As `splitters.choose_kind`."""
        has_published = self.wanted.pairs is not None
        return splitters.kind_of((self.untimed, self.height), self.wanted.split, has_published, self._warm_by_time)

    def _warm_by_time(self) -> int:
        return sum(splitters.warm_by_time(shard.rows, self.cuts) for shard in self)

    def labelled(self, kind: str) -> Iterator[tuple[Shard, np.ndarray]]:
        """Every shard with the labels of its rows, as of `splitters.label_rows`."""
        split, timed = self.wanted.split, self._rest_is_timed() if kind == "published" else None
        by_row = splitters.random_by_row
        if split.by == "row" and (kind == "random" or (kind == "published" and not timed)):
            drawn_for_test = split.test if kind == "random" else 0.0
            by_row = RowDraw(lambda: self._hashes(kind, timed), split.valid, drawn_for_test)
        for shard in self:
            if kind == "global_time":
                yield shard, splitters.label_by_time(shard.rows, self.cuts)
            else:
                yield shard, self.wanted.label(shard, kind, timed, by_row)

    def _hashes(self, kind: str, timed: bool | None) -> Iterator[np.ndarray]:
        """The hashes by which rows are drawn, of each shard: what its labels are made of."""
        for shard in self:
            seen: list[np.ndarray] = []

            def record(hashes: np.ndarray, valid: float, test: float, seen: list[np.ndarray] = seen) -> np.ndarray:
                seen.append(hashes)
                return splitters.random_by_row(hashes, valid, test)

            self.wanted.label(shard, kind, timed, record)
            yield from seen

    def _rest_is_timed(self) -> bool:
        """Whether all rows that a published split leaves for train have times."""
        if not self.untimed:
            return True
        pairs = self.wanted.pairs
        assert pairs is not None
        for shard in self:
            rest = shard.rows.filter(splitters.listed_as_test(shard.rows, shard.of(pairs)) == TRAIN)
            if rest["timestamp"].null_count():
                return False
        return True
