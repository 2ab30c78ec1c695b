"""How a column of numbers is written, as settings of `[columns]`."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.dataset import Columns
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.number_looks import looks_like
from pipeline.sources.sniffing.cells import ENOUGH, filled
from pipeline.sources.sniffing.rating_words import polar_words, star_texts

_MARKS: tuple[dict[str, str], ...] = (
    {}, {"decimal": ","}, {"thousands": ","}, {"thousands": ".", "decimal": ","}, {"thousands": " "},
    {"thousands": " ", "decimal": ","}, {"thousands": "'"}, {"thousands": "'", "decimal": ","}, {"thousands": "_"},
)  # fmt: skip
"""Settings to try, the usual first: of those that read most cells, the first is proposed."""
_THREE_DIGITS = re.compile(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}").fullmatch
_MOST_WORDS = 40
_MANY = 40
"""Of so many thousands, some end with a zero: all others have a probability of 1.5 %."""


@dataclass(frozen=True)
class Spelling:
    """The settings that read a column of numbers, and what a person should check."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Keys of config.dataset.Columns; empty for numbers as in most files."""
    notes: list[str] = field(default_factory=list)
    is_truth: bool = False
    """The texts answer a question, such as yes and no: a rating only if the column's name says so."""

    @property
    def format(self) -> NumberFormat:
        """The settings as the readers use them."""
        return NumberFormat.of_columns(Columns.model_validate(self.settings))

    def numbers(self, column: list[str]) -> list[float]:
        """The numbers of the cells that are read."""
        read, found = self.format.reader(), list[float]()
        for cell in column:
            try:
                found.append(read(cell))
            except ValueError:
                continue
        return found


def spelling_of(column: list[str], is_count: bool = False) -> Spelling | None:
    """How the numbers of a column are written; None if fewer than 90 % of its filled cells are numbers.

    `is_count`: by its name the column has counts, so `1,234` and `1.234` are thousands.
    """
    cells = filled(column)
    if len(cells) < 0.5 * len(column) or not cells:
        return None
    marks, best = _MARKS[0], 0.0
    for each in _MARKS:
        if (share := _share(cells, each)) > best:
            marks, best = each, share
        if best == 1:
            break
    if best >= ENOUGH:
        return _settled(cells, marks, is_count)
    return _as_fractions(cells) or _as_words(cells)


def unread(column: list[str], spelling: Spelling) -> str:
    """A sentence on the cells that the spelling does not read; empty if it reads all."""
    read, rest = spelling.format.reader(), list[str]()
    for cell in column:
        try:
            read(cell)
        except ValueError:
            rest.append(cell)
    if not rest:
        return ""
    example, n = Counter(rest).most_common(1)[0]
    looks = looks_like(example)
    shown = "empty" if looks == "empty" else f"no such numbers, most often {example[:40]!r} ({n:,})"
    return f"{len(rest):,} of {len(column):,} cells are {shown}; the night rejects these rows"


def _share(cells: list[str], settings: dict[str, Any]) -> float:
    spelling = Spelling(settings)
    return len(spelling.numbers(cells)) / len(cells)


def _settled(cells: list[str], marks: dict[str, str], is_count: bool) -> Spelling:
    """The marks, unless `1,234` or `1.234` could be a thousand or a fraction: then a note says which was chosen."""
    mark = marks.get("decimal", ".")
    marked = [cell.strip() for cell in cells if mark in cell]
    if "thousands" in marks or not marked or not all(map(_THREE_DIGITS, marked)):
        return Spelling(dict(marks))
    wholes = [cell.strip() for cell in cells if mark not in cell]
    if any(len(cell.lstrip("+-")) > 3 for cell in wholes) or (mark == "." and not is_count and not wholes):
        return Spelling(dict(marks))  # 1234 next to 1,234: separators are not used; 1.250, 2.000, 3.125: three decimals
    grouped = {"thousands": ","} if mark == "," else {"thousands": ".", "decimal": ","}
    if wholes and any(cell.endswith("0") for cell in marked):
        return Spelling(dict(grouped))  # 1.250 next to 5: a fraction would be written 1.25, or 5 as 5.000
    if not is_count and len(marked) >= _MANY:
        return Spelling(dict(marks))  # 1.234 and never 1.230: fractions whose last zero is left out
    is_grouped = is_count or (bool(wholes) and (mark == "," or len(wholes) >= len(marked)))
    chosen, other = (grouped, marks) if is_grouped else (marks, grouped)
    example = marked[0]
    values = [Spelling(dict(each)).numbers([example])[0] for each in (chosen, other)]
    settings = ", ".join(f'{key} = "{value}"' for key, value in {"decimal": ".", "thousands": "", **other}.items())
    note = f"{example!r} is read as {values[0]:g}; if it is {values[1]:g}, set {settings} in [columns]"
    return Spelling(dict(chosen), [note])


def _as_fractions(cells: list[str]) -> Spelling | None:
    for decimal in (".", ","):
        form = NumberFormat(decimal, of=1.0)
        found = [match for cell in cells if (match := re.fullmatch(form.fraction, cell))]
        if len(found) < ENOUGH * len(cells):
            continue
        wholes = Counter(float(form.plain(match[2])) if match[2] else 100.0 for match in found)
        wholes.pop(0.0, None)
        if not wholes:
            return None
        top, notes = wholes.most_common(1)[0][0], list[str]()
        if len(wholes) > 1:
            others = ", ".join(f"{whole:g}" for whole, _ in wholes.most_common()[1:4])
            notes.append(f"fractions of {top:g} and of {others}: all are read on a scale up to {top:g}")
        return Spelling({**({"decimal": ","} if decimal == "," else {}), "rating_of": top}, notes)
    return None


def _as_words(cells: list[str]) -> Spelling | None:
    """Votes, yes and no, and stars. Rare other cells are left to the night, which rejects them."""
    counts = Counter(cell.strip() for cell in cells)
    if len(counts) > _MOST_WORDS:
        return None
    common = [text for text, n in counts.items() if n >= 0.02 * len(cells)] or list(counts)
    if sum(counts[text] for text in common) < ENOUGH * len(cells):
        return None
    if values := polar_words(common):
        return Spelling({"rating_values": values}, is_truth=0.0 in values.values() and -1.0 not in values.values())
    values = star_texts(counts) or star_texts(common)
    return Spelling({"rating_values": values}) if values else None
