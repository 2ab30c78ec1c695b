"""The kinds of splits: functions from rows in encoded order to one label per row, train, valid or test."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.config.settings import Split
from pipeline.core.errors import SettingsError
from pipeline.core.seeding import mix
from pipeline.preparation import order_statistics
from pipeline.preparation.ids import id_hashes, pair_hashes, pair_keys
from pipeline.preparation.seen import SeenRule

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")
"""Names of the labels."""
TIME_KINDS = ("global_time", "leave_one_out")
ENOUGH_WARM_USERS = 500
"""Warm users in test that `auto` needs to choose a cut in time."""


Drawn = Callable[[np.ndarray, float, float], np.ndarray]
"""Labels (N,) from hashes (N,) and the fractions of valid and test, as of `random_by_row`."""


def choose_kind(rows: pl.DataFrame, split: Split, has_published: bool) -> tuple[str, str]:
    """The kind of split and the reason for it; `auto` decides by the data.

    Raises SettingsError if the data do not allow the kind that is set.
    """
    times = rows["timestamp"]
    return kind_of(
        (times.null_count(), rows.height),
        split,
        has_published,
        lambda: warm_by_time(rows, time_cuts(times.to_physical().to_numpy(), split.valid, split.test)),
    )


def kind_of(
    untimed_of: tuple[int, int], split: Split, has_published: bool, warm_users_by_time: Callable[[], int]
) -> tuple[str, str]:
    """`choose_kind` by the number of rows without a time, and of all rows, and by the warm users of a cut in time."""
    untimed, height = untimed_of
    if split.kind == "published" and not has_published:
        raise SettingsError('split.kind = "published", but the data set has no [published] files')
    if split.kind in TIME_KINDS and untimed:
        raise SettingsError(
            f'split.kind = "{split.kind}" needs times, but {untimed:,} of {height:,} rows have none: '
            'set dataset.columns.timestamp to the column with the times, or split.kind = "random"'
        )
    if split.kind in ("auto", "global_time", "random") and split.valid + split.test >= 1:
        share = f"split.valid + split.test = {split.valid + split.test:g}"
        raise SettingsError(f"{share} leaves nothing to train on; keep it below 1")
    if split.kind != "auto":
        return split.kind, "as set"
    if has_published:
        return "published", "the data set has a published split"
    if untimed:
        return "random", f"{untimed:,} of {height:,} rows have no time"
    warm = warm_users_by_time()
    if warm >= ENOUGH_WARM_USERS:
        return "global_time", f"{warm:,} warm users in test"
    return (
        "leave_one_out",
        f"a cut in time would leave {warm:,} warm users in test, fewer than {ENOUGH_WARM_USERS}",
    )


def warm_by_time(rows: pl.DataFrame, cuts: "TimeCuts") -> int:
    """Warm users of these rows, in encoded order, if they were cut in time; in test only rows of the target count."""
    labels = label_by_time(rows, cuts)
    if "target" in rows.columns:
        labels = np.where(rows["target"].to_numpy(), labels, np.minimum(labels, VALID))
    return warm_users(rows, labels)


def warm_users(rows: pl.DataFrame, labels: np.ndarray) -> int:
    """Users with a row in test and one in train; rows are in encoded order."""
    counts = np.bincount(rows["user_idx"].to_numpy())  # (U,)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    first, last = np.minimum.reduceat(labels, starts), np.maximum.reduceat(labels, starts)
    return int(((first == TRAIN) & (last == TEST)).sum())


def global_time(rows: pl.DataFrame, valid: float, test: float) -> np.ndarray:
    """Labels (R,) by two cut times, at the quantiles of rows given by the fractions `valid` and `test`.

    A cut is the time of the first row after it: rows of equal time are all in the later split, which may then be
    larger than its fraction.
    """
    return label_by_time(rows, time_cuts(rows["timestamp"].to_physical().to_numpy(), valid, test))


@dataclass(frozen=True)
class TimeCuts:
    """The first times of valid and of test, in microseconds; None: there is no valid."""

    valid: int | None
    test: int

    def first_of(self, label: int) -> dt.datetime:
        """The time of the first row with this label, of those that have one."""
        first = self.test if label == TEST or self.valid is None else self.valid
        return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=first)


def places_of_cuts(n_rows: int, valid: float, test: float) -> tuple[int, int]:
    """Places, in the order of time, of the first rows of valid and of test."""
    at_test = n_rows - rounded(test, n_rows)
    return max(at_test - rounded(valid, n_rows), 0), at_test


def time_cuts(time: np.ndarray, valid: float, test: float) -> TimeCuts:
    """The cuts of rows with these times (R,), in microseconds."""
    at_valid, at_test = places_of_cuts(len(time), valid, test)
    return TimeCuts(
        order_statistics.at_place(time, at_valid) if valid else None, order_statistics.at_place(time, at_test)
    )


def label_by_time(rows: pl.DataFrame, cuts: TimeCuts) -> np.ndarray:
    """Labels (R,) of rows of any users."""
    time = rows["timestamp"].to_physical().to_numpy()  # (R,) microseconds
    labels = np.full(len(time), TRAIN, dtype=np.int8)
    if cuts.valid is not None:
        labels[time >= cuts.valid] = VALID
    labels[time >= cuts.test] = TEST
    return labels


def leave_one_out(rows: pl.DataFrame, valid: bool, test: bool = True) -> np.ndarray:
    """Labels (R,): each user's last row is test, the one before it valid, as long as a row is left for train.

    Users with two rows have none in valid, users with one row none in test either.
    """
    if "target" in rows.columns:
        return _leave_one_target_out(rows, valid, test)
    counts = np.bincount(rows["user_idx"].to_numpy())  # (U,)
    ends = np.cumsum(counts)  # (U,): index after each user's last row
    labels = np.zeros(rows.height, dtype=np.int8)
    holdouts = [label for label, wanted in ((TEST, test), (VALID, valid)) if wanted]
    for place, label in enumerate(holdouts):
        labels[ends[counts >= place + 2] - 1 - place] = label
    return labels


def _leave_one_target_out(rows: pl.DataFrame, valid: bool, test: bool) -> np.ndarray:
    """Labels (R,): a user's last target row, and all rows after it, are test; those from the one before it on valid.

    So no split has a row that is later than one to find. A user's first row stays in train.
    """
    labels = np.zeros(rows.height, dtype=np.int8)
    user, place_of_row = rows["user_idx"].to_numpy(), np.arange(rows.height)  # (R,) each
    counts = np.bincount(user)  # (U,)
    ends = np.cumsum(counts)  # (U,): index after each user's last row
    starts, limit = ends - counts, ends.copy()  # (U,): first row; only rows before the limit are looked at
    at = np.flatnonzero(rows["target"].to_numpy())  # (T,) rows of the target, in encoded order
    for label, wanted in ((TEST, test), (VALID, valid)):
        if not wanted or not len(at):
            continue
        place = np.searchsorted(at, limit) - 1  # (U,): the last target row before the limit
        held = np.where(place >= 0, at[place], -1)  # (U,)
        is_held = held > starts  # (U,)
        labels[is_held[user] & (place_of_row >= held[user]) & (place_of_row < limit[user])] = label
        limit = np.where(is_held, held, limit)
    return labels


def without_repeated_targets(
    rows: pl.DataFrame, labels: np.ndarray, kind: str, rule: SeenRule, cuts: TimeCuts | None = None
) -> tuple[pl.DataFrame, int]:
    """Rows whose column `target` is false where a held-out pair can't be found, and their number.

    A list does not have what the mask hides, so an event is not held out if an earlier split has a row of the pair that
    masks it, by the rule. A pair is held out once, by its first target row in the split.

    `cuts`: those of global_time, if the rows are not those of all users.
    """
    pairs, target = pair_keys(rows).to_numpy(), rows["target"].to_numpy()  # (R,) each
    repeats = np.zeros(rows.height, dtype=bool)
    for label in (VALID, TEST):
        held = np.flatnonzero(target & (labels == label))  # (H,)
        before = labels < label  # (R,)
        since = cuts.first_of(label) if cuts else None
        masks = rule.masking(rows.filter(before), rows.filter(labels == label), kind, since).to_numpy()
        hidden = np.isin(pairs[held], pairs[before][masks])
        first = np.zeros(len(held), dtype=bool)
        first[np.unique(pairs[held], return_index=True)[1]] = True
        repeats[held[hidden | ~first]] = True
    return rows.with_columns(target=pl.Series(target & ~repeats)), int(repeats.sum())


def random_by_user(
    rows: pl.DataFrame, hashes: np.ndarray, user_hashes: np.ndarray, valid: float, test: float
) -> np.ndarray:
    """Labels (R,): of a user's n rows, floor(n·test + r) are test, floor(n·(test + valid) + r) test or valid.

    r in [0, 1) is drawn per user, from `user_hashes` (U,): the expected share is exact for every n, and users with
    few rows sometimes give one. At least one row stays in train. `hashes` (R,) decide which rows are held out.
    """
    user = rows["user_idx"].to_numpy()  # (R,)
    counts = np.bincount(user)  # (U,)
    r = (user_hashes[: len(counts)] >> np.uint64(11)) / 2**53  # (U,)
    most = np.maximum(counts - 1, 0)
    n_test = np.minimum(np.floor(counts * test + r), most)
    n_held = np.minimum(np.floor(counts * (test + valid) + r), most)
    shuffled = pl.DataFrame({"user": user, "hash": hashes}).with_row_index("row").sort("user", "hash", "row")
    place = np.empty(len(user), dtype=np.int64)  # (R,) position of the row among its user's rows, by hash
    place[shuffled["row"].to_numpy()] = np.arange(len(user)) - (np.cumsum(counts) - counts)[user]
    return np.where(place < n_test[user], TEST, np.where(place < n_held[user], VALID, TRAIN)).astype(np.int8)


def random_by_row(hashes: np.ndarray, valid: float, test: float) -> np.ndarray:
    """Labels (R,): in the order of `hashes` (R,), the first rows are test, the next valid."""
    n_test, n_valid = rounded(test, len(hashes)), rounded(valid, len(hashes))
    order = np.argsort(hashes, kind="stable")
    labels = np.zeros(len(hashes), dtype=np.int8)
    labels[order[:n_test]] = TEST
    labels[order[n_test : n_test + n_valid]] = VALID
    return labels


def listed_as_test(rows: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """Labels (R,): pairs of user and item that are in `test` are test, all others train."""
    return np.where(pair_keys(rows).is_in(pair_keys(test).implode()).to_numpy(), TEST, TRAIN).astype(np.int8)


@dataclass(frozen=True)
class Draw:
    """What the kind random is drawn from."""

    users: pl.Series
    """Source ids by index."""
    items: pl.Series
    seed: int
    by_row: Drawn = random_by_row

    def hashes(self, rows: pl.DataFrame) -> np.ndarray:
        """(R,), which decide the rows that are held out."""
        return pair_hashes(rows, self.users, self.items, self.seed, "split")

    def label(self, rows: pl.DataFrame, hashes: np.ndarray, split: Split, test: float) -> np.ndarray:
        """Labels (R,) by `split.by`."""
        if split.by == "row":
            return self.by_row(hashes, split.valid, test)
        return random_by_user(rows, hashes, id_hashes(self.users, self.seed, "rounding"), split.valid, test)


def label_rows(
    rows: pl.DataFrame,
    draw: Draw,
    kind: str,
    split: Split,
    published_test: pl.DataFrame | None = None,
    rest_is_timed: bool | None = None,
) -> np.ndarray:
    """Labels (R,) of rows in encoded order.

    global_time uses the fractions of `split`. leave_one_out holds out one row per user for test and, unless
    `split.valid` is 0, one for valid. random uses the fractions, of each user's rows or of all rows. published holds
    out `published_test` and draws valid from the rest: by leave_one_out if all of it has times, else by random; these
    rows tell, unless `rest_is_timed` says it for the rows of all users.
    """
    if kind == "global_time":
        return global_time(rows, split.valid, split.test)
    if kind == "leave_one_out":
        return leave_one_out(rows, valid=split.valid > 0)
    if published_test is not None and kind == "published":
        labels = listed_as_test(rows, published_test)
        rest = rows.filter(labels == TRAIN)
        if rest["timestamp"].null_count() == 0 if rest_is_timed is None else rest_is_timed:
            labels[labels == TRAIN] = leave_one_out(rest, valid=split.valid > 0, test=False)
        else:
            labels[labels == TRAIN] = _random(rest, draw, split, test=0.0)
        return labels
    return _random(rows, draw, split, split.test)


def _random(rows: pl.DataFrame, draw: Draw, split: Split, test: float) -> np.ndarray:
    if "target" in rows.columns:
        return _random_targets(rows, draw, split, test)
    return draw.label(rows, draw.hashes(rows), split, test)


def _random_targets(rows: pl.DataFrame, draw: Draw, split: Split, test: float) -> np.ndarray:
    """Pairs with a target row are held out at random, with all of their rows: no time says which came first."""
    first = rows.with_row_index("row").filter("target").unique(["user_idx", "item_idx"], keep="first")
    first = first.sort("row")
    labels = _random(first.drop("row", "target"), draw, split, test)
    held = dict(zip(pair_keys(first).to_list(), labels.tolist(), strict=True))
    return pair_keys(rows).replace_strict(held, default=TRAIN, return_dtype=pl.Int8).to_numpy(writable=True)


def random_repeats(rows: pl.DataFrame, draw: Draw, split: Split) -> np.ndarray:
    """Labels (R,) where items may be found again: target rows are held out one by one, not a pair with all its rows.

    Rows of other event types go with the pair's target rows: they are in train as long as one of those is.
    """
    of_pair = pair_keys(rows).alias("pair")
    at = np.flatnonzero(rows["target"].to_numpy())  # (T,)
    target = rows[at]
    number = target.select(pl.int_range(pl.len(), dtype=pl.UInt64).over(of_pair[at])).to_series().to_numpy()  # (T,)
    held = draw.label(target, mix(draw.hashes(target), number), split, split.test)  # (T,)
    first = pl.DataFrame({"pair": of_pair[at], "label": held}).group_by("pair").agg(pl.col("label").min())
    labels = of_pair.to_frame().join(first, on="pair", how="left", maintain_order="left")["label"].fill_null(TRAIN)
    found = labels.cast(pl.Int8).to_numpy(writable=True)
    found[at] = held
    return found


def rounded(fraction: float, n: int) -> int:
    """So many of n rows: at least one, unless the fraction is 0."""
    return max(1, round(fraction * n)) if fraction else 0
