"""Finds the item catalog next to an interaction file: the file that lists each of its items once, with titles."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.core.errors import UnreadableInput
from pipeline.sources import catalog_ids, dialect
from pipeline.sources.json_lines import any_cell, parse_object
from pipeline.sources.sniffing import availability
from pipeline.sources.sniffing.cells import filled, folded, plain_name
from pipeline.sources.sniffing.column_roles import fits, is_numeric
from pipeline.sources.sniffing.layouts import split
from pipeline.sources.sniffing.number_spellings import spelling_of
from pipeline.sources.sniffing.preview import FIRST, Peek, as_texts, first_text, peek

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
_MANY_VALUED = ("genre", "genres", "tag", "tags", "category", "categories", "keyword", "keywords")


@dataclass(frozen=True)
class Catalog:
    """A catalog file, and the indices of its id and title columns."""

    file: Path
    seen: Peek
    id: int
    title: int
    share: float
    """Share of the interactions' items that it lists."""

    def settings(self) -> dict[str, Any]:
        """Keys of config.dataset.Items, except `files`."""
        reading, names = self.seen.reading, self.seen.names
        if "column_names" in reading:
            own = {self.id: "item", self.title: "title"}
            names = [own.get(at, f"column_{at + 1}") for at in range(len(names))]
            reading = {**reading, "column_names": names}
        many = {names[at]: by for at in range(len(names)) if (by := self._separator(at))}
        return {**reading, "id": names[self.id], "title": names[self.title], **({"attributes": many} if many else {})}

    def exclude_where(self) -> str | None:
        """The condition that finds items that can't be had, if the catalog has a column that says so."""
        has_names = self.seen.reading.get("header", True)
        return availability.exclude_where(self.seen.names, self.seen.column) if has_names else None

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
                return Catalog(file, seen, at, title, share)
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


def _is_distinct(cells: Iterable[str], share: float) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and len(set(filled)) >= share * len(filled)
