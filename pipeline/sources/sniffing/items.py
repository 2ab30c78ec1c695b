"""Finds the item catalog next to an interaction file: the file that lists each of its items once, with titles."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from pipeline.core.errors import UnreadableInput
from pipeline.sources import catalog_ids, dialect
from pipeline.sources.attributes import with_plain_numbers
from pipeline.sources.column_types import EMPTY
from pipeline.sources.json_lines import any_cell, parse_object
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.sniffing import availability
from pipeline.sources.sniffing.cells import filled, folded, mostly, plain_name
from pipeline.sources.sniffing.column_roles import fits, is_numeric
from pipeline.sources.sniffing.layouts import split
from pipeline.sources.sniffing.number_spellings import spelling_of
from pipeline.sources.sniffing.preview import FIRST, Peek, as_texts, first_text, peek
from pipeline.sources.sniffing.times import unit_of

SUFFIXES = {".csv", ".tsv", ".dat", ".txt", ".item", ".items", ".parquet", ".json", ".jsonl", ".gz", ".zst"}
LOOKED_AT = 50
"""Maximum number of files that are examined, those named after items first."""
ENOUGH, ONCE = 0.5, 0.95
"""Minimum share of the interactions' items that a catalog lists, and of its lines that have a distinct id."""
_TITLES = ("title", "name", "label")
_NAMED_TITLES = (
    "bezeichnung", "titel", "designation", "libelle", "titre", "nom", "titulo", "nombre", "titolo", "nome", "naam",
    "omschrijving", "denominazione", "descripcion", "descricao", "descrizione",
)  # fmt: skip
_CODES = re.compile(r"[A-Za-z]{0,3}[0-9]+(?:[|;,/ ]+[A-Za-z]{0,3}[0-9]+)*").fullmatch
_SEVERAL = re.compile(r"[0-9][|;,/ ]+[A-Za-z]{0,3}[0-9]").search
_MANY_VALUED = (
    "genre",
    "genres",
    "attribute",
    "attributes",
    "tag",
    "tags",
    "category",
    "categories",
    "keyword",
    "keywords",
)


@dataclass(frozen=True)
class Catalog:
    """A catalog file, and the indices of its id and title columns."""

    file: Path
    seen: Peek
    id: int
    title: int | None
    share: float
    """Share of the interactions' items that it lists."""

    def settings(self) -> dict[str, Any]:
        """Keys of config.dataset.Items, except `files`."""
        reading, names = self.seen.reading, self.seen.names
        if "column_names" in reading:
            own = {self.id: "item"} | ({} if self.title is None else {self.title: "title"})
            names = [own.get(at, f"column_{at + 1}") for at in range(len(names))]
            reading = {**reading, "column_names": names}
        many = {names[at]: by for at in range(len(names)) if (by := self._separator(at))}
        titled = {"id": names[self.id]} | ({} if self.title is None else {"title": names[self.title]})
        return {**reading, **titled, **({"attributes": many} if many else {}), **self._marks()}

    def _marks(self) -> dict[str, Any]:
        """Decimal mark and separator of thousands, if a column of numbers has unusual ones."""
        columns = (self.seen.column(at) for at in range(len(self.seen.names)) if at not in (self.id, self.title))
        spelled = (spelling_of(cells) for cells in columns if filled(cells) and not unit_of(cells))
        marks = [{k: v for k, v in each.settings.items() if k in ("decimal", "thousands")} for each in spelled if each]
        return max(marks, key=len, default={})

    def rule(self) -> availability.Rule | None:
        """The rule that leaves out items that can't be had, if the catalog has a column that says so."""
        has_names = self.seen.reading.get("header", True)
        marks = NumberFormat(**self._marks())

        def column(at: int) -> list[str]:
            return with_plain_numbers(pl.Series(self.seen.column(at), dtype=pl.String), marks).to_list()

        return availability.rule_of(self.seen.names, column, self._always_filled()) if has_names else None

    def _always_filled(self) -> str:
        """A column that each line fills, as conditions name it; empty without one. Columns with several values per
        cell, which are lists in conditions, are none."""
        others = [at for at in range(len(self.seen.names)) if at != self.id and not self._separator(at)]
        fine = [at for at in others if all(cell.strip() not in EMPTY for cell in self.seen.column(at))]
        names = ["title" if at == self.title else self.seen.names[at] for at in fine]
        return "title" if "title" in names else next(iter(names), "")

    def _separator(self, at: int) -> str | None:
        """The separator of a column with several values per cell, known by its name or, without names, by its bars."""
        has_header = self.seen.reading.get("header", True)
        if at in (self.id, self.title) or (has_header and self.seen.names[at].lower() not in _MANY_VALUED):
            return None
        cells = self.seen.column(at)
        return next(
            (by for by in "|;,"[: 3 if has_header else 1] if sum(by in c for c in cells) > 0.2 * len(cells)), None
        )


@dataclass(frozen=True)
class Found:
    """The catalog next to an interaction file, if there is one, and what a person should know about other files."""

    catalog: Catalog | None
    notes: list[str]


