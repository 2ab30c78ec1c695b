"""Reads one text file: by Arrow's parser or a strict DuckDB statement, line by line only blocks where that fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.schemas.reasons import Reason
from pipeline.sources import arrow_reader, line_reader
from pipeline.sources.blocks import Block, copy_as_utf8, needs_copy, survey
from pipeline.sources.dialect import Layout, read_layout
from pipeline.sources.duckdb_reader import FileResult, no_fast_way, stream_rows, text_view, wanted_columns
from pipeline.sources.extra_columns import keys_of, stored_columns
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parquet_writer import INTERACTIONS, PartWriter, text_schema, write_rows
from pipeline.sources.parsing import SCALES, Row, row_reader
from pipeline.sources.plain_text import prepare
from pipeline.storage.warehouse import Connection

_FAN = 8
"""Pieces into which a piece with a fault is divided, down to single blocks."""
_LARGEST = 128
"""Maximum blocks of a piece, 64 MB: its rows stay in memory until all of it is read."""


def read_text(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read line by line in any case."""
    plain, reading = prepare(path, name, dataset.source, into / ".plain")
    layout = read_layout(plain, name, reading, wanted_columns(dataset), keys_of(dataset))
    schema = text_schema(stored_columns(dataset))
    blocks = survey(plain, layout) if layout else []
    if layout is None or not blocks:
        with PartWriter(into, name, schema=schema):
            return FileResult({}, "an empty file")
    text = _Text(con, plain, layout, dataset, into)
    asked = "as asked" if exact else "explode" if layout.explode else None
    unfit = asked or no_fast_way(dataset, dataset.columns.timestamp_unit)
    fault = unfit or text.doubts(blocks)
    if not fault:
        fault = text.read_fast(blocks, lambda batches: write_rows(batches, into / INTERACTIONS, schema))
    if not fault:
        rows = pq.read_metadata(into / INTERACTIONS).num_rows
        with PartWriter(into, name, rows=False):
            return FileResult({Reason.KEPT: rows} if rows else {}, None)
    with PartWriter(into, name, schema=schema) as part:
        read = row_reader(dataset.columns, dataset.feedback.missing_ratings)
        n_lines = text.read_pieces(blocks, read, part, bool(unfit))
    return FileResult(
        dict(part.ledger), f"{n_lines:,} of {blocks[-1].last:,} lines: {fault}", dict(part.looks), dict(part.doubts)
    )


@dataclass
class _Text:
    """An uncompressed text file that is being read."""

    con: Connection
    plain: Path
    layout: Layout
    dataset: Dataset
    into: Path

    def read_pieces(self, blocks: Sequence[Block], read: Callable[..., Row], part: PartWriter, exact: bool) -> int:
        """Read the file in pieces, and pieces with a fault in smaller ones; returns the lines that were read singly.

        In order, since a quoted record may continue in the next block, which is then read from where the record ends.
        """
        waiting, taken, one_by_one = _divided(blocks), 0, 0
        while waiting:
            piece = [block for block in waiting.pop(0) if block.last > taken]
            if not piece:
                continue
            batches: list[pa.RecordBatch] = []
            fault = exact or taken >= piece[0].first or self.doubts(piece)
            if not fault and not self.read_fast(piece, batches.extend):
                part.extend(batches)
                taken = piece[-1].last
            elif len(piece) > 1:
                waiting = _divided(piece) + waiting
            else:
                before = max(taken, piece[0].first - 1)
                taken = line_reader.rescan(self.plain, piece[0], before, self.layout, read, part)
                one_by_one += taken - before
        return one_by_one

    def _is_usual(self) -> bool:
        """Whether DuckDB's own parser reads the numbers."""
        return NumberFormat.of_columns(self.dataset.columns).is_usual

    def doubts(self, piece: Sequence[Block]) -> str:
        """Why DuckDB can't be trusted with the piece, as text; empty if it can."""
        return ", ".join(sorted(set[str]().union(*(block.doubts for block in piece))))

    def read_fast(self, piece: Sequence[Block], take: Callable) -> str | None:
        """Pass the rows of a piece to `take` in batches; returns None, or the fault that makes them invalid."""
        has_header = self.layout.header and piece[0].start == 0
        n_lines = sum(block.lines for block in piece) - has_header
        if arrow_reader.is_for_arrow(piece, self.layout, self.dataset):
            n_rows, fault = arrow_reader.stream_plain(self.plain, piece, self.layout, self.dataset, take)
            return fault or (None if n_rows == n_lines else "a record over several lines")
        is_plain = all(block.is_plain for block in piece)
        is_whole = piece[0].start == 0 and piece[-1].end == self.plain.stat().st_size
        copy = self.into / f".copy-{piece[0].first}-{piece[-1].last}"
        try:
            fast = self.plain
            if not is_whole or needs_copy(piece, self.layout):
                fast = copy_as_utf8(self.plain, piece, self.layout, copy)
            unit = self.dataset.columns.timestamp_unit
            numbers = {"rating", *(["timestamp"] if unit in SCALES else [])} if is_plain and self._is_usual() else set()
            view = text_view(fast, self.layout, has_header, numbers)
            n_rows, fault = stream_rows(self.con, view, self.dataset, unit, take, is_plain)
        finally:
            copy.unlink(missing_ok=True)
        return fault or (None if n_rows == n_lines else "a record over several lines")


def _divided(piece: Sequence[Block]) -> list[Sequence[Block]]:
    size = min(-(-len(piece) // _FAN), _LARGEST)
    return [piece[i : i + size] for i in range(0, len(piece), size)]
