"""Row filters of the stage `clean`: pure Polars."""

import polars as pl

from pipeline.config.dataset import Feedback
from pipeline.preparation.conditions import condition


def mark(rows: pl.DataFrame, feedback: Feedback) -> pl.DataFrame:
    """Add the booleans `kept` (by `keep_if`) and `positive` (by `positive_if`)."""

    def passes(text: str | None, key: str) -> pl.Expr:
        return pl.lit(True) if text is None else condition(text, f"dataset.feedback.{key}")

    return rows.with_columns(
        kept=passes(feedback.keep_if, "keep_if"), positive=passes(feedback.positive_if, "positive_if")
    )
