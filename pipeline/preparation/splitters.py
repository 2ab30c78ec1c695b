"""Which row goes where: pure functions from rows in encoded order to one label a row."""

import numpy as np
import polars as pl

from pipeline.config.settings import Split
from pipeline.preparation.ids import id_hashes, pair_hashes, pair_keys

TRAIN, VALID, TEST = 0, 1, 2
PARTS = ("train", "valid", "test")


def global_time(rows: pl.DataFrame, valid: float, test: float) -> np.ndarray:
    """Labels (R,) by two cut times, at the quantiles of rows that `valid` and `test` ask for.

    A cut is the time of the first row after it, so rows of equal time are together in the later part, which
    may then be larger than asked for.
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
    """Labels (R,): of every user the last row is test, the one before it valid, if a row is left for train.

    So users with two rows have no valid, users with one row no test.
    """
    counts = np.bincount(rows["user_idx"].to_numpy())  # (U,)
    ends = np.cumsum(counts)  # (U,): the row after a user's last
    labels = np.zeros(rows.height, dtype=np.int8)
    held = [part for part, wanted in ((TEST, test), (VALID, valid)) if wanted]
    for place, part in enumerate(held):
        labels[ends[counts >= place + 2] - 1 - place] = part
    return labels


def random_by_user(
    rows: pl.DataFrame, hashes: np.ndarray, user_hashes: np.ndarray, valid: float, test: float
) -> np.ndarray:
    """Labels (R,): of a user's n rows, floor(n·test + r) are test, floor(n·(test + valid) + r) test or valid.

    r in [0, 1) is the user's own, from `user_hashes` (U,): the expected share is exact for every n, and users
    with few rows give one sometimes. At least one row stays in train. `hashes` (R,) decide which rows go.
    """
    user = rows["user_idx"].to_numpy()  # (R,)
    counts = np.bincount(user)  # (U,)
    r = (user_hashes[: len(counts)] >> np.uint64(11)) / 2**53  # (U,)
    most = np.maximum(counts - 1, 0)
    n_test = np.minimum(np.floor(counts * test + r), most)
    n_held = np.minimum(np.floor(counts * (test + valid) + r), most)
    shuffled = pl.DataFrame({"user": user, "hash": hashes}).with_row_index("row").sort("user", "hash", "row")
    place = np.empty(len(user), dtype=np.int64)  # (R,) of the row among its user's, by hash
    place[shuffled["row"].to_numpy()] = np.arange(len(user)) - (np.cumsum(counts) - counts)[user]
    return np.where(place < n_test[user], TEST, np.where(place < n_held[user], VALID, TRAIN)).astype(np.int8)


def random_by_row(hashes: np.ndarray, valid: float, test: float) -> np.ndarray:
    """Labels (R,): the first fraction by `hashes` (R,) is test, the next valid."""
    n_test, n_valid = _rounded(test, len(hashes)), _rounded(valid, len(hashes))
    order = np.argsort(hashes, kind="stable")
    labels = np.zeros(len(hashes), dtype=np.int8)
    labels[order[:n_test]] = TEST
    labels[order[n_test : n_test + n_valid]] = VALID
    return labels


def marked(rows: pl.DataFrame, test: pl.DataFrame) -> np.ndarray:
    """Labels (R,): the pairs of `test` are test, all others train."""
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
    """Labels (R,) of rows in encoded order; `users`, `items`: source ids by index.

    global_time takes the fractions of `split`; leave_one_out one row a user for test and, unless
    `split.valid` is 0, one for valid; random the fractions, of each user's rows or of all. published takes
    `published_test` and draws valid from the rest: as leave_one_out where all of it is timed, else as random.
    """
    if kind == "global_time":
        return global_time(rows, split.valid, split.test)
    if kind == "leave_one_out":
        return leave_one_out(rows, valid=split.valid > 0)
    if published_test is not None and kind == "published":
        labels = marked(rows, published_test)
        rest = rows.filter(labels == TRAIN)
        if rest["timestamp"].null_count() == 0:
            labels[labels == TRAIN] = leave_one_out(rest, valid=split.valid > 0, test=False)
        else:
            labels[labels == TRAIN] = _random(rest, users, items, split, seed, test=0.0)
        return labels
    return _random(rows, users, items, split, seed, split.test)


def _random(rows: pl.DataFrame, users: pl.Series, items: pl.Series, split: Split, seed: int, test: float) -> np.ndarray:
    hashes = pair_hashes(rows, users, items, seed, "split")
    if split.by == "row":
        return random_by_row(hashes, split.valid, test)
    return random_by_user(rows, hashes, id_hashes(users, seed, "rounding"), split.valid, test)


def _rounded(fraction: float, n: int) -> int:
    return max(1, round(fraction * n)) if fraction else 0
