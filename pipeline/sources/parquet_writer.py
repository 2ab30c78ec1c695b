"""The result of reading one file: kept rows and rejected lines as Parquet, and their ledger.

Ids are stored as dictionaries: Polars reads them as Categorical, other readers as text, and no later stage has to
hash one string per row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.schemas.reasons import Reason
from pipeline.sources.parsing import Row

INTERACTIONS, REJECTED = "interactions.parquet", "rejected_rows.parquet"
_TEXT, _LINE, _ID = pa.string(), pa.int64(), pa.dictionary(pa.int32(), pa.string())
_ROWS = pa.schema([("user_id", _ID), ("item_id", _ID), ("rating", pa.float64()), ("timestamp", pa.timestamp("us"))])
"""The schema of rows without extra columns."""
_REJECTED = pa.schema(
    [
        ("run_id", _TEXT),
        ("file", _TEXT),
        ("line", _LINE),
        ("column", _TEXT),
        ("reason", _TEXT),
        ("raw", _TEXT),
    ]
)
_BATCH = 122_880  # rows, DuckDB's row group
_COMPRESSION = "lz4"
_RUN = 4
"""Rows of one user one after another, on average, from which on runs of equal ids are worth finding."""
ROW_GROUP = 2_000_000
"""Rows of a row group in bulk writes: large, since readers look up the ids of every group again."""


def schema_with(extra: Iterable[tuple[str, pa.DataType]]) -> pa.Schema:
    """The columns of `raw`, then extra ones; text is stored as a dictionary."""
    stored = [(name, _ID if pa.types.is_string(kind) else kind) for name, kind in extra]
    return pa.schema([*_ROWS, *(pa.field(name, kind) for name, kind in stored)])


def text_schema(names: Iterable[str]) -> pa.Schema:
    """The columns of `raw`, then extra ones of text."""
    return schema_with((name, _TEXT) for name in names)


def write_rows(batches: Iterable[pa.RecordBatch], path: Path, schema: pa.Schema = _ROWS) -> int:
    """Write rows with the columns of `schema` in large row groups; returns the number of rows."""
    n_rows, written = 0, None
    with _rows_writer(path, schema) as writer, ThreadPoolExecutor(1) as background:
        for group in _groups(batches):
            if written:
                written.result()  # at most one group is written while the next one is read
            written = background.submit(lambda group: _write(writer, _stored(group, schema)), group)
            n_rows += sum(batch.num_rows for batch in group)
        if written:
            written.result()
    return n_rows


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches grouped into row groups."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= ROW_GROUP:
            yield held
            held = []
    if held:
        yield held


def _stored(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """A row group with one dictionary of users and one of items."""
    if any(batch.schema != batches[0].schema for batch in batches):  # of several files, or rows were removed
        batches = [_as_text(batch, schema) for batch in batches]
    columns = pa.Table.from_batches(batches).unify_dictionaries().columns  # of ids: one dictionary, one chunk
    return pa.Table.from_arrays([_as(c, field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)


def _as(column: Any, kind: pa.DataType) -> Any:
    """The column as it is stored."""
    if column.type == kind:
        return column
    return _encoded(column.cast(_TEXT)) if pa.types.is_dictionary(kind) else column.cast(kind)


def _encoded(texts: Any) -> Any:
    """Texts as one dictionary array. Runs of equal texts are looked up once, where the first rows have such runs."""
    first = texts.chunk(0) if texts.num_chunks else None
    if first is None or texts.null_count or len(_runs(first).values) * _RUN > len(first):
        return texts.dictionary_encode().combine_chunks()
    runs = [_runs(chunk) for chunk in texts.chunks]
    distinct = pa.concat_arrays([run.values for run in runs]).dictionary_encode()
    lengths = [np.diff(pl.Series(run.run_ends).to_numpy(), prepend=0) for run in runs]
    indices = np.repeat(pl.Series(distinct.indices).to_numpy(), np.concatenate(lengths))  # (R,)
    rows = pa.Array.from_buffers(pa.int32(), len(indices), [None, pa.py_buffer(indices)])
    return pa.DictionaryArray.from_arrays(rows, distinct.dictionary, safe=False)


def _runs(texts: Any) -> Any:
    """Texts as runs of equal ones."""
    return pc.call_function("run_end_encode", [texts])


def _as_text(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the types of `schema`, and text instead of dictionaries."""
    kinds = [_TEXT if pa.types.is_dictionary(field.type) else field.type for field in schema]
    columns = [c.cast(kind) for c, kind in zip(batch.columns, kinds, strict=True)]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def read_batches(paths: Iterable[Path]) -> Iterable[pa.RecordBatch]:
    """The rows of files written by `write_rows` or PartWriter, in order."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches()


def _rows_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    few = ["user_id", "item_id", "rating", *(f.name for f in schema if pa.types.is_dictionary(f.type))]
    options: dict[str, Any] = {"use_dictionary": list(dict.fromkeys(few)), "write_statistics": ["timestamp"]}
    return pq.ParquetWriter(path, schema, compression=_COMPRESSION, **options)


def _write(writer: pq.ParquetWriter, group: pa.Table) -> None:
    writer.write_table(group, row_group_size=max(1, group.num_rows))  # else at most 2^20


class PartWriter:
    """Writes kept rows and rejected lines of one file in batches, in order.

    `ledger` counts rows by reason, `looks` rejected ratings by what they look like, `doubts` kept rows by a doubt.

    `rows=False`: only rejected lines are written, since the caller has written the kept rows.
    """

    def __init__(self, folder: Path, name: str, rows: bool = True, schema: pa.Schema = _ROWS) -> None:
        self.name = name
        self.ledger: Counter[str] = Counter()
        self.looks: Counter[str] = Counter()
        self.doubts: Counter[str] = Counter()
        self._rejects: list[tuple] = []
        self._rows: list[Row] = []
        self._to_rejects = pq.ParquetWriter(folder / REJECTED, _REJECTED)
        self._schema = schema
        self._to_rows = _rows_writer(folder / INTERACTIONS, schema) if rows else None

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._to_rejects.close()
            if self._to_rows:
                self._to_rows.close()

    def keep(self, row: Row) -> None:
        """Add a kept row."""
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def extend(self, batches: list[pa.RecordBatch]) -> None:
        """Add many kept rows, in batches as for `write_rows`."""
        self._flush()
        assert self._to_rows
        for group in _groups(batches):
            _write(self._to_rows, _stored(group, self._schema))
            self.ledger[Reason.KEPT] += sum(batch.num_rows for batch in group)

    def reject(self, line: int, column: str | None, reason: Reason, raw: str) -> None:
        """Add a rejected line; run_id stays empty until the night publishes it."""
        self.ledger[reason] += 1
        self._rejects.append(("", self.name, line, column, str(reason), raw))
        if len(self._rejects) == _BATCH // 8:
            self._flush()

    def note_look(self, looks: str | None) -> None:
        """Count what a rejected number looks like."""
        if looks:
            self.looks[looks] += 1

    def _flush(self) -> None:
        if self._rows and self._to_rows:
            self.ledger[Reason.KEPT] += len(self._rows)
            self._to_rows.write_table(_table(self._rows, self._schema))
        if self._rejects:
            self._to_rejects.write_table(_table(self._rejects, _REJECTED))
        self._rows, self._rejects = [], []


def _table(rows: list, schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
