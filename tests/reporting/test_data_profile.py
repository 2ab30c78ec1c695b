"""What describes a data set: sample without user ids, nulls, density, distributions that lose no row."""

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.publishing import item_tables
from pipeline.reporting import data_profile
from pipeline.reporting.data_profile import Counts, Values
from pipeline.schemas import tables
from pipeline.stages import clean, encode, split
from pipeline.stages import profile as stage
from pipeline.storage import journal, lake
from tests.support.stage_runs import make_run, raw, store

ROWS = raw(
    *[(f"u{u}", f"i{i}", float(1 + (u * i) % 5), 10 * u + i) for u in range(8) for i in range(6)],
    ("lonely", "rare", None, 3),
    ("lonely", "i0", 4.0, 4),
)


@given(st.lists(st.floats(-1e6, 1e12) | st.integers(-5, 500).map(float), min_size=1, max_size=60))
def test_every_value_is_in_one_bin(values: list[float]):
    spread = data_profile.distribution(np.array(values))
    assert spread is not None and sum(spread["counts"]) == spread["n"] == len(values)
    if "edges" in spread:
        assert len(spread["edges"]) == len(spread["counts"]) + 1 <= 62
        assert np.all(np.diff(spread["edges"]) > 0) and spread["edges"][0] <= min(values)
    json.dumps(spread, allow_nan=False)


@given(
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0, 400.0, math.nan, math.inf]) | st.floats(-100, 100), max_size=60),
    st.sampled_from([1, data_profile.LOOK]),
)
def test_counted_values_are_described_like_all_of_them(values: list[float], look: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_profile, "LOOK", look)  # 1: never counted
        counted = Values.of(pl.Series(values, dtype=pl.Float64))
    finite = np.array([value for value in values if math.isfinite(value)])
    assert np.array_equal(np.repeat(counted.values, counted.counts), np.sort(finite))
    found = data_profile.distribution(counted)
    if found is None:
        assert not len(finite)
        return
    assert (found["n"], found["min"], found["max"]) == (len(finite), finite.min(), finite.max())
    assert (found["mean"], found["sd"]) == pytest.approx((finite.mean(), finite.std()), rel=1e-9, abs=1e-9)
    expected = np.quantile(finite, data_profile.QUANTILES)
    assert list(found["quantiles"].values()) == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-12)
    if "at" in found:
        distinct, counts = np.unique(finite, return_counts=True)
        assert (found["at"], found["counts"]) == (distinct.tolist(), counts.tolist())
    else:
        assert found["counts"] == np.histogram(finite, found["edges"])[0].tolist()


def test_values_that_become_equal_are_counted_together():
    values = Values.of(pl.Series([3.0, 1.0, 1.0, 2.0, None])).mapped(lambda of: np.minimum(of, 2.0))
    assert (values.values.tolist(), values.counts.tolist()) == ([1.0, 2.0], [2, 2])


def test_counts_of_a_part_are_those_of_the_part():
    whole = Counts.of(ROWS)
    assert Counts.of(ROWS, whole) is whole
    for rows in (ROWS[:20], pl.concat([ROWS[:20], ROWS[:3]])):  # the second repeats pairs
        for of in (Counts.of(rows), Counts.of(rows[:-1], Counts.of(rows))):
            kept = rows[: of.rows]
            assert of.pairs == kept.select("user_id", "item_id").n_unique()
            assert of.per_user.sum() == of.per_item.sum() == kept.height
    by_name = {c["column"]: c["distinct"] for c in data_profile.columns(ROWS, whole)}
    assert by_name == {c["column"]: c["distinct"] for c in data_profile.columns(ROWS)}


def test_few_values_have_a_bar_each_and_wide_ones_growing_bins():
    stars = data_profile.distribution(np.array([1, 5, 5, 3, math.nan, math.inf]))
    assert stars is not None and (stars["at"], stars["counts"], stars["n"]) == ([1, 3, 5], [1, 1, 2], 4)
    plays = data_profile.distribution(np.arange(1, 100_000))
    assert plays is not None and plays["log"]
    widths = np.diff(plays["edges"])
    assert widths[0] == 1 and widths[-1] > 1000 and all(float(edge).is_integer() for edge in plays["edges"])
    assert plays["quantiles"]["0.5"] == 50_000
    assert data_profile.distribution(np.array([math.nan])) is None


