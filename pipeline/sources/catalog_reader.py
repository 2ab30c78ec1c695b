"""Reads the item catalog line by line. A broken line is rejected with its reason; it does not stop the night."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Items
from pipeline.core.errors import UnreadableInput
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.sources import json_lines
from pipeline.sources.dialect import find_column, read_layout
from pipeline.sources.file_kinds import Kind, kind_of
from pipeline.sources.line_reader import records, shown
from pipeline.sources.parsing import Rejected, check_id
from pipeline.sources.plain_text import prepare

PARTED = "\x1f"
"""Joins the values of a Parquet list if no separator is configured: ASCII's unit separator."""


EMPTY = ("NULL", "\\N")
"""Cells that databases export for a missing value: they are empty."""


@dataclass(frozen=True)
class CatalogLine:
    """One line of a catalog: its cells by column, or the reason it is rejected."""

    line: int
    """Physical line, 1-based; row of a Parquet file."""
    cells: dict[str, str] | Reason
    raw: str
    """The line as `rejected_rows` shows it."""


def read_items(
    folder: Path, names: list[str], items: Items, scratch: Path
) -> tuple[pl.DataFrame, dict[str, int], pl.DataFrame]:
    """The catalog; counts of items, repeated ids (the last line wins) and skipped lines; the skipped lines as in
    `rejected_rows`."""
    found: dict[str, tuple[str | None, str | None]] = {}
    skipped: list[tuple] = []
    repeated = 0
    for name in names:
        wanted = {"items.id": items.id, **{f"items.attributes.{a}": a for a in items.attributes}}
        wanted |= {"items.title": items.title} if items.title else {}
        for row in _ROWS[kind_of(folder / name, name)](folder / name, name, items, wanted, scratch):
            if isinstance(row.cells, Reason):
                skipped.append(("", name, row.line, None, str(row.cells), row.raw))
                continue
            values = {column: "" if cell in EMPTY else cell for column, cell in row.cells.items()}
            item = values[items.id]
            try:
                check_id(item, Reason.EMPTY_ITEM, items.id)
            except Rejected as rejected:
                skipped.append(("", name, row.line, rejected.column, str(rejected.reason), row.raw))
                continue
            repeated += item in found
            found[item] = (values[items.title] or None) if items.title else None, _attributes(values, items)
    frame = pl.DataFrame([(i, *v) for i, v in found.items()], schema=tables.CATALOG.schema, orient="row")
    rejects = pl.DataFrame(skipped, schema=tables.REJECTED_ROWS.schema, orient="row")
    counts = {"items": len(found), "repeated": repeated, "skipped": len(skipped)}
    return tables.CATALOG.check(frame), counts, rejects


def _text_rows(path: Path, name: str, items: Items, wanted: dict[str, str], scratch: Path) -> Iterator[CatalogLine]:
    plain, reading = prepare(path, name, items, scratch / "items.plain")
    if layout := read_layout(plain, name, reading, wanted):
        for line, raw, fields in records(plain, layout):
            if fields is Reason.COMMENT:
                continue
            text = shown(raw, layout.encoding)
            if isinstance(fields, Reason):
                yield CatalogLine(line, fields, text)
            else:
                cells = {column: fields[layout.positions[key]] for key, column in wanted.items()}
                yield CatalogLine(line, cells, text)


def _parquet_rows(path: Path, name: str, items: Items, wanted: dict[str, str], _: Path) -> Iterator[CatalogLine]:
    """Rows of a Parquet file with cells as text; lists are joined, nulls are empty."""
    try:
        frame = pl.read_parquet(path)
        for key, column in wanted.items():
            find_column(column, key, frame.columns, name)
        lists = {column for column, kind in frame.schema.items() if isinstance(kind, pl.List)}
        frame = frame.with_columns(
            pl.col(name).cast(pl.List(pl.String)).list.join(by or PARTED, ignore_nulls=True)
            for name, by in items.attributes.items()
            if name in lists
        )
        frame = frame.select(pl.col(sorted(set(wanted.values()))).cast(pl.String).fill_null(""))
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).partition("\n")[0]
        raise UnreadableInput(
            f"{name} is truncated, or no Parquet file with columns of numbers, texts, times or lists ({reason}): "
            "copy it again, or write it without nested columns"
        ) from None
    for line, cells in enumerate(frame.iter_rows(named=True), start=1):
        yield CatalogLine(line, cells, "\t".join(cells.values()))


def _json_rows(path: Path, name: str, items: Items, wanted: dict[str, str], scratch: Path) -> Iterator[CatalogLine]:
    """Lines of JSON with cells as text; lists are joined as those of Parquet files."""
    plain, reading = prepare(path, name, items, scratch / "items.plain")
    json_lines.check_columns(plain, name, reading, wanted)
    for line, raw, found in json_lines.objects(plain, reading):
        text = shown(raw, reading.encoding)
        if isinstance(found, Reason):
            yield CatalogLine(line, found, text)
            continue
        try:
            cells = {column: _json_cell(found, column, items.attributes) for column in wanted.values()}
            yield CatalogLine(line, cells, text)
        except Rejected as rejected:
            yield CatalogLine(line, rejected.reason, text)


def _json_cell(found: dict[str, object], column: str, separators: dict[str, str]) -> str:
    value = found.get(column)
    if isinstance(value, list) and column in separators:
        return (separators[column] or PARTED).join(json_lines.cell({column: each}, column) for each in value)
    return json_lines.cell(found, column)


_ROWS = {Kind.TEXT: _text_rows, Kind.PARQUET: _parquet_rows, Kind.JSON_LINES: _json_rows}


def _attributes(values: dict[str, str], items: Items) -> str | None:
    """JSON such as `{"genres": ["Drama", "War"]}`; a column without a separator has one value."""
    lists = {
        name: [part.strip() for part in values[name].split(by or PARTED) if part.strip()]
        for name, by in items.attributes.items()
    }
    return json.dumps(lists, ensure_ascii=False) if lists else None
