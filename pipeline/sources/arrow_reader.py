"""The fastest reader: Arrow's CSV parser, for blocks of a text file in which nothing is quoted or needs a second look.

It takes fewer texts than the line reader, and reads those to the same values: a number outside Arrow's grammar, an
empty id, an infinite rating, a time that is no whole number are faults, as in `duckdb_reader`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipeline.config.dataset import Dataset
from pipeline.sources.blocks import Block, needs_copy
from pipeline.sources.dialect import BOM, Layout
from pipeline.sources.duckdb_reader import ROLES
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parsing import END_OF_TIME, LARGEST, MAX_ID_BYTES, SCALES

_AT_ONCE = 8
"""Blocks that are parsed at a time, 4 MB: memory of that size is used again, and threads share them."""
_PARSED = 2**20
"""Bytes that a thread parses at a time."""


class NotPlain(ValueError):
    """The fault that keeps Arrow from reading a piece; it names no value of the source."""


def is_for_arrow(piece: Sequence[Block], layout: Layout, dataset: Dataset) -> bool:
    """Whether Arrow reads a piece without doubts exactly as the line reader does, or finds a fault."""
    columns, places = dataset.columns, layout.positions
    numbers = [places[role] for role in ("rating", "timestamp") if role in places]
    texts = [place for name, place in places.items() if name not in ("rating", "timestamp")]
    return (
        {"user", "item"} <= places.keys()  # else the other readers say what is missing
        and len(layout.delimiter.encode()) == 1
        and NumberFormat.of_columns(columns).is_usual
        and (not columns.timestamp or columns.timestamp_unit in SCALES)
        and len({*numbers, *texts}) == len(numbers) + len(texts)
        and all(block.is_plain and not block.has_quotes for block in piece)
        and not needs_copy(piece, layout)
    )


def stream_plain(
    plain: Path, piece: Sequence[Block], layout: Layout, dataset: Dataset,
    take: Callable[[Iterator[pa.RecordBatch]], object],
) -> tuple[int, str | None]:  # fmt: skip
    """Pass the typed rows of a piece to `take` in batches; returns the number of rows, and the first fault or None."""
    n_rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal n_rows
        for batch in _batches(plain, piece, layout, dataset):
            n_rows += batch.num_rows
            yield batch

    try:
        take(counted())
    except NotPlain as fault:
        return n_rows, str(fault)
    return n_rows, None


def _batches(plain: Path, piece: Sequence[Block], layout: Layout, dataset: Dataset) -> Iterator[pa.RecordBatch]:
    floats = _options(layout, pa.float64())
    options = _options(layout, pa.int64()) if "timestamp" in layout.positions else floats
    with plain.open("rb") as file:
        file.seek(piece[0].start)
        for at in range(0, len(piece), _AT_ONCE):
            blocks = piece[at : at + _AT_ONCE]
            text = file.read(blocks[-1].end - blocks[0].start)
            start = 0
            if blocks[0].start == 0:
                start = len(BOM) * text.startswith(BOM)
                start = (text.find(b"\n", start) + 1 or len(text)) if layout.header else start
            if start == len(text):
                continue
            if options is not floats and max(text.find(mark, start) for mark in (b"x", b"X")) >= 0:
                options = floats  # Arrow takes 0x10 for a whole number
            rows = pa.py_buffer(text)[start:]
            try:
                found = _parsed(rows, options)
            except NotPlain:
                if options is floats:
                    raise
                options = floats  # from here on: times may be written as 1710002230.0
                found = _parsed(rows, options)
            for batch in found.to_batches():
                yield _typed(batch, layout, dataset)


def _options(layout: Layout, clock: pa.DataType) -> dict[str, Any]:
    """How a file is parsed. `clock`: the type of times; whole numbers are faster."""
    names = [f"c{place}" for place in range(layout.n_fields)]
    kinds = dict.fromkeys(names, pa.string())
    for role, kind in (("rating", pa.float64()), ("timestamp", clock)):
        if role in layout.positions:
            kinds[names[layout.positions[role]]] = kind
    return {
        "read_options": arrow_csv.ReadOptions(column_names=names, block_size=_PARSED),
        "parse_options": arrow_csv.ParseOptions(
            delimiter=layout.delimiter, quote_char=False, double_quote=False, escape_char=False,
            ignore_empty_lines=False,
        ),
        "convert_options": arrow_csv.ConvertOptions(
            column_types=kinds, include_columns=[f"c{place}" for place in dict.fromkeys(layout.positions.values())],
            null_values=[], true_values=[], false_values=[], strings_can_be_null=False,
            check_utf8=False,  # `survey` has checked it
        ),
    }  # fmt: skip


def _parsed(text: Any, options: dict[str, Any]) -> Any:
    try:
        return arrow_csv.read_csv(pa.BufferReader(text), **options)
    except pa.ArrowInvalid as error:  # its text has the line
        fields = "a number of fields" if "columns, got" in str(error) else "a number"
        raise NotPlain(f"{fields} that is not as expected") from None


def _typed(batch: pa.RecordBatch, layout: Layout, dataset: Dataset) -> pa.RecordBatch:
    """The columns of `raw`, then the extra columns."""
    found = {name: batch.column(f"c{place}") for name, place in layout.positions.items()}
    for role in ("user", "item"):
        check_ids(found[role], role)
    rows = [found["user"], found["item"], ratings_of(found.get("rating"), len(batch), dataset)]
    rows.append(times_of(found.get("timestamp"), len(batch), dataset))
    names = ["user_id", "item_id", "rating", "timestamp"]
    for name in (name for name in layout.positions if name not in ROLES):
        names.append(name)
        rows.append(without_empty(found[name]))
    return pa.RecordBatch.from_arrays(rows, names=names)


def check_ids(column: Any, role: str) -> None:
    """Raise NotPlain unless every text of a column without nulls has the length of an id."""
    lengths = np.diff(np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1])
    if lengths.min(initial=1) < 1 or lengths.max(initial=1) > MAX_ID_BYTES:
        raise NotPlain(role)


def ratings_of(column: Any, n_rows: int, dataset: Dataset) -> Any:
    """Ratings, (N,) float64, null where one is missing. `column` has no nulls."""
    if column is None:
        return pa.nulls(n_rows, pa.float64())
    ratings = np.frombuffer(column.buffers()[1], np.float64)[column.offset :][:n_rows]
    if not (np.abs(ratings) <= LARGEST).all():
        raise NotPlain("rating")
    missing = dataset.feedback.missing_ratings
    return _masked(column, np.isin(ratings, missing)) if missing else column


def times_of(column: Any, n_rows: int, dataset: Dataset) -> Any:
    """Times, (N,) microseconds. `column` has no nulls."""
    if column is None:
        return pa.nulls(n_rows, pa.timestamp("us"))
    scale = SCALES[dataset.columns.timestamp_unit]
    kind = np.int64 if column.type == pa.int64() else np.float64
    counts = np.frombuffer(column.buffers()[1], kind)[column.offset :][:n_rows]
    if not ((counts >= 0) & (counts < END_OF_TIME / scale)).all():
        raise NotPlain("timestamp")
    whole = counts.astype(np.int64)
    if kind == np.float64 and (whole != counts).any():
        raise NotPlain("timestamp")
    whole *= scale
    return pa.Array.from_buffers(pa.timestamp("us"), n_rows, [None, pa.py_buffer(whole)])


def without_empty(column: Any) -> Any:
    """Texts, null where one is empty."""
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    return _masked(column, ends[1:] == ends[:-1])


def _masked(column: Any, mask: np.ndarray) -> Any:
    """The column with nulls where `mask` (N,) is true."""
    if not mask.any() or column.offset:
        return column if not mask.any() else _masked(pa.concat_arrays([column]), mask)
    valid = pa.py_buffer(np.packbits(~mask, bitorder="little").tobytes())
    return pa.Array.from_buffers(column.type, len(column), [valid, *column.buffers()[1:]])
