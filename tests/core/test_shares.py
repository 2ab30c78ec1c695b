"""Shares in messages never read as nothing."""

import pytest

from pipeline.core.shares import as_percent, of_rows


@pytest.mark.parametrize(
    ("rows", "total", "said", "percent"),
    [
        (1, 30_006, "1 of 30,006 rows has", "0.0033%"),
        (29, 30_006, "29 of 30,006 rows have", "0.097%"),
        (2, 10, "20.0% of the rows have", "20.0%"),
        (31, 30_006, "0.1% of the rows have", "0.1%"),
        (10, 10, "100.0% of the rows have", "100.0%"),
    ],
)
def test_small_shares_are_counts(rows, total, said, percent):
    assert of_rows(rows, total) == said and as_percent(rows / total) == percent
    assert as_percent(0) == "0.0%"
