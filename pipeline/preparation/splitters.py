"""The kinds of splits: functions from rows in encoded order to one label per row, train, valid or test."""

import numpy as np
import polars as pl

from pipeline.config.settings import Split
from pipeline.core.errors import SettingsError
from pipeline.core.seeding import mix
from pipeline.preparation.ids import id_hashes, pair_hashes, pair_keys
from pipeline.preparation.seen import SeenRule

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")
"""Names of the labels."""
TIME_KINDS = ("global_time", "leave_one_out")
ENOUGH_WARM_USERS = 500
"""Warm users in test that `auto` needs to choose a cut in time."""


def choose_kind(rows: pl.DataFrame, split: Split, has_published: bool) -> tuple[str, str]:
    """The kind of split and the reason for it; `auto` decides by the data.

    Raises SettingsError if the data do not allow the kind that is set.
    """
    untimed = rows["timestamp"].null_count()
    if split.kind == "published" and not has_published:
        raise SettingsError('split.kind = "published", but the data set has no [published] files')
    if split.kind in TIME_KINDS and untimed:
        raise SettingsError(
            f'split.kind = "{split.kind}" needs times, but {untimed:,} of {rows.height:,} rows have none: '
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
        return "random", f"{untimed:,} of {rows.height:,} rows have no time"
    labels = global_time(rows, split.valid, split.test)
    if "target" in rows.columns:
        labels = np.where(rows["target"].to_numpy(), labels, np.minimum(labels, VALID))
    warm = warm_users(rows, labels)
    if warm >= ENOUGH_WARM_USERS:
        return "global_time", f"{warm:,} warm users in test"
    return (
        "leave_one_out",
        f"a cut in time would leave {warm:,} warm users in test, fewer than {ENOUGH_WARM_USERS}",
    )


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
    time = rows["timestamp"].to_physical().to_numpy()  # (R,) microseconds
    at_test = len(time) - _rounded(test, len(time))
    at_valid = max(at_test - _rounded(valid, len(time)), 0)
    ordered = np.partition(time, [at_valid, at_test])
    labels = np.full(len(time), TRAIN, dtype=np.int8)
    if valid:
        labels[time >= ordered[at_valid]] = VALID
    labels[time >= ordered[at_test]] = TEST
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
    rows: pl.DataFrame, labels: np.ndarray, kind: str, rule: SeenRule
) -> tuple[pl.DataFrame, int]:
    """Rows whose column `target` is false where a held-out pair can't be found, and their number.

    A list does not have what the mask hides, so an event is not held out if an earlier split has a row of the pair that
    masks it, by the rule. A pair is held out once, by its first target row in the split.
    """
    pairs, target = pair_keys(rows).to_numpy(), rows["target"].to_numpy()  # (R,) each
    repeats = np.zeros(rows.height, dtype=bool)
    for label in (VALID, TEST):
        held = np.flatnonzero(target & (labels == label))  # (H,)
        before = labels < label  # (R,)
        masks = rule.masking(rows.filter(before), rows.filter(labels == label), kind).to_numpy()
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
    n_test, n_valid = _rounded(test, len(hashes)), _rounded(valid, len(hashes))
    order = np.argsort(hashes, kind="stable")
    labels = np.zeros(len(hashes), dtype=np.int8)
    labels[order[:n_test]] = TEST
    labels[order[n_test : n_test + n_valid]] = VALID
    return labels


def listed_as_test(rows: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """Labels (R,): pairs of user and item that are in `test` are test, all others train."""
    return np.where(pair_keys(rows).is_in(pair_keys(test).implode()).to_numpy(), TEST, TRAIN).astype(np.int8)


def label_rows(
    rows: pl.DataFrame,
    users: pl.Series,
    items: pl.Series,
    kind: str,
    split: Split,
    seed: int,
    published_test: pl.DataFrame | None = None,
) -> np.ndarray:
    """Labels (R,) of rows in encoded order; `users` and `items` are source ids by index.

    global_time uses the fractions of `split`. leave_one_out holds out one row per user for test and, unless
    `split.valid` is 0, one for valid. random uses the fractions, of each user's rows or of all rows. published holds
    out `published_test` and draws valid from the rest: by leave_one_out if all of it has times, else by random.
    """
    if kind == "global_time":
        return global_time(rows, split.valid, split.test)
    if kind == "leave_one_out":
        return leave_one_out(rows, valid=split.valid > 0)
    if published_test is not None and kind == "published":
        labels = listed_as_test(rows, published_test)
        rest = rows.filter(labels == TRAIN)
        if rest["timestamp"].null_count() == 0:
            labels[labels == TRAIN] = leave_one_out(rest, valid=split.valid > 0, test=False)
        else:
            labels[labels == TRAIN] = _random(rest, users, items, split, seed, test=0.0)
        return labels
    return _random(rows, users, items, split, seed, split.test)


def _random(rows: pl.DataFrame, users: pl.Series, items: pl.Series, split: Split, seed: int, test: float) -> np.ndarray:
    if "target" in rows.columns:
        return _random_targets(rows, users, items, split, seed, test)
    hashes = pair_hashes(rows, users, items, seed, "split")
    if split.by == "row":
        return random_by_row(hashes, split.valid, test)
    return random_by_user(rows, hashes, id_hashes(users, seed, "rounding"), split.valid, test)


def _random_targets(
    rows: pl.DataFrame, users: pl.Series, items: pl.Series, split: Split, seed: int, test: float
) -> np.ndarray:
    """Pairs with a target row are held out at random, with all of their rows: no time says which came first."""
    first = rows.with_row_index("row").filter("target").unique(["user_idx", "item_idx"], keep="first")
    first = first.sort("row")
    labels = _random(first.drop("row", "target"), users, items, split, seed, test)
    held = dict(zip(pair_keys(first).to_list(), labels.tolist(), strict=True))
    return pair_keys(rows).replace_strict(held, default=TRAIN, return_dtype=pl.Int8).to_numpy(writable=True)


def random_repeats(rows: pl.DataFrame, users: pl.Series, items: pl.Series, split: Split, seed: int) -> np.ndarray:
    """Labels (R,) where items may be found again: target rows are held out one by one, not a pair with all its rows.

    Rows of other event types go with the pair's target rows: they are in train as long as one of those is.
    """
    of_pair = pair_keys(rows).alias("pair")
    at = np.flatnonzero(rows["target"].to_numpy())  # (T,)
    target = rows[at]
    number = target.select(pl.int_range(pl.len(), dtype=pl.UInt64).over(of_pair[at])).to_series().to_numpy()  # (T,)
    hashes = mix(pair_hashes(target, users, items, seed, "split"), number)
    if split.by == "row":
        held = random_by_row(hashes, split.valid, split.test)  # (T,)
    else:
        held = random_by_user(target, hashes, id_hashes(users, seed, "rounding"), split.valid, split.test)
    first = pl.DataFrame({"pair": of_pair[at], "label": held}).group_by("pair").agg(pl.col("label").min())
    labels = of_pair.to_frame().join(first, on="pair", how="left", maintain_order="left")["label"].fill_null(TRAIN)
    found = labels.cast(pl.Int8).to_numpy(writable=True)
    found[at] = held
    return found


def _rounded(fraction: float, n: int) -> int:
    return max(1, round(fraction * n)) if fraction else 0
