"""Assigns roles to the columns of an unknown table: by their names, then by their values, then by the usual order."""

import re
from collections.abc import Iterable

from pipeline.sources import parsing

NAMES = {
    "user": "user customer member visitor account profile reader listener viewer client person reviewer uid",
    "item": "item movie product artist track song book isbn anime asin article sku business game content show film "
    "title",
    "rating": "rating rate score stars star weight plays playcount count listencount preference value overall",
    "timestamp": "timestamp time datetime date ts createdat created ratedat unixreviewtime when updatedat",
}
"""Role to the words that name such a column."""
_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y",
    "%d/%m/%Y %H:%M", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%m/%d/%Y",
)  # fmt: skip


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
    numeric = [at for at in free if columns[at] and is_numeric(columns[at])]
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
    if _mostly(re.fullmatch(r"[0-9]{9,10}(\.0*)?", v) is not None for v in column):
        return "s"
    if _mostly(re.fullmatch(r"[0-9]{12,13}(\.0*)?", v) is not None for v in column):
        return "ms"
    return next((unit for unit in ("iso", *_FORMATS) if _mostly(_is_time(v, unit) for v in column)), None)


def _is_time(text: str, unit: str) -> bool:
    try:
        return 0 <= parsing.clock(unit)(text) < parsing.END_OF_TIME
    except (ValueError, OverflowError):
        return False


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
