"""Checks that no split leaks into another, and statistics that describe a split."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.errors import ContractError
from pipeline.preparation.ids import any_twice, pair_keys
from pipeline.preparation.seen import HIDE, SeenRule
from pipeline.preparation.splitters import SPLITS, TEST, VALID, TimeCuts
from pipeline.schemas import tables

HELD = ("valid", "test")
ANNOUNCED_WITHIN = dt.timedelta(hours=24)
"""How long before an event to find another one of the same user and item gives it away."""


def assert_no_leak(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    test: pl.DataFrame,
    kind: str,
    rule: SeenRule = HIDE,
    cuts: TimeCuts | None = None,
) -> None:
    """Raise ContractError if a pair is in two splits or, for kinds that use time, a split has rows later than the next.

    global_time: every row of a split is before every row of the next one. leave_one_out: the same holds within each
    user (equal times are allowed: a seeded hash decides them), with at most one row per user in valid and in test.

    `cuts`: those of global_time, if the rows are not those of all users.
    """
    if "target" in train.columns:
        for label, part, before in ((VALID, valid, [train]), (TEST, test, [train, valid])):
            since = cuts.first_of(label) if cuts else None
            _assert_targets_are_found(before, part, lambda rows, part=part, s=since: rule.masking(rows, part, kind, s))
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
    before: list[pl.DataFrame], part: pl.DataFrame, masking: Callable[[pl.DataFrame], pl.Series]
) -> None:
    """Raise ContractError if a held-out pair is held out twice in a split, or an earlier split has a row that masks it.

    An earlier split may have other rows of the pair: what was viewed before it was bought.
    """
    held = pair_keys(part.filter("target"))
    masked = pl.concat([pair_keys(rows.filter(masking(rows))) for rows in before])
    if any_twice(held) or masked.is_in(held.implode()).any():
        name = SPLITS[len(before)]
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
    summary = Summary(kind, _top(rows["item_idx"]) + 1)
    summary.add(rows, labels, parts)
    return summary.statistics()


class Summary:
    """Counts of a split. `add` takes the rows of some users after those of others; no user is added twice."""

    def __init__(self, kind: str, n_items: int, rule: SeenRule = HIDE):
        self.kind, self.rule = kind, rule
        self.rows: dict[str, int] = {name: 0 for name in SPLITS}
        self.users: dict[str, int] = {name: 0 for name in SPLITS}
        self.targets: dict[str, int] = {}
        """Rows of the target by split; empty where rows have no column `target`."""
        self.repeated_targets = 0
        """Rows of the target that are not held out; the caller adds them up."""
        self._again: dict[str, tuple[int, int]] = {}
        self._announced: dict[str, tuple[int, int]] = {}
        self._train_items = np.zeros(n_items, dtype=bool)  # (I,)
        self._held = {name: _Held(n_items) for name in HELD}
        self._newest: dict[str, int] = {}

    def add(self, rows: pl.DataFrame, labels: np.ndarray, parts: dict[str, pl.DataFrame]) -> None:
        """`rows` in encoded order, their labels (R,), and the rows by label. Indices of users may begin at any one."""
        first = int(rows["user_idx"].min() or 0)  # type: ignore[arg-type]
        n_users = _top(rows["user_idx"]) - first + 1
        users = {name: _flags(part["user_idx"].to_numpy() - first, n_users) for name, part in parts.items()}
        self._train_items[parts["train"]["item_idx"].to_numpy()] = True
        for name, part in parts.items():
            self.rows[name] += part.height
            self.users[name] += int(users[name].sum())
            if self.kind == "global_time" and part.height:
                newest = int(part["timestamp"].to_physical().max())  # type: ignore[arg-type]
                self._newest[name] = max(newest, self._newest.get(name, newest))
        for label, name in ((VALID, "valid"), (TEST, "test")):
            if self.kind == "leave_one_out":
                self._held[name].ties += ties(rows, labels, label)
            self._held[name].add(parts[name], users["train"], first)

        if "target" in rows.columns:
            for name, part in parts.items():
                self.targets[name] = self.targets.get(name, 0) + int(part["target"].sum())
        counts = [(self._again, found_again(parts) if self.rule.allow else {})]
        counts += (
            [(self._announced, announced(parts))] if "target" in rows.columns and self.kind != "global_time" else []
        )
        for total, found in counts:
            self._add_pairs(total, found)

    def by_item(self) -> pl.DataFrame:
        """What is counted by item, for `merge`: (I,) rows."""
        held = {f"{name}_{what}": column for name, held in self._held.items() for what, column in held.by_item.items()}
        return pl.DataFrame({"train": self._train_items, **held})

    def counts(self) -> dict[str, Any]:
        """What else is counted, for `merge`."""
        sums = {name: dict(getattr(self, name)) for name in ("rows", "users", "targets")}
        pairs = {name: dict(getattr(self, name)) for name in ("_again", "_announced")}
        held = {name: held.counts for name, held in self._held.items()}
        return {"sums": sums, "pairs": pairs, "held": held, "newest": self._newest, "repeated": self.repeated_targets}

    def merge(self, by_item: pl.DataFrame, counts: dict[str, Any]) -> None:
        """Add what another one has counted of other users; it is of the same kind of split."""
        self._train_items |= by_item["train"].to_numpy()
        self.repeated_targets += counts["repeated"]
        for name, held in self._held.items():
            columns = {what: by_item[f"{name}_{what}"].to_numpy() for what in held.by_item}
            held.merge(columns, counts["held"][name])
        for attribute, found in counts["sums"].items():
            total = getattr(self, attribute)
            total.update({name: total.get(name, 0) + n for name, n in found.items()})
        for attribute, found in counts["pairs"].items():
            self._add_pairs(getattr(self, attribute), found)
        for name, newest in counts["newest"].items():
            self._newest[name] = max(newest, self._newest.get(name, newest))

    @staticmethod
    def _add_pairs(total: dict[str, tuple[int, int]], found: dict[str, tuple[int, int]]) -> None:
        for name, (some, held) in found.items():
            before = total.get(name, (0, 0))
            total[name] = (before[0] + some, before[1] + held)

    def info(self) -> dict[str, Any]:
        """What the manifest says: `statistics`, targets where there are any, and repeats where they may be found."""
        weighted = {"repeated_targets": self.repeated_targets, "targets": self.targets} if self.targets else {}
        repeats = {**self.rule.key, "found_again": self._again} if self.rule.allow else {}
        given_away = {"announced": self._announced} if self._announced else {}
        return {**weighted, **self.statistics(), **repeats, **given_away}

    def statistics(self) -> dict[str, Any]:
        """As `describe` returns them. Raises ContractError if rows of some users are later than the next split."""
        return {
            "cuts": self._cuts(),
            "tie_share": self._tie_share("test"),
            "tie_share_valid": self._tie_share("valid"),
            "rows": dict(self.rows),
            "users": dict(self.users),
            "n_cold": {name: held.cold(self._train_items) for name, held in self._held.items()},
        }

    def _cuts(self) -> dict[str, str]:
        """The first time of valid and of test, for a cut in time."""
        if self.kind != "global_time":
            return {}
        oldest = {name: held.oldest for name, held in self._held.items() if held.oldest is not None}
        for name, first in oldest.items():
            before = [newest for other, newest in self._newest.items() if SPLITS.index(other) < SPLITS.index(name)]
            if before and max(before) >= first:
                raise ContractError(f"split: rows of splits before {name} are not earlier than it")
        return {name: str(pl.Series([first]).cast(tables.TIME)[0]) for name, first in oldest.items()}

    def _tie_share(self, name: str) -> float:
        return round(self._held[name].ties / self.rows[name], 4) if self.rows[name] else 0.0


class _Held:
    """What is counted of valid or of test."""

    def __init__(self, n_items: int):
        self.ties, self.oldest = 0, None
        self._users = self._rows = 0
        self._items = np.zeros(n_items, dtype=bool)  # (I,): has a row
        self._rows_of_warm = np.zeros(n_items, dtype=np.int64)  # (I,): rows of users who are in train

    def add(self, part: pl.DataFrame, in_train: np.ndarray, first: int) -> None:
        """Rows of users from the index `first` on, of whom `in_train` (U,) are in train."""
        user, item = part["user_idx"].to_numpy() - first, part["item_idx"].to_numpy()  # (H,) each
        cold = ~in_train[user]  # (H,)
        self._users += len(np.unique(user[cold]))
        self._rows += int(cold.sum())
        self._items[item] = True
        self._rows_of_warm += np.bincount(item[~cold], minlength=len(self._items))
        self._is_as_old_as(part["timestamp"].to_physical().min())

    def _is_as_old_as(self, time: object) -> None:
        if isinstance(time, int):
            self.oldest = time if self.oldest is None else min(time, self.oldest)

    @property
    def by_item(self) -> dict[str, np.ndarray]:
        """(I,) each, for `merge`."""
        return {"items": self._items, "rows_of_warm": self._rows_of_warm}

    @property
    def counts(self) -> tuple[int, int, int, int | None]:
        """For `merge`."""
        return self.ties, self._users, self._rows, self.oldest

    def merge(self, by_item: dict[str, np.ndarray], counts: tuple[int, int, int, int | None]) -> None:
        """Add what was counted of other users."""
        self._items |= by_item["items"]
        self._rows_of_warm += by_item["rows_of_warm"]
        ties, users, rows, oldest = counts
        self.ties, self._users, self._rows = self.ties + ties, self._users + users, self._rows + rows
        self._is_as_old_as(oldest)

    def cold(self, train_items: np.ndarray) -> dict[str, int]:
        """Users, items and rows that are not in train, which has the items that are flagged (I,)."""
        new = self._items & ~train_items
        return {
            "users": self._users,
            "items": int(new.sum()),
            "rows": self._rows + int(self._rows_of_warm[new].sum()),
        }


def tie_share(rows: pl.DataFrame, labels: np.ndarray, part: int) -> float:
    """Share of the rows labelled `part` that a tie put there: an earlier split has a row of equal user and time."""
    held = int((labels == part).sum())
    return ties(rows, labels, part) / held if held else 0.0


def ties(rows: pl.DataFrame, labels: np.ndarray, part: int) -> int:
    """Rows labelled `part` of whose user an earlier split has a row of equal time. 0 for rows without a time.

    Comparing neighbours is enough, since rows are in encoded order.
    """
    held = np.flatnonzero(labels == part)  # (H,)
    later = held[held > 0]
    here, before = rows[later], rows[later - 1]
    same = (here["user_idx"] == before["user_idx"]) & (here["timestamp"] == before["timestamp"])
    return int((same.fill_null(False).to_numpy() & (labels[later - 1] < part)).sum())


def _flags(codes: np.ndarray, size: int) -> np.ndarray:
    """Which of the codes below `size` occur, (size,)."""
    flags = np.zeros(size, dtype=bool)
    flags[codes] = True
    return flags


def _top(codes: pl.Series) -> int:
    return int(codes.max() or 0)  # type: ignore[arg-type]
