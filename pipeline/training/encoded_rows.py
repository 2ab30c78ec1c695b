"""Encoded rows as interactions, block by block: memory holds the tensors and the rows of one block."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipeline.training.interactions import DAY, Facts, Interactions

BLOCK = 1 << 20
"""Rows of a block, about."""
NARROW = 2**31 - 1
"""Largest id and number of rows for which ids of 32 bits do."""


@dataclass(frozen=True)
class Wanted:
    """What is to be read of encoded rows."""

    recency: bool = False
    """With ages, which rows with event types or quantities have in any case."""
    ids_only: bool = False
    """Without ratings and times."""
    narrow: bool = False
    """With ids of 32 bits where they do."""
    users: range | None = None
    """Only the rows of these users; None: of all."""


def in_blocks(
    parts: Sequence[pl.LazyFrame], n_users: int, columns: Sequence[str] | None = None
) -> Iterator[pl.DataFrame]:
    """The rows of parts, ordered by user, then time, in blocks of about BLOCK rows; at least one, which may be empty.

    Rows of several parts with the same user and time stay in the order of the parts. One part is read as it is.
    `columns`: only these.
    """
    chosen = [part if columns is None else part.select(columns) for part in parts]
    heights = [part.select(pl.len()).collect().item() for part in parts]  # (P,)
    if len(parts) == 1:
        for start in range(0, max(heights[0], 1), BLOCK):
            yield chosen[0].slice(start, BLOCK).collect()
        return
    before = _rows_before(parts, heights, n_users) if sum(heights) > BLOCK else None  # (P, U + 1)
    if before is None:
        yield _by_user([part.collect() for part in chosen])
        return
    total = before.sum(0)  # (U + 1,)
    last = 0
    while last < n_users:
        first = last
        last = max(first + 1, int(np.searchsorted(total, total[first] + BLOCK, side="right")) - 1)
        spans = [(int(ends[first]), int(ends[last] - ends[first])) for ends in before]
        yield _by_user([part.slice(*span).collect() for part, span in zip(chosen, spans, strict=True)])


def _rows_before(parts: Sequence[pl.LazyFrame], heights: Sequence[int], n_users: int) -> np.ndarray | None:
    """Rows of each part that are of users before each user, (P, U + 1); None: a part is not ordered by user."""
    before = np.zeros((len(parts), n_users + 1), dtype=np.int64)
    for part, height, ends in zip(parts, heights, before, strict=True):
        newest = -1
        for start in range(0, height, BLOCK):
            users = part.slice(start, BLOCK).select("user_idx").collect()["user_idx"].to_numpy()  # (R,)
            if users[0] < newest or not bool((users[1:] >= users[:-1]).all()):
                return None
            newest = users[-1]
            ends[1:] += np.bincount(users, minlength=n_users)
        np.cumsum(ends, out=ends)
    return before


def _by_user(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(frames).sort("user_idx", "timestamp", maintain_order=True)


def interactions_of(
    frames: Iterable[pl.DataFrame],
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
    wanted: Wanted = Wanted(),
) -> Interactions:
    """Interactions from frames of the encoded table, in order; columns without values become None.

    `shape`: numbers of users and items.
    """
    n_users, n_items = shape
    ids = np.int32 if wanted.narrow and max(shape) <= NARROW else np.int64
    columns = {name: _Column(dtype) for name, dtype in _types(ids, wanted).items()}
    is_weighted = False
    for frame in frames if wanted.users is None else _of_users(frames, wanted.users):
        is_weighted = "event" in frame.columns
        needed = is_weighted or wanted.recency or not wanted.ids_only
        for name, column in columns.items():
            if name in frame.columns and (needed or name != "timestamp"):
                column.add(frame[name])
    parts = {name: column.tensor() for name, column in columns.items()}
    users, times = parts["user_idx"], parts["timestamp"]
    assert users is not None and parts["item_idx"] is not None
    has_times = len(users) > 0 and not columns["timestamp"].missing and times is not None
    facts = Facts(
        kinds=parts["event"],
        quantities=parts["quantity"],
        ages=_ages(times) if times is not None and has_times and (wanted.recency or is_weighted) else None,
    )
    ratings = parts.get("rating")
    has_ratings = ratings is not None and columns["rating"].missing < len(users)
    positive = parts["positive"]
    found = Interactions(
        users=users,
        items=parts["item_idx"],
        n_users=n_users,
        n_items=n_items,
        ratings=ratings if has_ratings else None,
        timestamps=times if has_times and not wanted.ids_only else None,
        positive=None if positive is None or bool(positive.all()) else positive,
        facts=facts if is_weighted or facts.ages is not None else None,
        target=parts["target"] if is_weighted else None,
        masks=parts["masks"] if is_weighted else None,
    )
    return found.to(device)


def _of_users(frames: Iterable[pl.DataFrame], users: range) -> Iterator[pl.DataFrame]:
    for frame in frames:
        yield frame.filter(pl.col("user_idx").is_between(users.start, users.stop, closed="left"))


def user_ranges(rows: pl.LazyFrame, n_users: int, n: int) -> list[range]:
    """All users in `n` ranges that have about as many of the rows each, which are ordered by user."""
    height = rows.select(pl.len()).collect().item()
    places = [number * height // n for number in range(1, n)] if height else []
    found = [rows.slice(place, 1).select("user_idx").collect().item() for place in places]
    borders = [0, *sorted(int(user) for user in found), *[n_users] * (n - len(found))]
    return [range(first, end) for first, end in pairwise(borders)]


def _types(ids: type[np.generic], wanted: Wanted) -> dict[str, type[np.generic]]:
    """The columns that are read, with the type that they get."""
    types: dict[str, type[np.generic]] = {"user_idx": ids, "item_idx": ids, "timestamp": np.int64, "positive": np.bool_}
    if not wanted.ids_only:
        types["rating"] = np.float32
    return types | {"event": np.int64, "quantity": np.float32, "target": np.bool_, "masks": np.bool_}


class _Column:
    """A column that grows by blocks."""

    def __init__(self, dtype: type[np.generic]):
        self.dtype, self.missing = dtype, 0
        self.values = np.empty(0, dtype)
        self.parts: list[np.ndarray] = []

    def add(self, values: pl.Series) -> None:
        """The values of further rows; NaN or 0 where there are none."""
        values = values.to_physical()
        if nulls := values.null_count():
            self.missing += nulls
            values = values.fill_null(float("nan") if self.dtype is np.float32 else 0)
        self.parts.append(values.to_numpy().astype(self.dtype))

    def tensor(self) -> Tensor | None:
        """All values, (N,); None: no frame has the column."""
        if not self.parts:
            return None
        whole = np.concatenate(self.parts) if len(self.parts) > 1 else self.parts[0]
        self.parts.clear()
        return torch.from_numpy(whole)


def _ages(times: Tensor) -> Tensor:
    """Days before the newest of the times, (N,) float32."""
    newest = times.max()
    ages = torch.empty(len(times))  # (N,)
    for own, of in zip(ages.split(BLOCK), times.split(BLOCK), strict=True):
        own.copy_((newest - of).double() / DAY)
    return ages
