"""Checks that no split leaks into another, and statistics that describe a split."""

import datetime as dt
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.errors import ContractError
from pipeline.preparation.ids import any_twice, pair_keys
from pipeline.preparation.seen import HIDE, SeenRule
from pipeline.preparation.splitters import TEST, VALID
from pipeline.schemas import tables

ANNOUNCED_WITHIN = dt.timedelta(hours=24)
"""How long before an event to find another one of the same user and item gives it away."""


def assert_no_leak(
    train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, kind: str, rule: SeenRule = HIDE
) -> None:
    """Raise ContractError if a pair is in two splits or, for kinds that use time, a split has rows later than the next.

    global_time: every row of a split is before every row of the next one. leave_one_out: the same holds within each
    user (equal times are allowed: a seeded hash decides them), with at most one row per user in valid and in test.
    """
    if "target" in train.columns:
        _assert_targets_are_found(train, valid, test, kind, rule)
    else:
        held = pl.concat([pair_keys(valid), pair_keys(test)])
        if any_twice(held) or pair_keys(train).is_in(held.implode()).any():
            raise ContractError("split: a pair of user and item is in two splits")
    if kind not in ("global_time", "leave_one_out"):
        return
    before = {"valid": [train], "test": [train, valid]}
    for name, part in {"valid": valid, "test": test}.items():
        if kind == "global_time":
            newest = max((b["timestamp"].max() for b in before[name] if b.height), default=None)  # type: ignore
            late = part.filter(pl.col("timestamp") <= pl.lit(newest, tables.TIME))
        else:
            newest = _newest(before[name], part["user_idx"])
            late = part.filter(part["timestamp"].to_physical().to_numpy() < newest)
            held_out = part.filter("target") if "target" in part.columns else part
            if held_out["user_idx"].n_unique() < held_out.height:
                raise ContractError(f"split: a user has two rows in {name}")
        if late.height:
            raise ContractError(f"split: {late.height} rows of {name} are not later than the splits before it")


def _assert_targets_are_found(
    train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, kind: str, rule: SeenRule
) -> None:
    """Raise ContractError if a held-out pair is held out twice in a split, or an earlier split has a row that masks it.

    An earlier split may have other rows of the pair: what was viewed before it was bought.
    """
    for name, part, before in (("valid", valid, [train]), ("test", test, [train, valid])):
        held = pair_keys(part.filter("target"))
        masked = pl.concat([pair_keys(rows.filter(rule.masking(rows, part, kind))) for rows in before])
        if any_twice(held) or masked.is_in(held.implode()).any():
            raise ContractError(f"split: a pair of {name} is held out twice, or masked by an earlier split")


def found_again(parts: dict[str, pl.DataFrame]) -> dict[str, tuple[int, int]]:
    """By split: held-out events whose pair is in an earlier split, by a row of the target, and all held-out events."""
    found, earlier = {}, pair_keys(parts["train"].filter("target"))
    for name in ("valid", "test"):
        held = pair_keys(parts[name].filter("target", "positive"))
        found[name] = (int(held.is_in(earlier.implode()).sum()), len(held))
        earlier = pl.concat([earlier, held])
    return found


def announced(parts: dict[str, pl.DataFrame]) -> dict[str, tuple[int, int]]:
    """By split: held-out events that an earlier split gives away, and all held-out events with a time.

    It has an event of another type of the same user and item in the ANNOUNCED_WITHIN before: what was viewed minutes
    before it was bought. A model reads that, which at night it could not: no night lies between the two.
    """
    found, earlier, pair = {}, [parts["train"]], ["user_idx", "item_idx"]
    for name in ("valid", "test"):
        held = (
            parts[name].filter("target", "positive").drop_nulls("timestamp").select(*pair, of="event", at="timestamp")
        )
        rows = pl.concat([part.select(*pair, "event", "timestamp") for part in earlier])
        last = rows.join(held, on=pair).filter(pl.col("event") != pl.col("of"), pl.col("timestamp") <= pl.col("at"))
        last = last.group_by(pair).agg(pl.col("timestamp").max(), pl.col("at").first())
        near = last.filter(pl.col("at") - pl.col("timestamp") <= ANNOUNCED_WITHIN)
        found[name] = (near.height, held.height)
        earlier.append(parts[name])
    return found


