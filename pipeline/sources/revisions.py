"""Which files are read otherwise than by an earlier release: their lake keys move, and those of all others stay.

Files that an incremental source has read before keep their rows: they may be gone, and can't be read again.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources.extra_columns import extra_columns, is_bytes
from pipeline.sources.file_kinds import Kind, kind_of

NAN_IDS, BYTES, LISTS, TYPED_CATALOG = "nan_ids", "bytes", "lists_below_paths", "typed_catalog"
CASES, ITEM_LISTS, ZONES = "names_by_case", "lists_of_items_below_paths", "named_zones"
"""NaN in a column of float ids is no id; bytes that are no UTF-8 are named so, and columns of bytes are decoded; lists
below a path of JSON lines are kept as JSON; in a catalog of Parquet or JSON a word such as NULL is a text; columns of
Parquet whose names differ by case only are told apart; lists of items below a path of JSON lines are exploded; times
with a name of the machine's own time zone are rejected."""


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
    if kind == Kind.JSON_LINES and dataset.source.explode and "." in dataset.columns.item:
        yield ITEM_LISTS
    columns = dataset.columns
    zoned = columns.timestamp if "%Z" in columns.timestamp_unit else None
    if kind != Kind.PARQUET:
        yield from [ZONES] if zoned else []
        return
    ids, numbers = (columns.user, columns.item), (columns.rating, columns.timestamp)
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):  # the reader says what is wrong
        return
    for field in schema:
        if field.name in ids and pa.types.is_floating(field.type):
            yield NAN_IDS
        if field.name in (*ids, *numbers, *extra) and is_bytes(field.type):
            yield BYTES
    if any(field.name == zoned and _is_text(field.type) for field in schema):
        yield ZONES
    names = [field.name.casefold() for field in schema]
    wanted = {name.casefold() for name in (*ids, *numbers, *extra) if name}
    if any(names.count(name) > 1 for name in wanted):
        yield CASES


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return is_bytes(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _kind(path: Path, name: str) -> Kind | None:
    try:
        return kind_of(path, name)
    except UnreadableInput:  # the reader says what is wrong
        return None
