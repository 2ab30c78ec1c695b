"""Row filters of the stage `clean`: pure Polars."""

import polars as pl

from pipeline.conditions import condition
from pipeline.dataset_settings import Feedback


def mark(rows: pl.DataFrame, feedback: Feedback) -> pl.DataFrame:
    """Add the booleans `kept` (by `keep_if`) and `positive` (by `positive_if`)."""

    def passes(text: str | None, key: str) -> pl.Expr:
        return pl.lit(True) if text is None else condition(text, f"dataset.feedback.{key}")

    return rows.with_columns(
        kept=passes(feedback.keep_if, "keep_if"), positive=passes(feedback.positive_if, "positive_if")
    )
