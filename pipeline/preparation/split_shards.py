"""The stage `split`, shard by shard: the labels and counts that it has of all rows at once.

Most kinds decide user by user. What they need of all rows is found first: whether rows have times, the two cuts in
time, and the hashes up to which rows are held out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.preparation import shard_parts, split_parts, splitters
from pipeline.preparation.shard_parts import Part
from pipeline.preparation.shards import Shards
from pipeline.preparation.split_parts import Decided, Place, Shard, Wanted
from pipeline.preparation.splitters import TEST, TRAIN, VALID, Drawn, TimeCuts

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
        self._ends = (n_test, min(n_test + splitters.rounded(valid, n_rows), n_rows))
        self._last = order_statistics(chunks, [max(end - 1, 0) for end in self._ends]) if n_rows else [0, 0]
        below = [0, 0]
        self._equal: list[list[int]] = []
        """Rows with the last hash, of test and of valid, in each part."""
        for hashes in chunks():
            for at, last in enumerate(self._last):
                below[at] += int((hashes < np.uint64(last)).sum())
            self._equal.append([int((hashes == np.uint64(last)).sum()) for last in self._last])
        self._left = [end - n if end else 0 for end, n in zip(self._ends, below, strict=True)]
        """Of them, those that are still before the end; equal ones are taken in the order of rows."""

    def of(self, number: int) -> "PartDraw":
        """That of a part."""
        earlier = [sum(equal[at] for equal in self._equal[:number]) for at in range(2)]
        left = [max(left - n, 0) for left, n in zip(self._left, earlier, strict=True)]
        return PartDraw(self._ends, list(self._last), left)


@dataclass(frozen=True)
class PartDraw:
    """Labels (N,) of a part's rows by their hashes."""

    ends: tuple[int, int]
    """Rows of all parts that are in test; in test or valid."""
    last: list[int]
    """The last hashes before these ends."""
    left: list[int]
    """Rows of the part with these hashes that are before the ends, at most."""

    def __call__(self, hashes: np.ndarray, valid: float, test: float) -> np.ndarray:
        """As `splitters.random_by_row`, for all rows of the part."""
        labels = np.full(len(hashes), TRAIN, dtype=np.int8)
        for at, label in ((1, VALID), (0, TEST)):
            if not self.ends[at]:
                continue
            labels[hashes < np.uint64(self.last[at])] = label
            labels[np.flatnonzero(hashes == np.uint64(self.last[at]))[: self.left[at]]] = label
        return labels


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
    """Rows of one shard after another, or of several at once by an engine."""

    rows: Shards
    users: Shards
    wanted: Wanted
    scratch: Path
    """A folder for what is made on the way."""

    @property
    def height(self) -> int:
        """Number of rows."""
        return sum(self.rows.rows)

    @cached_property
    def _places(self) -> list[Place]:
        wanted, items, pairs = self.wanted, self.scratch / "items.parquet", self.scratch / "pairs.parquet"
        wanted.items.alias("item_id").to_frame().write_parquet(items)
        if wanted.pairs is not None:
            wanted.pairs.write_parquet(pairs)
        listed = pairs if wanted.pairs is not None else None
        return [
            Place(number, self.rows, self.users, wanted.split, wanted.rule, wanted.seed, items, listed)
            for number in range(len(self.rows.rows))
        ]

    def _of_shards(self, function: Callable[..., Part], *arguments: Any) -> Iterator[Part]:
        return shard_parts.parts(function, [(place, *arguments) for place in self._places], self.scratch)

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
        return sum(part.counts["warm"] for part in self._of_shards(split_parts.warm_of_shard, self.cuts))

    def divided(self, kind: str) -> Iterator[Part]:
        """What `split_parts.split_shard` makes of every shard, in order."""
        split, timed = self.wanted.split, self._rest_is_timed() if kind == "published" else None
        decided = Decided(kind, self.cuts if kind == "global_time" else None, timed)
        draws: list[Drawn] = [splitters.random_by_row for _ in self._places]
        if split.by == "row" and (kind == "random" or (kind == "published" and not timed)):
            draw = RowDraw(self._hashes(decided), split.valid, split.test if kind == "random" else 0.0)
            draws = [draw.of(place.number) for place in self._places]
        calls = [(place, decided, by_row) for place, by_row in zip(self._places, draws, strict=True)]
        return shard_parts.parts(split_parts.split_shard, calls, self.scratch)

    def _hashes(self, decided: Decided) -> Chunks:
        """The hashes by which rows are drawn, of each shard."""
        kept = [self.scratch / f"hashes-{place.number:04d}.parquet" for place in self._places]
        for number, part in enumerate(self._of_shards(split_parts.hashes_of_shard, decided)):
            part.frames.pop("hashes").write_parquet(kept[number])
        return lambda: (pl.read_parquet(path)["hash"].to_numpy() for path in kept)

    def _rest_is_timed(self) -> bool:
        """Whether all rows that a published split leaves for train have times."""
        if not self.untimed:
            return True
        return not sum(part.counts["untimed"] for part in self._of_shards(split_parts.untimed_rest_of_shard))