def test_whole_numbers_fall_into_bins_of_equal_width():
    spread = data_profile.distribution(np.arange(1, 51))
    assert spread is not None and not spread["log"]
    assert set(np.diff(spread["edges"])) == {2} and set(spread["counts"]) == {2}  # no comb


def test_shares_of_the_top():
    rows = pl.DataFrame({"item_id": ["a"] * 90 + [f"b{i}" for i in range(9)] + ["c"]})
    spread = data_profile.per(rows, "item_id")
    assert spread is not None and spread["n"] == 11
    assert spread["share_of_top"]["0.01"] == 0.9 and spread["share_of_top"]["0.1"] == 0.91


def test_columns_and_shape():
    by_name = {c["column"]: c for c in data_profile.columns(ROWS)}
    assert by_name["rating"]["nulls"] == 1 and by_name["rating"]["null_share"] == pytest.approx(1 / 50)
    assert by_name["user_id"]["distinct"] == 9 and by_name["rating"]["distinct"] == 5
    shape = data_profile.shape(ROWS)
    assert shape == {"rows": 50, "users": 9, "items": 7, "density": pytest.approx(50 / 63)}


def test_a_sample_names_no_user():
    titles = pl.DataFrame({"item_id": ["i0"], "title": ["Zero"], "attributes": [None]}, schema=tables.CATALOG.schema)
    shown = data_profile.sample(ROWS, titles, 6)
    assert len(shown) == 6 and shown[0] == {
        "user": "user 1", "item": "i0", "title": "Zero", "rating": 1.0, "timestamp": "2026-01-01 00:00:00.000000",
    }  # fmt: skip
    assert {row["user"] for row in shown} <= {f"user {n}" for n in range(1, 7)}
    assert len(data_profile.sample(ROWS[:2], item_tables.read_catalog(stage.Path("nowhere")), 5)) == 2


@pytest.fixture
def night(tmp_path):
    def profiled(rows=ROWS, **dataset):
        filters = {"min_user_interactions": 3, "min_item_interactions": 3}
        run = make_run(tmp_path, dataset={"filter": filters, **dataset}, split={"kind": "random"})
        source = store(run, rows)
        cleaned = clean.clean_interactions(run, source)
        parts = split.split_interactions(run, encode.encode_ids(run, cleaned))
        return run, stage.describe_data(run, source, cleaned, parts)

    return profiled


def test_the_stage_tells_what_the_filters_did(night, capsys):
    run, folder = night(feedback={"normalize": "min_max", "normalize_to": [0, 60]})
    output = json.loads((folder / stage.FILE).read_text())
    assert output["shapes"]["raw"]["rows"] == 50 and output["shapes"]["clean"] == {
        "rows": 48, "users": 8, "items": 6, "density": 1.0,
    }  # fmt: skip
    assert sum(output["rows"].values()) == 48
    assert output["ratings"]["raw"]["max"] == 5 and output["ratings"]["fit"]["max"] == 60
    assert output["ratings"]["fit"]["n"] == output["rows"]["train"]
    assert "lonely" not in json.dumps(output)
    assert "of 50 rows of 9 users and 7 items (density 79.4 %), 48 rows of 8 users" in capsys.readouterr().err
    assert journal.read_run(run.home, run.dataset, run.run_id)["profile"] == str(folder)
    assert lake.info(folder)["shapes"] == output["shapes"]


def test_data_without_ratings_or_times(night):
    _, folder = night(ROWS.with_columns(rating=pl.lit(None, pl.Float64), timestamp=pl.lit(None, pl.Datetime("us"))))
    output = json.loads((folder / stage.FILE).read_text())
    assert output["ratings"] == {"raw": None, "clean": None, "fit": None}


def test_ratings_that_the_scale_refuses_do_not_end_the_night(night):
    _, folder = night(ROWS.with_columns(rating=-2 * pl.col("rating")), feedback={"normalize": "log1p"})
    output = json.loads((folder / stage.FILE).read_text())
    assert output["ratings"]["fit"] is None and output["ratings"]["raw"]["min"] == -10
