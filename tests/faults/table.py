"""The rows of the scorecard: what is provoked, what has to come of it, and the function that does both."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROWS: dict[int, "Row"] = {}


class Skip(Exception):
    """A row can't be provoked here; the text says why."""


@dataclass(frozen=True)
class Row:
    """`provoke` works in a folder of its own, returns what was observed, and raises where that is not as expected, or
    Skip."""

    number: int
    fault: str
    expected: str
    provoke: Callable[[Path], str]


def row(number: int, fault: str, expected: str) -> Callable[[Callable[[Path], str]], Callable[[Path], str]]:
    """Enter a function as a row."""

    def enter(provoke: Callable[[Path], str]) -> Callable[[Path], str]:
        assert number not in ROWS, f"there are two rows {number}"
        ROWS[number] = Row(number, fault, expected, provoke)
        return provoke

    return enter
