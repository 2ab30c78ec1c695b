"""Assigns roles to the columns of an unknown table: by their names, then by their values, then by the usual order."""

import re
from collections.abc import Callable, Iterable

from pipeline.sources import parsing

NAMES = {
    "user": "user customer member visitor account profile reader listener viewer client person reviewer uid",
    "item": "item movie product artist track song book isbn anime asin article sku business game content show film "
    "title",
    "rating": "rating rate score stars star weight plays playcount count listencount preference value overall",
    "timestamp": "timestamp time datetime date ts createdat created ratedat unixreviewtime when updatedat",
}
"""Role to the words that name such a column."""
_CLOCKS = ("%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y",
    *(f"{day} {clock}" for day in ("%d/%m/%Y", "%m/%d/%Y") for clock in _CLOCKS), "%d/%m/%Y", "%m/%d/%Y",
    *(f"{day} {clock}" for day in ("%d-%m-%Y", "%m-%d-%Y") for clock in _CLOCKS), "%d-%m-%Y", "%m-%d-%Y",
    "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%d %H:%M:%S.%f UTC", "%Y-%m-%d %H:%M UTC",
    "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S.%f %z", "%Y-%m-%d %H:%M:%S,%f", "%Y-%m-%dT%H:%M:%S,%f",
    "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p", "%Y%m%d", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%S", "%Y%m%dT%H%M%SZ",
    "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S UTC %Y", "%a %b %d %H:%M:%S GMT %Y",
    "%a, %d %b %Y %H:%M:%S %z", "%a, %d %b %Y %H:%M:%S GMT",
    "%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y",
)  # fmt: skip
_DAY_AND_MONTH = ("%d/%m/%Y", "%m/%d/%Y"), ("%d-%m-%Y", "%m-%d-%Y")
_EPOCHS = {"s": (9, 10), "ms": (12, 13), "us": (15, 16), "ns": (18, 19)}
"""Unit to the number of digits of its counts since 1970, for times from 1973 on."""
_LIKE_A_TIME = re.compile(
    r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}\b.*|.*\b[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?\b.*|"
    r"(.*[^a-z])?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[^a-z].*[0-9]{4}.*|"
    r".*[0-9]{4}.*[^a-z](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([^a-z].*)?",
    re.IGNORECASE,
).fullmatch


def roles_of(names: list[str], rows: list[list[str]]) -> tuple[str, dict[str, int]]:
    """Unit of the timestamp, and role to column index; columns without a known name are judged by their values."""
    free = list(range(len(names)))
    columns = [[row[at] for row in rows] for at in free]
    roles: dict[str, int] = {}
    for role in NAMES:
        named = [at for at in free if fits(names[at], role)]
        if role == "timestamp":
            named = [at for at in named if unit_of(columns[at])]
        if role == "rating":
            named = [at for at in named if is_numeric(columns[at])]
        if named:
            roles[role] = min(named, key=lambda at: (not names[at].lower().endswith("id"), at))
            free.remove(roles[role])
    timed = [at for at in free if columns[at] and unit_of(columns[at])]
    if "timestamp" not in roles and timed and len(free) > 2 - len(roles.keys() & {"user", "item"}):
        roles["timestamp"] = timed[-1]
        free.remove(timed[-1])
    for role in ("user", "item"):
        if role not in roles and free:
            roles[role] = free.pop(0)
    numeric = [at for at in free if columns[at] and is_numeric(columns[at]) and not fits(names[at], "timestamp")]
    if "rating" not in roles and numeric and (not names[numeric[0]] or len(numeric) == 1):
        roles["rating"] = numeric[0]
    unit = unit_of(columns[roles["timestamp"]]) if "timestamp" in roles else None
    return unit or "s", {role: roles[role] for role in NAMES if role in roles}


def fits(name: str, role: str) -> bool:
    """Whether a column's name matches a role."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    words = NAMES[role].split()
    is_id = role in ("user", "item") and plain.endswith(("id", "sha1", "code"))
    return plain in words or (is_id and any(plain.startswith(word) for word in words))


def unit_of(column: list[str]) -> str | None:
    """The `timestamp_unit` that reads the times of a column; None if there is none."""
    for unit, (fewest, most) in _EPOCHS.items():
        count, is_time = re.compile(rf"[0-9]{{{fewest},{most}}}(\.[0-9]*)?").fullmatch, _reader(unit)
        if _mostly((count(v) or _in_exponents(v, most)) is not None and is_time(v) for v in column):
            return unit
    return next((unit for unit in ("iso", *_FORMATS) if _mostly(map(_reader(unit), column))), None)


def ambiguous_with(column: list[str], unit: str) -> str | None:
    """The format with day and month exchanged, if it reads the times of a column as well as `unit`."""
    for day_first, month_first in _DAY_AND_MONTH:
        if unit.startswith(day_first):
            other = unit.replace(day_first, month_first)
            return other if all(map(_reader(other), filter(_reader(unit), column))) else None
    return None


def looks_like_time(name: str, column: list[str]) -> bool:
    """Whether a column without a readable unit holds times by its name or by its values."""
    filled = [cell for cell in column if cell.strip()]
    if not filled or is_numeric(filled):
        return bool(filled) and fits(name, "timestamp")
    is_named = fits(name, "timestamp") or re.search(r"(time|date|timestamp|_at)$", name.lower()) is not None
    return is_named or _mostly(_LIKE_A_TIME(cell) is not None for cell in filled)


def _in_exponents(text: str, digits: int) -> re.Match[str] | None:
    """A match for a count in exponent notation, such as `1.7e+09`, with at most `digits` digits."""
    found = re.fullmatch(r"[1-9](\.[0-9]*)?[eE]\+?0?([0-9]{1,2})", text)
    return found if found and int(found[2]) + 1 in (digits - 1, digits) else None


def _reader(unit: str) -> Callable[[str], bool]:
    """Whether a text is a time in this unit, between 1970 and 2100."""
    parse = parsing.clock(unit)

    def is_time(text: str) -> bool:
        try:
            return 0 <= parse(text) < parsing.END_OF_TIME
        except (ValueError, OverflowError):
            return False

    return is_time


def _mostly(fits: Iterable[bool]) -> bool:
    """Whether 90 % of the cells fit; the night rejects the lines of the others."""
    results = list(fits)
    return sum(results) >= 0.9 * len(results)


def number(text: str) -> float | None:
    """The value of a plain number; None for other texts."""
    return float(text) if re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]*)?", text) else None


def is_numeric(column: list[str]) -> bool:
    """Whether 90 % of the values are plain numbers."""
    return _mostly(number(text) is not None for text in column)
