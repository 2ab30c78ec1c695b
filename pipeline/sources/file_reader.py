"""Reads one source file, text, JSON lines or Parquet: every line becomes a row or a rejected line."""

from pathlib import Path

from pipeline.config.dataset import Dataset
from pipeline.sources.csv_reader import read_text
from pipeline.sources.duckdb_reader import FileResult
from pipeline.sources.file_kinds import Kind, kind_of
from pipeline.sources.json_lines import read_json_lines
from pipeline.sources.parquet_reader import read_parquet
from pipeline.sources.parsing import clock
from pipeline.storage.warehouse import Connection

__all__ = ["FileResult", "read_file"]


def read_file(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool = False) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read line by line in any case.

    Raises UnreadableInput if the file is unreadable as a whole or lacks a column.
    """
    clock(dataset.columns.timestamp_unit)  # a wrong unit is an error before anything is read
    kind = kind_of(path, name)
    if kind == Kind.PARQUET:
        return read_parquet(con, path, name, dataset, into, exact)
    try:
        if kind == Kind.JSON_LINES:
            return read_json_lines(con, path, name, dataset, into, exact)
        return read_text(con, path, name, dataset, into, exact)
    finally:
        (into / ".plain").unlink(missing_ok=True)
