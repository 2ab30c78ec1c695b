"""encode: ids become dense indices and back; the order owes nothing to ids or files."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preparation.encoding import encode_rows
from pipeline.schemas import tables
from pipeline.stages import clean, encode
from pipeline.storage import lake
from tests.support.stage_runs import make_run, raw, store


def cleaned(*records: tuple) -> pl.DataFrame:
    return raw(*records).with_columns(positive=pl.lit(True))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
distinct = st.dictionaries(st.tuples(texts, texts), st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=30)


@pytest.mark.long
@given(distinct)
def test_indices_are_dense_sorted_and_lead_back(pairs):
    source = cleaned(*[(user, item, 1, day) for (user, item), day in pairs.items()])
    rows, users, items = encode_rows(source, seed=42)
    tables.ENCODED.check(rows)
    for kind, index in (("user", users), ("item", items)):
        names = index[f"{kind}_id"].to_list()
        assert index[f"{kind}_idx"].to_list() == list(range(len(names)))
        assert names == sorted(names, key=str.encode)
        assert set(names) == set(source[f"{kind}_id"])
    back = rows.join(users, on="user_idx").join(items, on="item_idx").select("user_id", "item_id", "timestamp")
    assert sorted(back.rows(), key=str) == sorted(source.select(back.columns).rows(), key=str)
    keys = [(user, time is not None, time) for user, time in rows.select("user_idx", "timestamp").rows()]
    assert all(a[:2] < b[:2] or (a[:2] == b[:2] and (a[2] is None or a[2] <= b[2])) for a, b in pairwise(keys))


@pytest.mark.long
@given(distinct, st.randoms(use_true_random=False))
def test_file_order_does_not_matter(pairs, random):
    records = [(user, item, 1, day) for (user, item), day in pairs.items()]
    shuffled = random.sample(records, len(records))
    first, second = encode_rows(cleaned(*records), 7)[0], encode_rows(cleaned(*shuffled), 7)[0]
    assert first.equals(second)


def test_equal_times_are_in_no_order_that_a_model_could_learn():
    rows, _, _ = encode_rows(cleaned(*[(f"u{u}", f"i{i:02}", 1, 0) for u in range(40) for i in range(40)]), 42)
    item = rows["item_idx"].to_numpy().reshape(40, 40)  # a row a user
    assert abs(np.mean(np.diff(item, axis=1) > 0) - 0.5) < 0.05
    assert len({tuple(order) for order in item}) == 40  # each user has an order of its own
    other, _, _ = encode_rows(cleaned(*[("u0", f"i{i:02}", 1, 0) for i in range(40)]), 43)
    assert other["item_idx"].to_list() != item[0].tolist()


def test_a_new_item_leaves_the_order_of_the_others_as_it_was():
    records = [("u", f"i{i}", 1, 0) for i in range(20)]
    rows, _, items = encode_rows(cleaned(*records), 1)
    more, _, more_items = encode_rows(cleaned(("u", "a", 1, 0), *records), 1)
    before = items["item_id"][rows["item_idx"]].to_list()
    assert [i for i in more_items["item_id"][more["item_idx"]].to_list() if i != "a"] == before


def test_one_user_one_item_unrated_untimed():
    rows, users, items = encode_rows(cleaned(("u", "i", None, None)), 42)
    assert rows.rows() == [(0, 0, None, None, True)]
    assert (users.rows(), items.rows()) == ([(0, "u")], [(0, "i")])


def test_the_stage_writes_rows_and_both_indices_and_is_skipped_next_time(tmp_path):
    run = make_run(tmp_path)
    parent = clean.clean_interactions(run, store(run, raw(("b", "x", 1, 1), ("a", "y", 2, 0), ("b", "y", 3, 0))))
    folder = encode.encode_ids(run, parent)
    assert tables.ENCODED.check(pl.read_parquet(folder / "interactions.parquet"))["user_idx"].to_list() == [
        0,
        1,
        1,
    ]
    assert pl.read_parquet(folder / "users.parquet").schema == {"user_idx": pl.Int32, "user_id": pl.String}
    assert pl.read_parquet(folder / "items.parquet").rows() == [(0, "x"), (1, "y")]
    assert lake.info(folder) == {"data_hash": "d", "n_users": 2, "n_items": 2}
    changed = (folder / "interactions.parquet").stat().st_mtime_ns
    assert encode.encode_ids(run, parent) == folder
    assert (folder / "interactions.parquet").stat().st_mtime_ns == changed
