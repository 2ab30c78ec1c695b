"""Types of text columns: all values decide, and every value that a column has survives."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.column_types import TYPES, cast, infer

DAY = dt.date(2020, 1, 31)


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "-20", "", "+3"], "BIGINT", [1, -20, None, 3]),
        (["1", "2.5", ".5", "1e3", "3."], "DOUBLE", [1.0, 2.5, 0.5, 1000.0, 3.0]),
        (["007", "12"], "VARCHAR", ["007", "12"]),
        (["1234567890123456789", "2.5"], "VARCHAR", ["1234567890123456789", "2.5"]),
        (["Yes", "no", "\\N"], "BOOLEAN", [True, False, None]),
        (["yes", "t"], "VARCHAR", ["yes", "t"]),
        (["2020-01-31", " "], "DATE", [DAY, None]),
        (["2020-01-31", "2020-02-30"], "VARCHAR", ["2020-01-31", "2020-02-30"]),
        (["2020-01-31", "2020-01-31T01:30+05:30", "2020-01-31 01:30:00.5 UTC", "2020-01-31 01:30Z"], "TIMESTAMP",
         [dt.datetime(2020, 1, 31), dt.datetime(2020, 1, 30, 20), dt.datetime(2020, 1, 31, 1, 30, 0, 500_000),
          dt.datetime(2020, 1, 31, 1, 30)]),
        (["nan", "1"], "VARCHAR", ["nan", "1"]), (["1e999"], "VARCHAR", ["1e999"]), (["", "NULL"], "VARCHAR", [None] * 2),
        ([" x ", ""], "VARCHAR", [" x ", None]),
    ],
)  # fmt: skip
def test_a_column_has_a_type_if_all_of_its_values_have_it(texts, kind, values):
    assert infer(texts) == kind
    typed = cast(pl.Series("c", texts, dtype=pl.Categorical), kind)
    assert typed.to_list() == values and typed.dtype == TYPES[kind] and typed.name == "c"


values = st.one_of(
    st.integers(-(10**20), 10**20).map(str), st.floats().map(str), st.dates().map(str), st.datetimes().map(str),
    st.sampled_from(["true", "FALSE", "y", "N", "", "NULL", "0", "00", "-0", "1.5e300", "2020-13-01"]), st.text(max_size=5),
)  # fmt: skip


@given(st.lists(values, min_size=1, max_size=6))
def test_no_value_is_lost_by_its_type(texts):
    typed = cast(pl.Series(texts), infer(texts))
    missing = [text.strip() in ("", "NULL", "\\N") for text in texts]
    assert typed.is_null().to_list() == missing
    for text, value, gone in zip(texts, typed.to_list(), missing, strict=True):
        if not gone and typed.dtype in (pl.Int64, pl.Float64):
            assert value == float(text) if typed.dtype == pl.Float64 else value == int(text)
        elif not gone and typed.dtype in (pl.Date, pl.String):
            assert str(value) == (text if typed.dtype == pl.String else text.strip())
