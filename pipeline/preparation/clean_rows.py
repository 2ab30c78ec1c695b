"""The stage `clean` for rows without event types: codes of ids decide which rows stay, then rows pass group by group.

The same rows and counts as `filters.apply_filters`, which has all columns of all rows in memory.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import ContractError
from pipeline.preparation.clean_shards import Cleaned
from pipeline.preparation.filters import RowFilter, k_core_of_parts, latest_of_pairs, mark, sampled
from pipeline.preparation.id_columns import IDS, Coded, any_pair_twice, read_coded
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.storage import expressions

_STORED = pa.schema(
    [
        *(pa.field(name, pa.dictionary(pa.int32(), pa.string()), nullable=False) for name in IDS),
        pa.field("rating", pa.float64()),
        pa.field("timestamp", pa.timestamp("us")),
        pa.field("positive", pa.bool_(), nullable=False),
    ]
)
assert _STORED.names == list(tables.CLEAN.columns)


def clean_file(raw: Path, rule: RowFilter, into: Path) -> tuple[Cleaned, int]:
    """Write the rows of `raw` that take part to `into`; returns what was counted, and positive ratings of 0 or below.

    Raises Refused if no row is left or none is positive, SettingsError if a condition is not allowed.
    """
    user, item = read_coded(raw)
    choice = _Choice(len(user.codes))
    choice.drop(Reason.DUPLICATE, _latest(raw, user, item))
    choice.drop(Reason.KEEP_IF, choice.judge(raw, rule))
    least = rule.filters.min_user_interactions, rule.filters.min_item_interactions
    share = rule.filters.user_fraction
    choice.drop(Reason.USER_NOT_SAMPLED, sampled(user.ids, share, rule.seed)[user.codes] if share < 1 else None)
    choice.drop(Reason.BELOW_MIN_INTERACTIONS, choice.dense(user, item, *least) if max(least) > 1 else None)
    del user, item
    found = Cleaned(n_raw=len(choice.stays), ledger=choice.ledger)
    non_positive = 0
    options = {"use_dictionary": [*IDS, "rating"], "write_statistics": False, "compression": "none"}
    with pq.ParquetWriter(into, _STORED, **options) as writer:
        for start, group in _groups(raw, _STORED.names[:-1]):
            stays = choice.stays[start : start + group.num_rows]
            positive = choice.positive[start : start + group.num_rows] if choice.positive is not None else None
            if not stays.all():
                group = group.filter(_arrow(stays))
                positive = positive[stays] if positive is not None else None
            marks = pl.Series(np.ones(group.num_rows, bool) if positive is None else positive)
            found.rows.append(group.num_rows)
            found.positive += int(marks.sum())
            non_positive += int((marks & (pl.Series(group["rating"]) <= 0)).sum() or 0)
            if group.num_rows:
                writer.write_table(_stored(group, marks), row_group_size=group.num_rows)
    rule.refuse_empty(found.n_raw, sum(found.rows), found.positive, found.ledger)
    return found, non_positive


class _Choice:
    """Which rows stay, so far."""

    def __init__(self, n_rows: int) -> None:
        self.stays = np.ones(n_rows, dtype=bool)  # (R,)
        self.positive: np.ndarray | None = None
        """(R,) bool; None: all of them."""
        self.ledger = Cleaned().ledger

    def drop(self, reason: Reason, stays: np.ndarray | None) -> None:
        """Drop rows but for those that stay, (R,) bool, and count them; None: all stay."""
        before = int(self.stays.sum())
        if stays is not None:
            self.stays &= stays
        self.ledger[str(reason)] += before - int(self.stays.sum())

    def judge(self, raw: Path, rule: RowFilter) -> np.ndarray | None:
        """Which rows `keep_if` keeps, (R,) bool; notes which are positive. None without conditions.

        Only rows that are left are judged: an error in another row's value is none.
        """
        feedback = rule.feedback
        if feedback.keep_if is None and feedback.positive_if is None:
            return None
        for text, key in ((feedback.keep_if, "keep_if"), (feedback.positive_if, "positive_if")):
            if text is not None:
                expressions.parse(text, f"dataset.feedback.{key}")
        kept, self.positive = np.ones_like(self.stays), np.ones_like(self.stays)
        for start, group in _groups(raw):
            at = start + np.flatnonzero(self.stays[start : start + group.num_rows])
            rows = pl.DataFrame(pl.from_arrow(group))[at - start]
            marks = mark(rows.cast({name: pl.Categorical for name in IDS}), feedback, rule.names)
            kept[at], self.positive[at] = marks["kept"].to_numpy(), marks["positive"].to_numpy()
        return kept

    def dense(self, user: Coded, item: Coded, min_user: int, min_item: int) -> np.ndarray:
        """Which rows `k_core` of those that are left keeps, (R,) bool."""
        at = np.flatnonzero(self.stays)
        (kept,) = k_core_of_parts([(user.codes[at], item.codes[at])], min_user, min_item)
        stays = self.stays.copy()
        stays[at] = kept
        return stays


def _latest(raw: Path, user: Coded, item: Coded) -> np.ndarray | None:
    """Which rows `keep_latest` keeps, (R,) bool; None: all of them."""
    if not any_pair_twice(user, item):
        return None
    keys = user.codes.astype(np.int64)
    keys <<= 32
    keys |= item.codes
    return latest_of_pairs(pl.Series(keys), pl.read_parquet(raw, columns=["timestamp"])["timestamp"])


def _groups(path: Path, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """The row groups of a file, each with the place of its first row."""
    start = 0
    with pq.ParquetFile(path, read_dictionary=list(IDS)) as file:
        for number in range(file.num_row_groups):
            group = file.read_row_group(number, columns=columns)
            yield start, group
            start += group.num_rows


def _stored(group: pa.Table, positive: pl.Series) -> pa.Table:
    """A row group of the contract `clean`."""
    columns = [*group.unify_dictionaries().columns, positive.to_arrow()]
    for field, column in zip(_STORED, columns, strict=True):
        if column.null_count and not field.nullable:
            raise ContractError(f"{tables.CLEAN.name}.{field.name}: {column.null_count} nulls")
    return pa.Table.from_arrays(columns, schema=_STORED)


def _arrow(mask: np.ndarray) -> pa.Array:
    return pl.Series(mask).to_arrow()
