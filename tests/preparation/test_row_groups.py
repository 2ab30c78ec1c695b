"""Files read row group by row group: the rows, counts and order that the same frames in memory give."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Feedback, Filter
from pipeline.core.errors import Refused
from pipeline.preparation import encoding, id_columns
from pipeline.preparation.clean_rows import clean_file
from pipeline.preparation.encoding import encode_file, encode_rows
from pipeline.preparation.filters import RowFilter, apply_filters
from pipeline.preparation.id_columns import Coded, any_pair_twice, count_rows, read_coded
from tests.support.stage_runs import DAY

USERS = ["10", "9", "é", "a b", "日本", "u1", "u10", "u2"]
ITEMS = ["i1", "i10", "i2", "ö", "k"]
RULES: list[tuple[Feedback, Filter]] = [
    (Feedback(), Filter()),
    (Feedback(keep_if="rating >= 2", positive_if="rating >= 3 or user = '9'"), Filter()),
    (Feedback(positive_if="rating > 0"), Filter(user_fraction=0.6)),
    (Feedback(keep_if="rated"), Filter(min_user_interactions=2, min_item_interactions=3, user_fraction=0.9)),
]


def log(seed: int, by_user: bool) -> pl.DataFrame:
    """Raw rows with repeats and ties in time; `by_user`: of one user after another, in order of time."""
    draw = np.random.default_rng(seed)
    n = int(draw.integers(1, 80))
    day = pl.Series("day", draw.integers(0, 6, n).astype(float))
    rows = pl.DataFrame(
        {
            "user_id": draw.choice(USERS[: draw.integers(1, len(USERS) + 1)], n),
            "item_id": draw.choice(ITEMS, n),
            "rating": pl.Series(draw.integers(-1, 5, n).astype(float)).replace(-1.0, None),
            "day": day.set(pl.Series(draw.random(n) < draw.choice([0.0, 0.2, 1.0])), None),
        }
    )
    if by_user:
        place = pl.col("user_id").replace_strict(dict(zip(USERS, draw.permutation(len(USERS)), strict=True)))
        rows = rows.sort(place, "day", nulls_last=False, maintain_order=True)
    time = pl.lit(DAY) + pl.duration(microseconds=(pl.col("day") * 86_400e6).cast(pl.Int64))
    return rows.select("user_id", "item_id", "rating", time.cast(pl.Datetime("us")).alias("timestamp"))


def write(rows: pl.DataFrame, path: Path, rows_of_group: int) -> Path:
    ids = pl.col("user_id", "item_id").cast(pl.Categorical)
    pq.write_table(
        rows.with_columns(ids).to_arrow(compat_level=pl.CompatLevel.oldest()), path, row_group_size=rows_of_group
    )
    return path


def as_text(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("user_id", "item_id").cast(pl.String))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(RULES), st.integers(1, 90))
def test_clean_in_row_groups_is_clean_in_one_frame(seed, by_user, rule, size):
    rows, (feedback, filters) = log(seed, by_user), rule
    with tempfile.TemporaryDirectory() as folder:
        raw, into = write(rows, Path(folder) / "raw.parquet", size), Path(folder) / "clean.parquet"
        try:
            expected, ledger = apply_filters(rows, feedback, filters, 7)
        except Refused as error:
            with pytest.raises(Refused, match="^" + str(error).replace("(", ".").replace(")", ".") + "$"):
                clean_file(raw, RowFilter(feedback, filters, 7), into)
            return
        found, non_positive = clean_file(raw, RowFilter(feedback, filters, 7), into)
        assert as_text(pl.read_parquet(into)).equals(as_text(expected))
        assert {"kept": sum(found.rows), **found.ledger} == ledger
        assert (found.n_raw, found.positive) == (rows.height, expected["positive"].sum())
        assert non_positive == expected.filter("positive", pl.col("rating") <= 0).height
        encoded: list[pl.DataFrame] = []  # ids of rows that were left out may be in dictionaries, and get no index
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoding, "ROWS_AT_ONCE", max(size // 3, 1))
            patch.setattr(encoding, "_COMPARED", max(size // 4, 1))
            users, items = encode_file(into, 7, (), encoded.append)
        assert [pl.concat(encoded), users, items] == _Frames(encode_rows(expected, 7))


class _Frames(list):
    """Frames that are equal if all of their values are."""

    def __eq__(self, others: object) -> bool:
        assert isinstance(others, list) and len(others) == len(self)
        return all(mine.equals(theirs) for mine, theirs in zip(self, others, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_rows_by_user_and_time_are_encoded_as_in_any_other_order(seed):
    """One of the two ways sorts users, the other one rows; ties go by the same hash, then by place in the source."""
    rows = log(seed, by_user=True).unique(["user_id", "item_id"], keep="first", maintain_order=True)
    rows = rows.with_columns(positive=pl.lit(True))
    user, others = encoding.codes_of(rows["user_id"]), encoding._others([rows], rows.height, ())
    assert encoding._of_runs(Coded(user[0].to_numpy(), user[1]), others["timestamp"]) is not None
    shuffled = rows.sample(fraction=1, shuffle=True, seed=seed)
    assert _Frames(encode_rows(rows, 3)) == list(encode_rows(shuffled, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 90), st.sampled_from([0, 10**9]))
def test_pairs_that_repeat_are_found_with_and_without_a_sort(seed, by_user, size, few):
    rows = log(seed, by_user)
    if seed % 2:
        rows = rows.unique(["user_id", "item_id"], keep="any", maintain_order=True)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_columns, "_FEW", few)
        patch.setattr(id_columns, "_CELLS", 2 * len(ITEMS))
        user, item = read_coded(write(rows, Path(folder) / "raw.parquet", size))
        assert user.ids.to_list() == sorted(set(rows["user_id"]), key=str.encode)
        assert user.ids[user.codes].to_list() == rows["user_id"].to_list()
        assert item.ids[item.codes].to_list() == rows["item_id"].to_list()
        counted = rows.group_by("item_id").agg(rows=pl.len().cast(pl.Int64)).sort("item_id")
        assert count_rows(Path(folder) / "raw.parquet", "item_id").equals(counted)
        assert any_pair_twice(user, item) == rows.select("user_id", "item_id").is_duplicated().any()
