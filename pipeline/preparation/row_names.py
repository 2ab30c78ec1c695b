"""The names that conditions on rows may use, and the columns that they mean."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Columns, Feedback
from pipeline.config.run import Run
from pipeline.schemas import tables
from pipeline.sources import column_types
from pipeline.sources.extra_columns import PREFIX, RATED, ROLES
from pipeline.storage import expressions
from pipeline.storage.expressions import NIGHT_DATE, night_date


@dataclass(frozen=True)
class RowNames:
    """Names for the columns of raw rows.

    `rating`, `rated`, `timestamp`, `user` and `item` always mean what `[columns]` says; the source's own names of
    those columns mean the same. Other columns of the source have their own names.
    """

    columns: Columns = field(default_factory=Columns)
    night_date: dt.date | None = None
    types: dict[str, str] = field(default_factory=dict)
    """Types of the source's other columns of text, as `learnt` finds them."""

    @classmethod
    def of(cls, run: Run, types: dict[str, str] | None = None) -> "RowNames":
        """Those of a night."""
        return cls(run.settings.dataset.columns, night_date(run.as_of, run.started_at), types or {})

    def learnt(self, raw: pl.DataFrame, feedback: Feedback) -> "RowNames":
        """The same with the types of the columns of text that conditions name; all rows are needed for them.

        Types that are known stay. Raises SettingsError if a condition is not allowed.
        """
        columns = self._untyped(raw.schema, feedback)
        found = {name: column_types.infer_column(raw[stored]) for name, stored in columns.items()}
        return replace(self, types={**found, **self.types})

    def learnt_from(self, path: Path, feedback: Feedback) -> "RowNames":
        """The same of a file, of which only the distinct values of one column at a time are read."""
        rows = pl.scan_parquet(path)
        columns = self._untyped(rows.collect_schema(), feedback)
        values = {name: rows.select(pl.col(stored).unique()).collect()[stored] for name, stored in columns.items()}
        found = {name: column_types.infer_column(column) for name, column in values.items()}
        return replace(self, types={**found, **self.types})

    def _untyped(self, schema: pl.Schema, feedback: Feedback) -> dict[str, str]:
        """Columns of text that conditions name and whose type is not known yet: as stored, by the source's name."""
        texts = filter(None, (feedback.keep_if, feedback.positive_if))
        wanted = {name.lower() for text in texts for name in expressions.parse(text, "dataset.feedback").names}
        stored = {name.removeprefix(PREFIX): name for name in schema if name.startswith(PREFIX)}
        is_text = {name for name, column in stored.items() if schema[column] in (pl.String, pl.Categorical)}
        return {n: c for n, c in stored.items() if n in is_text and n.lower() in wanted and n not in self.types}

    def view(self, rows: pl.DataFrame, wanted: Collection[str]) -> pl.DataFrame:
        """The rows with every name as a column; other columns of the source only if they are `wanted`, in any case.

        Columns under several names share their memory.
        """
        canonical = {**ROLES, **{column: column for column in tables.RAW.columns}}
        own = {getattr(self.columns, role): column for role, column in ROLES.items() if getattr(self.columns, role)}
        named = {name: pl.col(column) for name, column in {**own, **canonical}.items()}
        named[RATED] = pl.col("rating").is_not_null()
        if self.night_date is not None:
            named[NIGHT_DATE] = pl.lit(self.night_date)
        lowered = {name.lower() for name in wanted}
        others = [name for name in rows.columns if name.startswith(PREFIX) and name not in tables.RAW.columns]
        for column in others:
            name = column.removeprefix(PREFIX)
            if name not in named and name.lower() in lowered:
                kind = self.types.get(name)
                named[name] = pl.lit(column_types.cast(rows[column], kind)) if kind else pl.col(column)
        return rows.select(**named) if rows.height else rows.clear().select(**named)


NO_NAMES = RowNames()
"""For rows whose source's names don't matter."""