def find_catalog(source: Path, item: str, ids: set[str]) -> Found:
    """The catalog of the items `ids`, from the column `item` of `source`.

    Without one, files that look like one but spell the ids differently are named.
    """
    files = [file for file in source.parent.iterdir() if file.suffix in SUFFIXES and file != source and file.is_file()]
    files.sort(key=lambda file: (not _named_after_items(file.name), file.name))
    notes: list[str] = []
    found = [_as_catalog(file, item, ids, notes) for file in files[:LOOKED_AT]]
    best = max((catalog for catalog in found if catalog), key=lambda catalog: catalog.share, default=None)
    if best:
        notes = [f"{best.file.name}: {note}" for note in best.seen.notes]
    return Found(best, notes)


def column_of_items(source: Path, table: Peek, among: Collection[int]) -> int | None:
    """The column of `among` whose values a catalog next to the file lists, of several the one it lists most of.

    None if no file does that, or if only one named after users does.
    """
    best, most = None, 0.0
    for at in among:
        ids = set(filled(table.column(at)))
        if ids and not fits(table.names[at], "user"):
            found = find_catalog(source, table.names[at], ids).catalog
            if found and found.share > most and _named_after_items(found.file.name):
                best, most = at, found.share
    return best


def _as_catalog(file: Path, item: str, ids: set[str], notes: list[str]) -> Catalog | None:
    """The file as a catalog, or None; a note is added if only the spelling of its ids is in the way."""
    try:
        seen = peek(file, known={item, "id", *_TITLES})
        if (
            not seen.rows
            or len(set(seen.names)) < len(seen.names)
            or not (_named_after_items(file.name) or item in seen.names)
        ):
            return None
        title = _title_of(seen)
        for at in range(len(seen.names)):
            if title is None or at == title or not _is_distinct(seen.column(at), ONCE):
                continue
            values, is_whole = _values(file, seen, at)
            share = len(ids & set(values)) / len(ids)
            if share > (ENOUGH if is_whole else 0) and _is_distinct(values, ONCE):
                return Catalog(file, seen, at, None if _is_codes(seen.column(title)) else title, share)
            compared = catalog_ids.compare(values, ids)
            if is_whole and compared.difference and _is_distinct(values, ONCE):
                notes.append(
                    f"{file.name} looks like the item catalog, but {compared.matched:,} of {compared.catalog_ids:,} "
                    f"catalog ids occur in the first rows of the interactions: column {seen.names[at]!r} differs from "
                    f"{item!r} in {compared.difference}. Spell the ids alike in both files, then run init again"
                )
                break
    except (UnreadableInput, OSError):
        pass  # an unreadable file is not a catalog
    return None


def _named_after_items(name: str) -> bool:
    """Whether a file's name has a word for items: `movies.csv`, `u.item`, `BX-Books.csv`."""
    return any(
        fits(word.removesuffix("s"), "item") or fits(word, "item") for word in re.findall("[A-Za-z]+", folded(name))
    )


def _title_of(seen: Peek) -> int | None:
    """The first column named title, name or label; else a column with a distinct text in most lines."""
    texts = [
        at
        for at in range(len(seen.names))
        if not is_numeric(cells := seen.column(at))
        and _is_distinct(cells, 0.5)
        and "://" not in cells[0]
        and spelling_of(cells) is None
    ]
    texts = [at for at in texts if not _is_codes(seen.column(at))] or texts
    called = [at for at in texts if seen.names[at].lower().endswith(_TITLES)]
    called = called or [at for at in texts if plain_name(seen.names[at]).endswith(_NAMED_TITLES)]
    return next(iter(called or texts[-1:] if seen.reading.get("header", True) else texts), None)


def _values(file: Path, seen: Peek, at: int) -> tuple[list[str], bool]:
    """The values in the first FIRST bytes of a column, and whether that is the whole column."""
    name = seen.names[at]
    if seen.has_layout:
        text = first_text(file)
        reading = seen.reading
        marks = dialect.Marks(reading["delimiter"], reading["quote"], reading.get("escape", ""))
        lines = text.lines[reading.get("skip_lines", 0) :]
        comment = reading.get("comment", "")
        lines = [line for line in lines if not comment or (line.strip() and not line.startswith(comment))]
        records, _ = split(lines, marks, len(lines))
        return [row[at] for row in records if len(row) == len(seen.names)][reading["header"] :], text.is_whole
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as read:
            batch = next(read.iter_batches(FIRST // 2**5, columns=[name]))
            return as_texts(batch.column(0)), batch.num_rows == read.metadata.num_rows
    text = first_text(file)
    found = (parse_object(line) for line in text.lines)
    return [any_cell(each, name) for each in found if each], text.is_whole


def _is_codes(cells: list[str]) -> bool:
    """Whether cells are lists of codes, such as `1|5|77` or `A1, B12`, or have no letter: they are no titles."""
    lists = mostly(_CODES(cell.strip()) is not None for cell in filled(cells)) and any(map(_SEVERAL, cells))
    return lists or not any(map(str.isalpha, "".join(cells)))


def _is_distinct(cells: Iterable[str], share: float) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and len(set(filled)) >= share * len(filled)
