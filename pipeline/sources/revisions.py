"""Which files are read otherwise than by an earlier release: their lake keys move, and those of all others stay.

Files that an incremental source has read before keep their rows: they may be gone, and can't be read again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources.extra_columns import extra_columns
from pipeline.sources.file_kinds import Kind, kind_of

NAN_IDS, BYTES, LISTS, TYPED_CATALOG = "nan_ids", "bytes", "lists_below_paths", "typed_catalog"
"""NaN in a column of float ids is no id; bytes that are no UTF-8 are named so, and columns of bytes are decoded; lists
below a path of JSON lines are kept as JSON; in a catalog of Parquet or JSON a word such as NULL is a text."""


def revisions_of(dataset: Dataset, data: Path, sources: Sequence[str], catalogs: Sequence[str]) -> list[str]:
    """The revisions that files below `data` fall under, sorted: of interactions, and of catalogs and attributes."""
    found = {revision for name in sources for revision in _of_source(dataset, data / name, name)}
    if any(_kind(data / name, name) in (Kind.PARQUET, Kind.JSON_LINES) for name in catalogs):
        found.add(TYPED_CATALOG)
    return sorted(found)


def _of_source(dataset: Dataset, path: Path, name: str) -> Iterator[str]:
    kind, extra = _kind(path, name), extra_columns(dataset)
    if kind == Kind.JSON_LINES and any("." in column for column in extra):
        yield LISTS
    if kind != Kind.PARQUET:
        return
    ids = (dataset.columns.user, dataset.columns.item)
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):  # the reader says what is wrong
        return
    for field in schema:
        if field.name in ids and pa.types.is_floating(field.type):
            yield NAN_IDS
        if field.name in (*ids, *extra) and (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
            yield BYTES


def _kind(path: Path, name: str) -> Kind | None:
    try:
        return kind_of(path, name)
    except UnreadableInput:  # the reader says what is wrong
        return None
