"""Proof that no part of a split knows another, and the figures that say how good a split is."""

from typing import Any

import numpy as np
import polars as pl

from pipeline import tables
from pipeline.contracts import ContractError
from pipeline.stages.ids import any_twice, pair_keys
from pipeline.stages.splitting import TEST, TRAIN, VALID


def assert_no_leak(train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, kind: str) -> None:
    """Raise ContractError if a pair is in two parts or, for kinds that go by time, a part knows a later one.

    global_time: every row of a part is before every row of the next. leave_one_out: so it is for each user
    (equal times allowed: the seeded hash decides them), with at most one row a user in valid and in test.
    """
    if any_twice(pl.concat([pair_keys(part) for part in (train, valid, test)])):
        raise ContractError("split: a user and item is in two parts")
    if kind not in ("global_time", "leave_one_out"):
        return
    before = {"valid": [train], "test": [train, valid]}
    for name, part in {"valid": valid, "test": test}.items():
        if kind == "global_time":
            newest = max((b["timestamp"].max() for b in before[name] if b.height), default=None)  # type: ignore
            late = part.filter(pl.col("timestamp") <= pl.lit(newest, tables.TIME))
        else:
            newest = pl.concat(before[name]).group_by("user_idx").agg(newest=pl.col("timestamp").max())
            late = part.join(newest, on="user_idx").filter(pl.col("timestamp") < pl.col("newest"))
            if part["user_idx"].n_unique() < part.height:
                raise ContractError(f"split: a user has two rows in {name}")
        if late.height:
            raise ContractError(f"split: {late.height} rows of {name} are not after what is before it")


def describe(rows: pl.DataFrame, labels: np.ndarray, parts: dict[str, pl.DataFrame], kind: str) -> dict[str, Any]:
    """Figures of a split, for later stages and people."""
    held = {name: parts[name] for name in ("valid", "test")}
    by_cut = held if kind == "global_time" else {}
    by_ties = kind == "leave_one_out"
    return {
        "cuts": {name: str(part["timestamp"].min()) for name, part in by_cut.items() if part.height},
        "tie_share": round(tie_share(rows, labels, TEST), 4) if by_ties else 0.0,
        "tie_share_valid": round(tie_share(rows, labels, VALID), 4) if by_ties else 0.0,
        "rows": {name: part.height for name, part in parts.items()},
        "users": {
            name: int(_flags(part["user_idx"].to_numpy(), _top(part["user_idx"]) + 1).sum())
            for name, part in parts.items()
        },
        "n_cold": {name: cold(parts["train"], part) for name, part in held.items()},
    }


def warm_users(rows: pl.DataFrame, labels: np.ndarray) -> int:
    """Users with a row in test and one in train."""
    user = rows["user_idx"].to_numpy()  # (R,)
    in_test, in_train = (_flags(user[labels == part], int(user.max()) + 1) for part in (TEST, TRAIN))
    return int((in_test & in_train).sum())


def tie_share(rows: pl.DataFrame, labels: np.ndarray, part: int) -> float:
    """Share of the rows of `part` that a tie put there: an earlier part has a row of equal user and time.

    Neighbours decide, since rows are in encoded order. 0 for rows without a time.
    """
    held = labels == part
    if not held.any():
        return 0.0
    same = (rows["user_idx"] == rows["user_idx"].shift()) & (rows["timestamp"] == rows["timestamp"].shift())
    tied = same.fill_null(False).to_numpy()[1:] & (labels[1:] == part) & (labels[:-1] < part)
    return float(tied.sum() / held.sum())


def cold(train: pl.DataFrame, held: pl.DataFrame) -> dict[str, int]:
    """Users, items and rows of `held` that train does not know."""
    user, item = (_unknown(train[name], held[name]) for name in ("user_idx", "item_idx"))
    return {
        "users": held["user_idx"].filter(user).n_unique(),
        "items": held["item_idx"].filter(item).n_unique(),
        "rows": int((user | item).sum()),
    }


def _unknown(known: pl.Series, codes: pl.Series) -> np.ndarray:
    """Whether each of `codes` (R,) is not among `known`."""
    return ~_flags(known.to_numpy(), max(map(_top, (known, codes))) + 1)[codes.to_numpy()]


def _flags(codes: np.ndarray, size: int) -> np.ndarray:
    """Which of the codes below `size` are there, (size,)."""
    flags = np.zeros(size, dtype=bool)
    flags[codes] = True
    return flags


def _top(codes: pl.Series) -> int:
    return int(codes.max() or 0)  # type: ignore[arg-type]
