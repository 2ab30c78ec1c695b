"""Ratings on the scale of the fit and back: what the statistics are of, and that nothing else changes them."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.dataset import Feedback
from pipeline.training.context import NotServable
from pipeline.training.interactions import Interactions
from pipeline.training.normalizer import FILE, Normalizer

KINDS = ["none", "standardize", "min_max", "log1p"]
SOME = torch.tensor([1.0, 5.0, math.nan, 3.0, 3.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1, 5, 3, 3]),
        ("standardize", [-math.sqrt(2), math.sqrt(2), 0, 0]),
        ("min_max", [0, 1, 0.5, 0.5]),
        ("log1p", [math.log(2), math.log(6), math.log(4), math.log(4)]),
    ],
)
def test_the_scales(kind: str, expected: list[float]):
    scaled = Normalizer.fit(kind, SOME).apply(SOME)
    assert scaled[2].isnan() and scaled.dtype == torch.float32
    assert scaled[~scaled.isnan()].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@given(
    ratings=st.lists(st.floats(0, 400_000, width=32), min_size=1, max_size=30).map(
        lambda values: torch.tensor(values, dtype=torch.float32)
    )
)
def test_inverting_gives_the_ratings_back(kind: str, ratings: torch.Tensor):
    normalizer = Normalizer.fit(kind, ratings)
    back = normalizer.invert(normalizer.apply(ratings))
    spread = float(ratings.max() - ratings.min())
    assert torch.allclose(back, ratings, rtol=1e-5, atol=1e-5 * (1 + spread))


def test_min_max_to_a_range_of_ones_own():
    normalizer = Normalizer.fit("min_max", SOME, (0.0, 60.0))
    scaled = normalizer.apply(SOME)
    assert scaled[~scaled.isnan()].tolist() == pytest.approx([0, 60, 30, 30])
    assert normalizer.invert(torch.tensor([15.0, 75.0])).tolist() == pytest.approx([2, 5])  # kept within the ratings
    below = Normalizer.fit("min_max", SOME, (-1.0, 1.0))
    assert below.apply(torch.tensor([1.0, 3.0, 9.0])).tolist() == pytest.approx([-1, 0, 3])  # not cut to the range


def test_a_range_without_extent_is_refused():
    for to in ([1, 1], [60, 0], [1]):
        with pytest.raises(ValidationError, match="normalize_to"):
            Feedback.model_validate({"normalize": "min_max", "normalize_to": to})


def test_predictions_stay_within_the_ratings_of_the_fit():
    for kind in KINDS[1:]:
        assert Normalizer.fit(kind, SOME).invert(torch.tensor([-99.0, 99.0])).tolist() == [1, 5]
    assert Normalizer.fit("none", SOME).invert(torch.tensor([-99.0, 99.0])).tolist() == [-99, 99]


def test_ratings_without_spread_are_not_divided_by_zero():
    same = torch.tensor([4.0, 4.0])
    for kind in ("standardize", "min_max"):
        normalizer = Normalizer.fit(kind, same)
        assert normalizer.apply(same).tolist() == [0, 0] and normalizer.invert(torch.zeros(1)).tolist() == [4]


def test_without_ratings_there_is_nothing_to_do():
    rows = Interactions(torch.tensor([0]), torch.tensor([1]), 2, 2)
    for ratings in (None, torch.tensor([math.nan])):
        normalizer = Normalizer.fit("standardize", ratings)
        assert normalizer == Normalizer() and normalizer.on(rows) is rows


def test_only_the_ratings_of_the_rows_change():
    rows = Interactions(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2, torch.tensor([2.0, 4.0]))
    scaled = Normalizer.fit("min_max", rows.ratings).on(rows)
    assert scaled.ratings is not None and scaled.ratings.tolist() == [0, 1]
    assert rows.ratings is not None and rows.ratings.tolist() == [2, 4]
    assert replace(scaled, ratings=rows.ratings) == rows


def test_log1p_of_impossible_ratings_says_so():
    with pytest.raises(NotServable, match=r"above -1, and the lowest is -2"):
        Normalizer.fit("log1p", torch.tensor([-2.0, 3.0]))
    with pytest.raises(ValueError, match="use none, standardize"):
        Normalizer.fit("zscore", SOME)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_next_to_the_model(tmp_path, kind: str):
    normalizer = Normalizer.fit(kind, SOME)
    normalizer.save(tmp_path)
    assert Normalizer.load(tmp_path) == normalizer
    assert (tmp_path / FILE).exists() == (kind != "none")


def test_null_ratings_of_a_frame_are_no_ratings():
    frame = pl.DataFrame(
        {"user_idx": [0, 0], "item_idx": [0, 1], "rating": [7.0, None], "timestamp": [None, None]},
        schema_overrides={"timestamp": pl.Datetime("us")},
    ).with_columns(positive=True)
    rows = Interactions.of_frame(frame, 1, 2)
    assert Normalizer.fit("standardize", rows.ratings).shift == 7
