"""Looks at an interaction file and writes a commented data set TOML for it, for a person to read over."""

import glob
import io
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import layout, sources
from pipeline.column_roles import NAMES, fits, is_numeric, number, roles_of
from pipeline.contracts import UnreadableInput

_PEEK = 2**22  # bytes


@dataclass
class _Table:
    """The first rows of a file, as text."""

    names: list[str]
    rows: list[list[str]]
    reading: list[str] = field(default_factory=list)
    """Lines of [source] that say how it is laid out."""


def sniff(path: Path) -> str:
    """The TOML of a data set with this file. Raises UnreadableInput where it has no user and item columns."""
    if not path.is_file():
        raise UnreadableInput(f"{path} does not exist, or is no file")
    table = _parquet(path) if path.suffix == ".parquet" else _text(path)
    unit, roles = roles_of(table.names, table.rows)
    if not table.rows or not {"user", "item"} <= roles.keys():
        raise UnreadableInput(f"{path}: found no lines with both a user and an item; is it an interaction file?")
    texts = [row[roles["rating"]] for row in table.rows] if "rating" in roles else []
    ratings = sorted({value for text in texts if (value := number(text)) is not None})
    lines = [
        f"# Sniffed from the first lines of {path.name!r}; read it over.",
        f"name = {_quoted(_name(path))}",
        'description = ""',
        "",
        "[source]",
        f"files = [{_quoted(glob.escape(path.name))}]  # globs, beside this file or in --data",
        *table.reading,
        "",
        "[columns]",
        f"# the file has: {', '.join(map(_quoted, table.names))}",
    ]
    lines += [f"{role} = {_quoted(table.names[at])}{_example(table, at)}" for role, at in roles.items()]
    if "timestamp" in roles:
        lines.append(f"timestamp_unit = {_quoted(unit)}  # s, ms, iso, or a strptime format; check day and month")
    explicit = bool(ratings) and len(ratings) <= 20 and ratings[-1] <= 100
    lines += ["", "[feedback]", f'kind = "{"explicit" if explicit else "implicit"}"']
    if len(ratings) > 1 and ratings[0] == -1 and ratings[1] >= 0:
        lines.append("missing_ratings = [-1]  # 'seen, not rated'")
    if explicit:
        lines.append(f'# positive_if = "rating >= {ratings[-1] * 0.8:g}"  # every row is positive without it')
    return "\n".join(lines) + "\n"


def _text(path: Path) -> _Table:
    start = sources.first_bytes(path, _PEEK)
    whole = start[: start.rfind(b"\n") + 1] if len(start) >= _PEEK else start
    encoding = "utf-8" if _decodes(whole) else "latin-1"
    lines = [layout.decode(line, encoding, "replace") for line in layout.head(io.BytesIO(start), path.name)]
    lines = [line for line in lines if line]
    delimiter = layout.sniff_delimiter(lines, '"', [], path.name)
    quote = max(('"', ""), key=lambda q: _alike(lines, delimiter, q))
    rows = [layout.fields(line, delimiter, quote) for line in lines]
    width = max((len(row) for row in rows), key=[len(row) for row in rows].count, default=0)
    header = bool(rows) and _is_header(rows[0], [row for row in rows[1:] if len(row) == width])
    names = [name.strip() for name in rows[0]] if header else []
    body = [row for row in (rows[1:] if header else rows) if len(row) == width]
    reading = [f"delimiter = {_quoted(delimiter)}", f"header = {'true' if header else 'false'}"]
    if not header:
        found = {at: role for role, at in roles_of([""] * width, body)[1].items()} if width > 1 and body else {}
        names = [found.get(at, f"column_{at + 1}") for at in range(width)]
        reading.append(f"column_names = [{', '.join(map(_quoted, names))}]  # guessed: the file has no header")
    reading.append(f"encoding = {_quoted(encoding)}")
    reading.append(f"quote = {json.dumps(quote)}")
    return _Table(names, [row for row in body if len(row) == len(names)], reading)


def _parquet(path: Path) -> _Table:
    try:
        batch = next(pq.ParquetFile(path).iter_batches(100))
    except (OSError, pa.ArrowException, StopIteration) as error:
        raise UnreadableInput(f"{path} is no Parquet file, is cut off or empty ({error})") from None
    columns = [["" if v is None else str(v) for v in column.to_pylist()] for column in batch.columns]
    return _Table(list(batch.schema.names), [list(row) for row in zip(*columns, strict=True)])


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    if any(number(name.strip()) is not None for name in first):
        return False
    known = sum(any(fits(name, role) for role in NAMES) for name in first)
    return known >= 2 or any(is_numeric(list(column)) for column in zip(*rest, strict=False))


def _alike(lines: list[str], delimiter: str, quote: str) -> int:
    """Lines that split into the usual number of fields; the quote counts where it is at work."""
    widths = [
        len(split[0]) if (split := layout.split_quoted(line, delimiter, quote))[1] == "whole" else 0 for line in lines
    ]
    return max(map(widths.count, set(widths) - {0}), default=0)


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0] if not path.name.startswith(".") else path.stem)
    return name.lstrip("-_")[:64] or "dataset"


def _example(table: _Table, at: int) -> str:
    return f"  # e.g. {table.rows[0][at][:40]!r}" if table.rows else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
