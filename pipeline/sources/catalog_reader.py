"""Reads the item catalog line by line. A broken line is rejected with its reason; it does not stop the night."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Items
from pipeline.core.errors import UnreadableInput
from pipeline.schemas import tables
from pipeline.schemas.reasons import NO_ROWS, Reason
from pipeline.sources import json_lines, parquet_cells
from pipeline.sources.column_names import columns_of
from pipeline.sources.dialect import find_column, read_layout
from pipeline.sources.file_kinds import Kind, kind_of
from pipeline.sources.line_reader import records, shown
from pipeline.sources.parquet_cells import PARTED
from pipeline.sources.parsing import Rejected, check_id
from pipeline.sources.plain_text import prepare

OTHER = "column "
"""Prefix of a catalog's other columns, which are attributes with one value, in the result of `read_items`."""
MISSING = ("NULL", "\\N")
"""Cells of text files that databases export for a missing value: they are empty. Any other word is a text, and so are
these in Parquet and JSON, which have a null of their own."""


@dataclass(frozen=True)
class CatalogLine:
    """One line of a catalog: its cells by column, or the reason it is rejected."""

    line: int
    """Physical line, 1-based; row of a Parquet file."""
    cells: dict[str, str] | Reason
    raw: str
    """The line as `rejected_rows` shows it."""
    has_repeated_key: bool = False
    """Whether a JSON object has a key twice."""


def read_items(
    folder: Path, names: list[str], items: Items, scratch: Path, section: str = "items"
) -> tuple[pl.DataFrame, dict[str, int], pl.DataFrame]:
    """The catalog; counts of items, repeated ids (the last line wins), skipped lines, cells that are a word of MISSING
    and, where there are some, lines with a key twice; the skipped lines as in `rejected_rows`.

    Its other columns follow under their names with the prefix OTHER, as text. `section` of the settings is for
    messages; `users` reads a file of users in the same way.
    """
    found: dict[str, tuple[str | None, ...]] = {}
    others = other_columns(folder, names, items, section)
    is_empty = Reason.EMPTY_USER if section == "users" else Reason.EMPTY_ITEM
    skipped: list[tuple] = []
    repeated = missing = n_repeated = 0
    for name in names:
        kind = kind_of(folder / name, name)
        wanted = named_columns(items, section)
        if others:
            there = columns_of(folder / name, name, items, wanted)
            wanted |= {f"{section}.columns.{column}": column for column in others if column in there}
        for row in _ROWS[kind](folder / name, name, items, wanted, scratch):
            if isinstance(row.cells, Reason):
                skipped.append(("", name, row.line, None, str(row.cells), row.raw))
                continue
            values = row.cells
            if words := [column for column, cell in values.items() if kind == Kind.TEXT and cell.strip() in MISSING]:
                values |= dict.fromkeys(words, "")
                missing += len(words) - (items.id in words)
            n_repeated += row.has_repeated_key
            item = values[items.id]
            try:
                check_id(item, is_empty, items.id)
            except Rejected as rejected:
                skipped.append(("", name, row.line, rejected.column, str(rejected.reason), row.raw))
                continue
            repeated += item in found
            title = (values[items.title] or None) if items.title else None
            found[item] = (title, _attributes(values, items), *(values.get(column) or None for column in others))
    schema = {**tables.CATALOG.schema, **{OTHER + column: pl.String for column in others}}
    frame = pl.DataFrame([(i, *v) for i, v in found.items()], schema=schema, orient="row")
    rejects = pl.DataFrame(skipped, schema=tables.REJECTED_ROWS.schema, orient="row")
    counts = {"items": len(found), "repeated": repeated, "skipped": len(skipped)}
    counts |= {name: n for name, n in (("missing", missing), ("key_twice", n_repeated)) if n}
    catalog = tables.CATALOG.check(frame).hstack(frame.select(pl.col(f"^{OTHER}.*$")))
    return catalog, counts, rejects


def named_columns(items: Items, section: str = "items") -> dict[str, str]:
    """Keys of the settings that name a column, to the column."""
    wanted = {f"{section}.id": items.id, **{f"{section}.attributes.{a}": a for a in items.attributes}}
    return wanted | ({f"{section}.title": items.title} if items.title else {})


