"""The names that conditions on rows may use, and the columns that they mean."""

import datetime as dt
from dataclasses import dataclass, field

import polars as pl

from pipeline.config.dataset import Columns, Dataset
from pipeline.config.run import Run
from pipeline.schemas import tables
from pipeline.storage.expressions import NIGHT_DATE, night_date

ROLES = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}
"""Role of a column in a data set's TOML to its name in the lake."""
RATED = "rated"
"""Whether the row has a rating: a name of its own, as `rating is not null`."""


@dataclass(frozen=True)
class RowNames:
    """Names for the columns of raw rows.

    `rating`, `rated`, `timestamp`, `user` and `item` always mean what `[columns]` says; the source's own names of
    those columns mean the same. Other columns of the source have their own names.
    """

    columns: Columns = field(default_factory=Columns)
    night_date: dt.date | None = None

    @classmethod
    def of(cls, run: Run) -> "RowNames":
        """Those of a night."""
        return cls(run.settings.dataset.columns, night_date(run.as_of, run.started_at))

    def view(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows with every name as a column. Columns under several names share their memory."""
        canonical = {**ROLES, **{column: column for column in tables.RAW.columns}}
        own = {getattr(self.columns, role): column for role, column in ROLES.items() if getattr(self.columns, role)}
        named = {name: pl.col(column) for name, column in {**own, **canonical}.items()}
        named[RATED] = pl.col("rating").is_not_null()
        if self.night_date is not None:
            named[NIGHT_DATE] = pl.lit(self.night_date)
        others = [column for column in rows.columns if column not in named]
        return rows.select(*others, **named)


NO_NAMES = RowNames()
"""For rows whose source's names don't matter."""


def names_outside(dataset: Dataset, names: tuple[str, ...]) -> list[str]:
    """The names that are not those of RowNames, and so mean other columns of the source, without repeats."""
    known = {name.lower() for name in (*ROLES, *tables.RAW.columns, RATED, NIGHT_DATE)}
    own = {getattr(dataset.columns, role) for role in ROLES}
    return list(dict.fromkeys(name for name in names if name.lower() not in known and name not in own))
