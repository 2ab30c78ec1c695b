"""Judges whether the first record of a text has the names of its columns."""

import re

from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.cells import ENOUGH, filled, is_numeric, number
from pipeline.sources.sniffing.column_roles import NAMES, fits
from pipeline.sources.sniffing.number_spellings import spelling_of, unread

_ROWS = 200
"""Rows below the first that show the form of their columns."""
_FEWEST = 3
"""Cells that show the form of an id."""


def is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first record is a header: by known names, or since its cells do not have the form of their columns.

    A cell with the form of its column (a number, a time, an id such as `K-12`) makes the record a row.
    """
    if not first or any(number(name) is not None for name in first):
        return False
    columns = [list(column) for column in zip(*rest[:_ROWS], strict=False)]
    pairs = [(name, cells) for name, column in zip(first, columns, strict=False) if (cells := filled(column))]
    values = [found for name, cells in pairs if (found := _is_value(name, cells)) is not None]
    if any(values):
        return False
    known = sum(any(fits(name, role) for role in NAMES) for name in first)
    if known >= 2 or any(is_numeric([row[at] for row in rest]) for at in range(len(columns))):
        return True
    ids = [found for name, cells in pairs if (found := _is_id(name, cells)) is not None]
    return not any(ids) and bool(values or ids)


def _is_value(name: str, cells: list[str]) -> bool | None:
    """Whether a cell is a time or a number as those of its column; None if they are neither, or the cell is empty."""
    if not name:
        return None
    if unit := times.unit_of(cells):
        return times.unread([name], unit) is None
    spelling = spelling_of(cells)
    return None if spelling is None else not unread([name], spelling)


def _is_id(name: str, cells: list[str]) -> bool | None:
    """Whether a cell has the shape of the ids of its column; None if these have no shape, or the cell is empty."""
    if not name or len(set(cells)) < _FEWEST:
        return None
    shapes, lengths = {_shape(cell) for cell in cells}, {len(cell) for cell in cells}
    if sum(_has_digit(cell) for cell in cells) < len(cells):
        return None
    if len(shapes) == 1:
        return _shape(name) in shapes
    if len(lengths) == 1 or _common_share(cells) >= ENOUGH:
        return _has_digit(name)
    return None


def _common_share(cells: list[str]) -> float:
    """Share of the cells with the most frequent shape."""
    shapes = [_shape(cell) for cell in cells]
    return max(map(shapes.count, set(shapes))) / len(shapes)


def _shape(text: str) -> str:
    """A text with all runs of digits as one 9: the ids `K-7` and `K-12` have one shape."""
    return re.sub(r"[0-9]+", "9", text)


def _has_digit(text: str) -> bool:
    return any(letter.isdigit() for letter in text)
