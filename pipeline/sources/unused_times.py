"""Finds a column of times that a data set without times does not use."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.column_kinds import is_function_of
from pipeline.sources.sniffing.column_roles import fits
from pipeline.sources.sniffing.preview import peek


def unused_times(dataset: Dataset, path: Path) -> str | None:
    """The name of a column of `path` that looks like the times of the rows; None if there is none.

    Only for data sets that have no `columns.timestamp`. The first rows are looked at, with the names that the data set
    gives to the columns of a file without a header.
    """
    if dataset.columns.timestamp:
        return None
    try:
        if path.suffix == ".parquet":
            kinds = pq.read_schema(path)
            stored = [field.name for field in kinds if str(field.type).startswith(("timestamp", "date"))]
            if stored:
                return stored[0]
        table = peek(path)
    except (UnreadableInput, OSError):
        return None  # the reader says what is wrong with the file
    names = dataset.source.column_names if not dataset.source.header and dataset.source.column_names else table.names
    columns = dataset.columns
    at_of = {name: at for at, name in enumerate(names[: len(table.names)])}
    ids = [at_of[name] for name in (columns.user, columns.item) if name in at_of]
    free = [name for name in at_of if name not in (columns.user, columns.item, columns.rating)]
    return next((name for name in free if _has_times(name, table.column(at_of[name]), map(table.column, ids))), None)


def _has_times(name: str, column: list[str], ids: Iterable[list[str]]) -> bool:
    unit = times.unit_of(column)
    is_id = any(fits(name, role) for role in ("user", "item")) or name.lower().endswith("id")
    if unit in times.EPOCHS and is_id:
        return False
    if any(is_function_of(column, each) for each in ids):
        return False  # as the release date of a film
    return unit is not None or times.looks_like_time(name, column)
