"""Recognizes columns of times, and the unit or format that reads them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pipeline.sources import parsing
from pipeline.sources.sniffing.cells import ENOUGH, filled, is_numeric, mostly, plain_name, words_of

NAMES = "timestamp time datetime date ts createdat created ratedat unixreviewtime when updatedat"
"""Names of columns with times."""
_TIME_WORDS = frozenset({"time", "timestamp", "date", "datetime", "ts", "when", "at"})
_CLOCKS = ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%Y/%m/%d %H:%M", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    *(f"{day} {clock}" for day in ("%d/%m/%Y", "%m/%d/%Y") for clock in _CLOCKS), "%d/%m/%Y", "%m/%d/%Y",
    *(f"{day} {clock}" for day in ("%d-%m-%Y", "%m-%d-%Y") for clock in _CLOCKS), "%d-%m-%Y", "%m-%d-%Y",
    "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC", "%Y-%m-%d %H:%M UTC",
    "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S.%f %z", "%Y-%m-%d %H:%M:%S,%f", "%Y-%m-%dT%H:%M:%S,%f",
    "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p", "%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ",
    "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S GMT %Y",
    "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT",
    "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y",
    *(f"{day} {clock}" for day in ("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y") for clock in _CLOCKS),
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y",
)  # fmt: skip
_DAY_AND_MONTH = (
    ("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y"), ("%d/%m/%y", "%m/%d/%y"), ("%d-%m-%y", "%m-%d-%y"),
)  # fmt: skip
EPOCHS = {"s": (9, 10), "ms": (12, 13), "us": (15, 16), "ns": (18, 19)}
"""Unit to the number of digits of its counts since 1970, for times from 1973 on."""
_LIKE_A_TIME = re.compile(
    r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}\b.*|.*\b[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?\b.*|"
    r"(.*[^a-z])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[^a-z].*[0-9]{4}.*|"
    r".*[0-9]{4}.*[^a-z](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([^a-z].*)?",
    re.IGNORECASE,
).fullmatch
_COMMA_COUNT = re.compile(r"[0-9]{9,19},[0-9]*").fullmatch
_DIGIT = re.compile(r"\d").search
_SHORT = re.compile(r"[+-]?[0-9]{0,5}(\.[0-9]*)?").fullmatch
"""A number of at most five digits, which no unit reads: a wide table has thousands of columns of them."""
_SAMPLE = 20
"""Cells that decide whether a unit is worth trying on all of a column."""


@dataclass(frozen=True)
class Unread:
    """Times of a column that its unit does not read."""

    rows: int
    example: str
    other: str | None
    """A unit that reads most of them; None if no known one does."""


def unit_of(column: list[str]) -> str | None:
    """The `timestamp_unit` that reads the most times of a column, at least 90 % of those that are filled.

    None if no unit does, or if most cells are empty.
    """
    cells = filled(column)
    if len(cells) < 0.5 * len(column):
        return None
    unit, share = _best_unit(cells)
    return unit if share >= ENOUGH else None


def units_of(column: list[str]) -> list[str]:
    """Up to three units that together read 90 % of the times of a column, as of two exports that were put together."""
    cells, units = filled(column), list[str]()
    rest = cells
    while rest and len(units) < 3:
        unit, share = _best_unit(rest)
        if unit is None or share < 0.02:
            break
        units.append(unit)
        is_read = _reader(unit)
        rest = [cell for cell in rest if not is_read(cell)]
    return units if cells and len(rest) <= (1 - ENOUGH) * len(cells) else []


def unread(column: list[str], unit: str) -> Unread | None:
    """The times that `unit` does not read; None if it reads all. Empty cells are not counted."""
    is_read = _reader(unit)
    rest = [cell for cell in filled(column) if not is_read(_point(cell))]
    if not rest:
        return None
    other, share = _best_unit(rest)
    return Unread(len(rest), rest[0], other if share >= 0.5 else None)


def has_decimal_commas(column: list[str]) -> bool:
    """Whether times are counts such as `1710002230,0`."""
    return any(_COMMA_COUNT(cell) for cell in column)


def ambiguous_with(column: list[str], unit: str) -> str | None:
    """The format with day and month exchanged, if it reads the times of a column as well as `unit`."""
    for day_first, month_first in _DAY_AND_MONTH:
        if unit.startswith(day_first):
            other = unit.replace(day_first, month_first)
            return other if all(map(_reader(other), filter(_reader(unit), filled(column)))) else None
    return None


def is_time_name(name: str) -> bool:
    """Whether a column's name has a word for times: `event_time`, `Date`, `created_at`."""
    words = words_of(name)
    return plain_name(name) in NAMES.split() or bool(words and {words[-1], words[0]} & _TIME_WORDS)


def looks_like_time(name: str, column: list[str]) -> bool:
    """Whether a column without a readable unit holds times by its name or by its values."""
    cells = filled(column)
    if not cells or is_numeric(cells):
        return bool(cells) and plain_name(name) in NAMES.split()
    is_named = plain_name(name) in NAMES.split() or re.search(r"(time|date|timestamp|_at)$", name.lower()) is not None
    return is_named or mostly(_LIKE_A_TIME(cell) is not None for cell in cells)


def _best_unit(cells: list[str]) -> tuple[str | None, float]:
    """The unit that reads the largest share of the cells, the first of equals, and that share."""
    best, most = None, 0.0
    points = [_point(cell) for cell in cells]
    sample = [point for point in points[:: max(1, len(points) // _SAMPLE)] if _DIGIT(point) and not _SHORT(point)]
    for unit in (*EPOCHS, "iso", *_FORMATS):
        is_read = _reader(unit)
        if not any(map(is_read, sample)):
            continue
        share = sum(map(is_read, points)) / len(points)
        if share > most:
            best, most = unit, share
        if most == 1:
            break
    return best, most


def _point(cell: str) -> str:
    return cell.replace(",", ".") if _COMMA_COUNT(cell) else cell


def _in_exponents(text: str, digits: int) -> re.Match[str] | None:
    """A match for a count in exponent notation, such as `1.7e+09`, with at most `digits` digits."""
    found = re.fullmatch(r"[1-9](\.[0-9]*)?[eE]\+?0?([0-9]{1,2})", text)
    return found if found and int(found[2]) + 1 in (digits - 1, digits) else None


@cache
def _reader(unit: str) -> Callable[[str], bool]:
    """Whether a text is a time in this unit, between 1970 and 2100; a count has as many digits as one of today."""
    parse = parsing.clock(unit)
    fewest, most = EPOCHS.get(unit, (0, 0))
    is_count = re.compile(rf"[0-9]{{{fewest},{most}}}(\.[0-9]*)?").fullmatch
    marks = frozenset(re.sub(r"%[A-Za-z%]|[\w\s]", "", unit))  # every text of this format has them

    def is_time(text: str) -> bool:
        if (most and not (is_count(text) or _in_exponents(text, most))) or not marks.issubset(text):
            return False
        try:
            return 0 <= parse(text) < parsing.END_OF_TIME
        except (ValueError, OverflowError):
            return False

    return is_time
