"""The fast reader: one strict DuckDB statement that fails at the first value outside a plain grammar."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.config.dataset import Columns, Dataset
from pipeline.sources.dialect import Layout
from pipeline.sources.extra_columns import stored_columns
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parsing import COUNTS, SCALES
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection

ROLES = ("user", "item", "rating", "timestamp")
_BATCH = 122_880  # rows, as DuckDB makes them
_PLAIN_FORMAT = re.compile(r"(%[YmdHMS]|[^%A-Za-z0-9])+(UTC)?").fullmatch
_CLOCKS = {**dict.fromkeys(SCALES, "count"), "ns": "nanoseconds", "iso": "iso"}
"""`timestamp_unit` to the parameter `clock` of 1_interactions; any other unit is a format."""
"""Formats that DuckDB and Python parse identically."""


@dataclass(frozen=True)
class FileResult:
    """The result of reading one file."""

    ledger: dict[str, int]
    """Rows by reason."""
    rescanned: str | None
    """How much was read line by line, and why; None if DuckDB read all of it."""
    looks: dict[str, int] = field(default_factory=dict)
    """Rejected ratings by what they look like."""
    doubts: dict[str, int] = field(default_factory=dict)
    """Kept rows by the doubt with which they were read; see `doubts`."""


def wanted_columns(dataset: Dataset) -> dict[str, str]:
    """Role to column name, for the columns that are configured; then extra columns by their name in the raw layer."""
    roles = {role: name for role in ROLES if (name := getattr(dataset.columns, role))}
    return {**roles, **stored_columns(dataset)}


def no_fast_way(dataset: Dataset, unit: str) -> str | None:
    """Why DuckDB can't read this data set's times; None if it can."""
    known = unit in _CLOCKS or _PLAIN_FORMAT(unit) or not dataset.columns.timestamp
    return None if known else "a time format of its own"


def stream_rows(
    con: Connection, view: str, dataset: Dataset, unit: str, take: Callable[[Iterator[pa.RecordBatch]], object],
    is_plain: bool = False,
) -> tuple[int, str | None]:  # fmt: skip
    """Pass the typed rows of `view` to `take` in batches; returns the number of rows, and the first error or None."""
    kind = _CLOCKS.get(unit, "format")
    n_rows = 0

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nonlocal n_rows
        for batch in batches:
            n_rows += batch.num_rows
            yield batch

    view = in_plain_numbers(view, dataset.columns, unit)
    con.execute(f"CREATE OR REPLACE TEMP VIEW source_text AS {view}")
    try:
        rows = warehouse.run_sql(
            con, "1_interactions",
            has_rating=dataset.columns.rating is not None,
            missing_ratings=dataset.feedback.missing_ratings,
            clock=kind if dataset.columns.timestamp else "none",
            scale=SCALES.get(unit, 1), is_plain=is_plain,
            format=unit if kind == "format" else "%Y",
        )  # fmt: skip
        assert rows is not None
        take(counted(warehouse.stream(rows, _BATCH)))
    except warehouse.BadData as error:
        return n_rows, str(error).splitlines()[0][:200]
    return n_rows, None


def in_plain_numbers(view: str, columns: Columns, unit: str) -> str:
    """A query for the columns of `view`, with ratings as numbers if `columns` says how they are written.

    A text that is no number becomes NULL, which is an error where a rating is expected.
    """
    numbers = NumberFormat.of_columns(columns)
    replaced = {}
    if columns.rating and not numbers.is_usual:
        replaced["rating_text"] = numbers.as_sql("rating_text")
    if columns.timestamp and unit in COUNTS and not numbers.is_usual_in_times:
        replaced["timestamp_text"] = numbers.time_as_sql("timestamp_text")
    if not replaced:
        return view
    return f"SELECT * REPLACE ({', '.join(f'{sql} AS {name}' for name, sql in replaced.items())}) FROM ({view})"


def text_view(path: Path, layout: Layout, has_header: bool, numbers: Collection[str] = ()) -> str:
    """A query for the text columns of a file. `numbers`: roles whose columns DuckDB may parse as numbers."""
    extra = [name for name in layout.positions if name not in ROLES]
    ids = {layout.positions.get(name) for name in ("user", "item", *extra)}  # columns that are wanted as text
    places = {layout.positions[role] for role in numbers if role in layout.positions} - ids
    kinds = ["DOUBLE" if i in places else "VARCHAR" for i in range(layout.n_fields)]
    names = ", ".join(f"'c{i}': '{kind}'" for i, kind in enumerate(kinds))
    texts = [
        f"c{layout.positions[role]} AS {role}_text" if role in layout.positions else f"NULL::VARCHAR AS {role}_text"
        for role in ROLES
    ]
    texts += [f"nullif(c{layout.positions[name]}, '') AS {warehouse.quoted(name)}" for name in extra]
    delimiter, quote, file = (warehouse.literal(text) for text in (layout.delimiter, layout.quote, path))
    return (
        f"SELECT {', '.join(texts)} FROM read_csv({file}, auto_detect = false, header = false, "
        f"skip = {int(has_header)}, delim = {delimiter}, quote = {quote}, escape = {quote}, "
        f"columns = {{{names}}})"
    )