def _newest(parts: list[pl.DataFrame], users: pl.Series) -> np.ndarray:
    """The latest time of each of `users` in `parts`, (R,) microseconds; the smallest integer for users without one."""
    n_users = max(_top(codes) for codes in (users, *(part["user_idx"] for part in parts))) + 1
    newest = np.full(n_users, np.iinfo(np.int64).min)  # (U,)
    for part in (part for part in parts if part.height):
        user, time = part["user_idx"].to_numpy(), part["timestamp"].to_physical().to_numpy()  # (R,) each
        runs = np.flatnonzero(np.append(True, user[1:] != user[:-1]))  # starts of runs of one user: encoded order
        np.maximum.at(newest, user[runs], np.maximum.reduceat(time, runs))
    return newest[users.to_numpy()]


def describe(rows: pl.DataFrame, labels: np.ndarray, parts: dict[str, pl.DataFrame], kind: str) -> dict[str, Any]:
    """Statistics of a split for the manifest: rows, users, cold users and items, cuts, share of ties."""
    held = {name: parts[name] for name in ("valid", "test")}
    by_cut = held if kind == "global_time" else {}
    by_ties = kind == "leave_one_out"
    users = {name: _flags(part["user_idx"].to_numpy(), _top(rows["user_idx"]) + 1) for name, part in parts.items()}
    items = _flags(parts["train"]["item_idx"].to_numpy(), _top(rows["item_idx"]) + 1)
    return {
        "cuts": {name: str(part["timestamp"].min()) for name, part in by_cut.items() if part.height},
        "tie_share": round(tie_share(rows, labels, TEST), 4) if by_ties else 0.0,
        "tie_share_valid": round(tie_share(rows, labels, VALID), 4) if by_ties else 0.0,
        "rows": {name: part.height for name, part in parts.items()},
        "users": {name: int(flags.sum()) for name, flags in users.items()},
        "n_cold": {name: _cold(users["train"], items, part) for name, part in held.items()},
    }


def tie_share(rows: pl.DataFrame, labels: np.ndarray, part: int) -> float:
    """Share of the rows labelled `part` that a tie put there: an earlier split has a row of equal user and time.

    Comparing neighbours is enough, since rows are in encoded order. 0 for rows without a time.
    """
    held = np.flatnonzero(labels == part)  # (H,)
    if not len(held):
        return 0.0
    later = held[held > 0]
    here, before = rows[later], rows[later - 1]
    same = (here["user_idx"] == before["user_idx"]) & (here["timestamp"] == before["timestamp"])
    return float((same.fill_null(False).to_numpy() & (labels[later - 1] < part)).sum() / len(held))


def _cold(users: np.ndarray, items: np.ndarray, held: pl.DataFrame) -> dict[str, int]:
    """Counts of users, items and rows of `held` that are not in train, whose users (U,) and items (I,) are flagged."""
    user, item = ~users[held["user_idx"].to_numpy()], ~items[held["item_idx"].to_numpy()]  # (H,) each
    return {
        "users": held["user_idx"].filter(user).n_unique(),
        "items": held["item_idx"].filter(item).n_unique(),
        "rows": int((user | item).sum()),
    }


def _flags(codes: np.ndarray, size: int) -> np.ndarray:
    """Which of the codes below `size` occur, (size,)."""
    flags = np.zeros(size, dtype=bool)
    flags[codes] = True
    return flags


def _top(codes: pl.Series) -> int:
    return int(codes.max() or 0)  # type: ignore[arg-type]
