"""The stage `split` on the rows of some users: how they are labelled, divided, checked and counted."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.config.settings import Split
from pipeline.preparation import split_checks, splitters
from pipeline.preparation.seen import SeenRule
from pipeline.preparation.shard_parts import Part
from pipeline.preparation.shards import Shards
from pipeline.preparation.split_checks import Summary
from pipeline.preparation.splitters import TRAIN, Draw, Drawn, TimeCuts
from pipeline.schemas import tables


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
class Place:
    """Where a shard and what labels it are: for a process that may be on another machine."""

    number: int
    rows: Shards
    users: Shards
    split: Split
    rule: SeenRule
    seed: int
    items: Path
    """File of the source ids by index."""
    pairs: Path | None
    """File of `Wanted.pairs`."""

    def read(self) -> Shard:
        """The shard."""
        first = sum(self.users.rows[: self.number])
        rows = self.rows.read(self.number).with_columns(pl.col("user_idx") - first)
        return Shard(rows, self.users.read(self.number, ["user_id"])["user_id"], first)

    @property
    def wanted(self) -> Wanted:
        """What labels it."""
        pairs = pl.read_parquet(self.pairs) if self.pairs else None
        return Wanted(self.split, self.rule, self.seed, pl.read_parquet(self.items)["item_id"], pairs)


@dataclass(frozen=True)
class Decided:
    """What is known of all rows once the kind is chosen."""

    kind: str
    cuts: TimeCuts | None = None
    """Of a cut in time."""
    timed: bool | None = None
    """Of a published split: whether all rows that it leaves for train have times."""


def divide(
    rows: pl.DataFrame, labels: np.ndarray, decided: Decided, summary: Summary
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Rows as they are held out, and by split. Counts targets that are not held out."""
    if "target" in rows.columns:
        kind, cuts = decided.kind, decided.cuts
        rows, repeated = splitters.without_repeated_targets(rows, labels, kind, summary.rule, cuts)
        summary.repeated_targets += repeated
    return rows, {name: rows.filter(labels == label) for label, name in enumerate(splitters.SPLITS)}


def check(
    rows: pl.DataFrame, labels: np.ndarray, splits: dict[str, pl.DataFrame], decided: Decided, summary: Summary
) -> None:
    """Raise ContractError where a split leaks into another; count."""
    train, valid, test = (splits[name] for name in splitters.SPLITS)
    split_checks.assert_no_leak(train, valid, test, decided.kind, summary.rule, decided.cuts)
    summary.add(rows, labels, splits)


def checked(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of the contract `encoded`, which has no duplicates."""
    return tables.encoded(rows).check(rows, unique=False)


def split_shard(place: Place, decided: Decided, by_row: Drawn) -> Part:
    """Train, valid and test of a shard with the indices of all users, and what `Summary.merge` needs."""
    shard, wanted = place.read(), place.wanted
    if decided.cuts:
        labels = splitters.label_by_time(shard.rows, decided.cuts)
    else:
        labels = wanted.label(shard, decided.kind, decided.timed, by_row)
    summary = Summary(decided.kind, len(wanted.items), wanted.rule)
    rows, splits = divide(shard.rows, labels, decided, summary)
    check(rows, labels, splits, decided, summary)
    frames = {name: shard.among_all(checked(split)) for name, split in splits.items()}
    return Part({**frames, "by_item": summary.by_item()}, summary.counts())


def hashes_of_shard(place: Place, decided: Decided) -> Part:
    """The hashes by which rows are drawn: what the labels of the shard are made of."""
    seen: list[np.ndarray] = [np.empty(0, dtype=np.uint64)]

    def record(hashes: np.ndarray, valid: float, test: float) -> np.ndarray:
        seen.append(hashes)
        return splitters.random_by_row(hashes, valid, test)

    place.wanted.label(place.read(), decided.kind, decided.timed, record)
    return Part({"hashes": pl.DataFrame({"hash": np.concatenate(seen)})})


def warm_of_shard(place: Place, cuts: TimeCuts) -> Part:
    """Warm users of a shard if its rows were cut in time."""
    return Part(counts={"warm": splitters.warm_by_time(place.read().rows, cuts)})


def untimed_rest_of_shard(place: Place) -> Part:
    """Rows without a time that a published split leaves for train."""
    shard, pairs = place.read(), place.wanted.pairs
    assert pairs is not None
    rest = shard.rows.filter(splitters.listed_as_test(shard.rows, shard.of(pairs)) == TRAIN)
    return Part(counts={"untimed": rest["timestamp"].null_count()})
