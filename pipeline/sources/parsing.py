"""Parses source texts to ids, ratings and times; an invalid text is rejected with a reason."""

import datetime as dt
import re
import time
from collections.abc import Callable
from typing import Any

from pipeline.config.dataset import Columns
from pipeline.core.errors import UnreadableInput
from pipeline.schemas.reasons import Reason
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.number_looks import looks_like

MAX_ID_BYTES = 1024
_SHORT = MAX_ID_BYTES // 4  # characters of at most 4 bytes: never too long
LARGEST = 3.4028234663852886e38
"""The largest rating: models and results hold ratings in 32 bits."""
END_OF_TIME = 4_102_444_800 * 10**6
"""2100-01-01 in microseconds; times from 1970 up to it are accepted."""
SCALES = {"s": 10**6, "ms": 1000, "us": 1}
"""`timestamp_unit` to microseconds per count; `ns` has its own parser, since a float does not hold it exactly."""
COUNTS = (*SCALES, "ns")
"""Units of times that are counts since 1970."""
_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)
# ASCII only: full-width digits, 1_000 and 0x10 are not numbers. Surrounding blanks are ignored.
_NUMBER = re.compile(r" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)? *").fullmatch
_NOT_FINITE = re.compile(r" *[+-]?(?:nan|inf|infinity) *", re.IGNORECASE | re.ASCII).fullmatch
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?"
    r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?Z?"
).fullmatch

Row = tuple[Any, ...]
"""User, item, rating and time; then the extra columns."""


class Rejected(ValueError):
    """An invalid value, with the reason, its column and, of a text that is no number, what it looks like."""

    def __init__(self, reason: Reason, column: str, looks: str | None = None) -> None:
        super().__init__(reason, column)
        self.reason, self.column, self.looks = reason, column, looks


def row_reader(columns: Columns, missing_ratings: list[float]) -> Callable[[str, str, str, str], Row]:
    """A function from the texts of user, item, rating and timestamp to their values; it raises Rejected.

    An empty rating or timestamp is rejected if its column is configured; without a column the value is None.
    Times are microseconds since 1970, UTC.
    """
    missing = frozenset(missing_ratings)
    numbers = NumberFormat.of_columns(columns)
    parse_number = None if numbers.is_usual else numbers.reader()
    parse_time = _clock_of(columns, numbers) if columns.timestamp else None
    known: dict[str, float | None] = {}  # ratings have few values; for play counts the size is limited below

    def read(user: str, item: str, rating: str, timestamp: str) -> Row:
        if not user or len(user) > _SHORT:
            check_id(user, Reason.EMPTY_USER, columns.user)
        if not item or len(item) > _SHORT:
            check_id(item, Reason.EMPTY_ITEM, columns.item)
        value = None
        if columns.rating:
            if rating in known:
                value = known[rating]
            else:
                value = _rating(rating, columns.rating, parse_number)
                value = None if value in missing else value
                if len(known) < 10_000:
                    known[rating] = value
        time = None
        if parse_time and columns.timestamp:
            try:
                time = parse_time(timestamp)
            except (ValueError, OverflowError):
                raise Rejected(Reason.TIMESTAMP_UNREADABLE, columns.timestamp) from None
            if not 0 <= time < END_OF_TIME:
                raise Rejected(Reason.TIMESTAMP_OUT_OF_RANGE, columns.timestamp)
        return user, item, value, time

    return read


def _clock_of(columns: Columns, numbers: NumberFormat) -> Callable[[str], int]:
    parse = clock(columns.timestamp_unit)
    return numbers.time_reader(parse) if columns.timestamp_unit in COUNTS else parse


def check_id(text: str, empty: Reason, column: str) -> None:
    """Raise Rejected unless the id has 1 to 1024 bytes."""
    if not text:
        raise Rejected(empty, column)
    if len(text) > _SHORT and len(text.encode()) > MAX_ID_BYTES:
        raise Rejected(Reason.ID_TOO_LONG, column)


def _rating(text: str, column: str, parse: Callable[[str], float] | None) -> float:
    try:
        value = parse(text) if parse else _usual(text)
    except ValueError:
        if _NOT_FINITE(text):
            raise Rejected(Reason.RATING_NOT_FINITE, column) from None
        raise Rejected(Reason.RATING_NOT_A_NUMBER, column, looks_like(text)) from None
    if abs(value) > LARGEST:
        raise Rejected(Reason.RATING_NOT_FINITE, column)
    return value


def _usual(text: str) -> float:
    if not _NUMBER(text):
        raise ValueError(text)
    return float(text)


def clock(unit: str) -> Callable[[str], int]:
    """A function from text to microseconds since 1970, UTC; it raises ValueError or OverflowError for other texts."""
    if unit in SCALES:
        scale = SCALES[unit]

        def count(text: str) -> int:
            if len(text) <= 16 and text.isascii() and text.isdigit():
                return int(text) * scale
            if not _NUMBER(text):
                raise ValueError(text)
            return round(float(text) * scale)

        return count
    if unit == "ns":
        return _nanoseconds
    if unit == "iso":
        return _iso
    if "%" not in unit or not _is_format(unit):
        raise UnreadableInput(f"columns.timestamp_unit = {unit!r}: use s, ms, us, ns, iso, or a strptime format")

    return _formatted(unit)


def _formatted(unit: str) -> Callable[[str], int]:
    """`clock` for a strptime format."""
    zones = _zones_of_this_machine() if "%Z" in unit else None

    def formatted(text: str) -> int:
        if zones and zones(text):
            raise ValueError(text)  # Python takes the name and ignores it: the time would be hours off
        if not text.isascii() and any(c.isdecimal() and not c.isascii() for c in text):
            raise ValueError(text)
        return _micros(dt.datetime.strptime(text, unit))

    return formatted


def _zones_of_this_machine() -> Callable[[str], object] | None:
    """Whether a text has a name of this machine's time zone, such as CET; None if that is UTC."""
    names = {name.lower() for name in time.tzname} - {"utc", "gmt"}
    found = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?<![a-z0-9])(?:{found})(?![a-z0-9])", re.IGNORECASE).search if names else None


def _nanoseconds(text: str) -> int:
    if len(text) <= 19 and text.isascii() and text.isdigit():
        return int(text) // 1000
    if not _NUMBER(text):
        raise ValueError(text)
    return round(float(text) / 1000)


def _iso(text: str) -> int:
    text = text.strip(" ")
    if not _ISO(text):
        raise ValueError(text)
    return _micros(dt.datetime.fromisoformat(text.removesuffix("Z") if len(text) == 11 else text))


def _micros(time: dt.datetime) -> int:
    if time.tzinfo:
        time = time.astimezone(dt.UTC).replace(tzinfo=None)
    return (time - _EPOCH) // _MICROSECOND


def _is_format(unit: str) -> bool:
    try:
        dt.datetime.strptime("", unit)
    except (ValueError, re.error) as error:
        return "does not match format" in str(error)
    return True
