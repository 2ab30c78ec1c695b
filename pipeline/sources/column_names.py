"""Names of a file's columns, from its first lines: settings that name columns are checked before a night starts."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset, Reading
from pipeline.core.errors import UnreadableInput
from pipeline.sources import files
from pipeline.sources.dialect import find_column, read_layout
from pipeline.sources.extra_columns import RATED, ROLES, source_names
from pipeline.storage import expressions

START = 2**20
"""Bytes, decompressed, that have the header."""


def columns_of(path: Path, name: str, reading: Reading, wanted: dict[str, str]) -> list[str]:
    """The columns of a text or Parquet file; none if it is empty. `wanted`: keys of settings to columns it must have.

    Raises UnreadableInput if the file can't be read or lacks one of them.
    """
    if name.endswith(".parquet"):
        try:
            names = pq.read_schema(path).names
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise UnreadableInput(f"{name} is truncated, or no Parquet file ({reason}): copy it again") from None
        for key, column in wanted.items():
            find_column(column, key, names, name)
        return names
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder, "start")
        start.write_bytes(files.first_bytes(path, START)[:START])
        layout = read_layout(start, name, reading, wanted)
    return list(layout.names) if layout else []


def check_conditions(dataset: Dataset, data: Path) -> None:
    """Raise SettingsError if a condition on rows is not allowed, or names a column that the source does not have."""
    for key in ("keep_if", "positive_if"):
        text = getattr(dataset.feedback, key)
        if not text:
            continue
        condition = expressions.parse(text, f"dataset.feedback.{key}")
        if not source_names(dataset, condition):
            continue
        for name in _present(dataset, data):
            there = columns_of(data / name, name, dataset.source, {})
            known = dict.fromkeys([*there, *ROLES, *ROLES.values(), RATED, expressions.NIGHT_DATE])
            expressions.resolve(condition, known, name)


def _present(dataset: Dataset, data: Path) -> list[str]:
    """Files of the source that are there; none in an incremental night without new files."""
    published = dataset.published
    patterns = dataset.source.files or ([published.train, published.test] if published else [])
    try:
        return files.find_files(data, patterns)
    except UnreadableInput:  # the night says what is missing, if anything is
        return []