def other_columns(folder: Path, names: list[str], items: Items, section: str = "items") -> list[str]:
    """Columns of all files that no other key names and that are kept; none where `columns` is empty.

    Left out are columns without a name or with one that occurs twice, and lists, structures and binary values of
    Parquet, unless `attributes` names them. Raises UnreadableInput if no file has a column of `columns`.
    """
    if items.columns == []:
        return []
    wanted, found, nested = named_columns(items, section), dict[str, None](), dict[str, str]()
    for name in names:
        there = columns_of(folder / name, name, items, wanted)
        no_text = parquet_cells.left_out(folder / name) if kind_of(folder / name, name) == Kind.PARQUET else {}
        nested |= no_text
        once = [column for column in there if column and there.count(column) == 1 and column not in no_text]
        found |= dict.fromkeys(column for column in once if column not in wanted.values())
    for column in items.columns or []:
        if column in nested and column not in found and column not in wanted.values():
            raise UnreadableInput(
                f"{names[0]}: column {column!r} ({section}.columns) has the type {nested[column]}, which is not read: "
                + parquet_cells.advice(section, column, nested[column])
            )
        if names and column not in found and column not in wanted.values():
            find_column(column, f"{section}.columns", list(found), names[0])
    return [column for column in found if items.columns is None or column in items.columns]


def notes_of(folder: Path, names: list[str], items: Items, section: str = "items") -> list[str]:
    """What is left out of Parquet files: one sentence for each column that is no attribute because of its type, and
    for each with values that are no text. Raises UnreadableInput as `read_items`.
    """
    notes, wanted = [], named_columns(items, section)
    others = other_columns(folder, names, items, section)
    for name in (each for each in names if kind_of(folder / each, each) == Kind.PARQUET):
        if items.columns is None:
            kinds = {c: kind for c, kind in parquet_cells.left_out(folder / name).items() if c not in wanted.values()}
            notes += [
                f"{name}: column {column!r} is left out, as its type is {kind}: "
                + parquet_cells.advice(section, column, kind)
                for column, kind in kinds.items()
            ]
        there = columns_of(folder / name, name, items, wanted)
        read = wanted | {f"{section}.columns.{column}": column for column in others if column in there}
        notes += parquet_cells.read(folder / name, name, read, items.attributes)[1]
    return notes


def _text_rows(path: Path, name: str, items: Items, wanted: dict[str, str], scratch: Path) -> Iterator[CatalogLine]:
    plain, reading = prepare(path, name, items, scratch / "items.plain")
    if layout := read_layout(plain, name, reading, wanted):
        for line, raw, fields in records(plain, layout):
            if fields in NO_ROWS:
                continue
            text = shown(raw, layout.encoding)
            if isinstance(fields, Reason):
                yield CatalogLine(line, fields, text)
            else:
                cells = {column: fields[layout.positions[key]] for key, column in wanted.items()}
                yield CatalogLine(line, cells, text)


def _parquet_rows(path: Path, name: str, items: Items, wanted: dict[str, str], scratch: Path) -> Iterator[CatalogLine]:
    """Rows of a Parquet file with cells as text; lists are joined, nulls are empty."""
    frame, _, broken = parquet_cells.read(path, name, wanted, items.attributes)
    for line, cells in enumerate(frame.iter_rows(named=True), start=1):
        raw = "\t".join(cells.values())
        yield CatalogLine(line, Reason.BAD_ENCODING if line in broken else cells, raw)


def _json_rows(path: Path, name: str, items: Items, wanted: dict[str, str], scratch: Path) -> Iterator[CatalogLine]:
    """Lines of JSON with cells as text; lists are joined as those of Parquet files."""
    plain, reading = prepare(path, name, items, scratch / "items.plain")
    json_lines.check_columns(plain, name, reading, wanted)
    has_repeated_key = json_lines.finder_of_repeated_keys(wanted.values(), reading.encoding)
    for line, raw, found in json_lines.objects(plain, reading):
        text = shown(raw, reading.encoding)
        if isinstance(found, Reason):
            yield CatalogLine(line, found, text)
            continue
        try:
            cells = {column: _json_cell(found, column, items) for column in wanted.values()}
            yield CatalogLine(line, cells, text, has_repeated_key(raw))
        except Rejected as rejected:
            yield CatalogLine(line, rejected.reason, text)


def _json_cell(found: dict[str, object], column: str, items: Items) -> str:
    value = found.get(column)
    if column in items.attributes and isinstance(value, list):
        return (items.attributes[column] or PARTED).join(json_lines.cell({column: each}, column) for each in value)
    is_needed = column in (items.id, items.title)
    return json_lines.cell(found, column) if is_needed else json_lines.any_cell(found, column)


_ROWS = {Kind.TEXT: _text_rows, Kind.PARQUET: _parquet_rows, Kind.JSON_LINES: _json_rows}


def _attributes(values: dict[str, str], items: Items) -> str | None:
    """JSON such as `{"genres": ["Drama", "War"]}`; a column without a separator has one value."""
    lists = {
        name: [part.strip() for part in values[name].split(by or PARTED) if part.strip()]
        for name, by in items.attributes.items()
    }
    return json.dumps(lists, ensure_ascii=False) if lists else None
