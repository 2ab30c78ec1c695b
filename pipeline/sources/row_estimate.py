"""How many rows a source has, before it is read: exact for Parquet, estimated from sizes for text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources import files
from pipeline.sources.source_files import source_names

SAMPLE = 2**18
"""Bytes of a text file whose lines are counted."""


@dataclass(frozen=True)
class RowCount:
    """Rows of a source."""

    rows: int
    is_exact: bool

    @property
    def text(self) -> str:
        """The number for a person; an estimate has three digits."""
        return f"{self.rows:,}" if self.is_exact else f"about {float(f'{self.rows:.2e}'):,.0f}"


def estimate(dataset: Dataset, data: Path) -> RowCount | None:
    """Rows of the files in `data`; None if there are none yet, or one can't be read.

    In incremental mode, files that are no longer there are not counted.
    """
    try:
        return in_files([data / name for name in source_names(dataset, data)])
    except (UnreadableInput, OSError, ValueError):  # `ingest` says what is wrong with a file
        return None


def in_files(paths: Sequence[Path]) -> RowCount:
    """Sum over files. A text file's rows are its bytes over those of a line, by the lines at its beginning."""
    counts = [_in_file(path) for path in paths]
    return RowCount(sum(count.rows for count in counts), all(count.is_exact for count in counts))


def _in_file(path: Path) -> RowCount:
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return RowCount(pq.read_metadata(path).num_rows, True)
    start, size = files.first_bytes(path, SAMPLE), files.plain_size(path)
    lines = max(start.count(b"\n"), start.count(b"\r"))
    if not lines:
        return RowCount(int(bool(start)), False)
    return RowCount(round(max(size, len(start)) * lines / len(start)), False)  # a header is among the lines
