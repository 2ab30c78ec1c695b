"""Cells of an unknown table, and its columns' names, as the sniffers judge them."""

import re
import unicodedata
from collections.abc import Iterable

ENOUGH = 0.9
"""Share of a column's cells that must fit; the night rejects the lines of the others."""


def mostly(fits: Iterable[bool]) -> bool:
    """Whether 90 % of the cells fit."""
    results = list(fits)
    return sum(results) >= ENOUGH * len(results)


def number(text: str) -> float | None:
    """The value of a plain number; None for other texts."""
    return float(text) if re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]*)?", text) else None


def is_numeric(column: list[str]) -> bool:
    """Whether 90 % of the values are plain numbers."""
    return mostly(number(text) is not None for text in column)


def filled(column: list[str]) -> list[str]:
    """The cells that are not blank."""
    return [cell for cell in column if cell.strip()]


def folded(text: str) -> str:
    """A text with letters of the alphabet in place of those with accents: `Größe` as `Grosse`, `Nº` as `No`."""
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text.replace("ß", "ss")) if not unicodedata.combining(c))


def plain_name(name: str) -> str:
    """A column's name in lower case, letters without accents and digits only."""
    return re.sub(r"[^a-z0-9]", "", folded(name).lower())


def words_of(name: str) -> list[str]:
    """The words of a column's name: `starRating`, `star_rating` and `Star Rating` have two."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+", folded(name))]
