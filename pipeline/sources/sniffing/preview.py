"""The first rows of any file as text, and the file's layout."""

import io
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import UnreadableInput
from pipeline.sources import dialect, files
from pipeline.sources.sniffing.column_roles import NAMES, fits, guessed_names, is_numeric, number

FIRST = 2**22  # bytes


@dataclass
class Peek:
    """The first rows of a file, as text."""

    names: list[str]
    rows: list[list[str]]
    reading: dict[str, Any] = field(default_factory=dict)
    """Keys of config.dataset.Reading for the file's layout; empty for a Parquet file."""
    notes: list[str] = field(default_factory=list)
    """What was guessed about the layout, for a person to check."""

    def column(self, at: int) -> list[str]:
        """The cells of one column."""
        return [row[at] for row in self.rows]


def peek(path: Path, known: Collection[str] = ()) -> Peek:
    """Preview a file; a first line with one of the names `known` is a header. Raises UnreadableInput if it is empty."""
    return _parquet(path) if path.suffix == ".parquet" else _text(path, known)


def _text(path: Path, known: Collection[str]) -> Peek:
    start = files.first_bytes(path, FIRST)
    whole = start[: start.rfind(b"\n") + 1] if len(start) >= FIRST else start
    encoding = "utf-8" if _decodes(whole) else "latin-1"
    lines = [dialect.decode(line, encoding, "replace") for line in dialect.head(io.BytesIO(start), path.name)]
    lines = [line for line in lines if line]
    delimiter = dialect.sniff_delimiter(lines, '"', [], path.name)
    quote = max(('"', ""), key=lambda q: alike(lines, delimiter, q))
    rows = [dialect.fields(line, delimiter, quote) for line in lines]
    width = max((len(row) for row in rows), key=[len(row) for row in rows].count, default=0)
    names = [name.strip() for name in rows[0]] if rows else []
    header = any(name in known for name in names) or _is_header(names, [row for row in rows[1:] if len(row) == width])
    body = [row for row in (rows[1:] if header else rows) if len(row) == width]
    reading: dict[str, Any] = {"delimiter": delimiter, "header": header}
    if not header:
        names = guessed_names(body, width)
        reading["column_names"] = names
    reading |= {"encoding": encoding, "quote": quote}
    return Peek(names, [row for row in body if len(row) == len(names)], reading)


def _parquet(path: Path) -> Peek:
    try:
        batch = next(pq.ParquetFile(path).iter_batches(100))
    except (OSError, pa.ArrowException, StopIteration) as error:
        raise UnreadableInput(f"{path} is empty, truncated or no Parquet file ({error}): copy it again") from None
    columns = [["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns]
    return Peek(list(batch.schema.names), [list(row) for row in zip(*columns, strict=True)])


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    if not first or any(number(name) is not None for name in first):
        return False
    known = sum(any(fits(name, role) for role in NAMES) for name in first)
    return known >= 2 or any(is_numeric(list(column)) for column in zip(*rest, strict=False))


def alike(lines: list[str], delimiter: str, quote: str) -> int:
    """Number of lines that split into the most frequent number of fields."""
    widths = [
        len(split[0]) if (split := dialect.split_quoted(line, delimiter, quote))[1] == "whole" else 0 for line in lines
    ]
    return max(map(widths.count, set(widths) - {0}), default=0)


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
