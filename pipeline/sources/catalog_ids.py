"""Whether the ids of an item catalog are those of the interactions, and how their spelling differs if they are not."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EXPECTED = 0.5
"""Share of the interactions' items that a catalog is expected to list; below it, a night warns."""
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]").sub
_MISSING = frozenset(
    ["null", "\\n", "na", "n/a", "none", "nan", "nil", "undefined", "<na>", "#n/a", "(null)", "unknown", "anonymous"]
)
NULL_WORDS = (
    "NULL", "null", "Null", "\\N", "NA", "N/A", "n/a", "<NA>", "None", "none", "nan", "NaN", "nil", "undefined",
)  # fmt: skip
"""Ids that programs write for a missing value. They are ids nevertheless, and a night says how many rows have them."""
SPELLINGS: dict[str, Callable[[str], str]] = {
    "leading zeros": lambda text: text.lstrip("0") or text,
    "a decimal fraction such as .0": lambda text: re.sub(r"\A([0-9]+)\.0+\Z", r"\1", text),
    "blanks around them": lambda text: text.strip(),
    "upper and lower case": lambda text: text.casefold(),
    "invisible characters, or composed and combining ones": lambda text: _visible(text),
    "leading zeros, fractions, blanks or case": lambda text: re.sub(
        r"\A0*([0-9]+)(\.0+)?\Z", r"\1", text.strip().casefold()
    ),
}
"""How spellings of one id differ, to a function that removes the difference."""


def _visible(text: str) -> str:
    return _INVISIBLE("", unicodedata.normalize("NFC", text))


def stands_for_missing(text: str) -> bool:
    """Whether an id looks like what programs write for a missing value, such as `NULL`. It is an id nevertheless."""
    return len(text) <= 9 and text.strip().lower() in _MISSING


@dataclass(frozen=True)
class Matching:
    """Ids of a catalog and of the interactions, compared exactly."""

    catalog_ids: int
    interaction_ids: int
    matched: int
    """Ids that both have."""
    difference: str = ""
    """What most of the other ids differ in, a key of SPELLINGS; empty if they differ entirely."""

    @property
    def warning(self) -> str:
        """What a person should know; empty if enough of the interactions' items are in the catalog."""
        if not self.catalog_ids or not self.interaction_ids or self.matched >= EXPECTED * self.interaction_ids:
            return ""
        missing = self.interaction_ids - self.matched
        text = (
            f"{self.matched:,} of {self.catalog_ids:,} catalog ids occur in the interactions; {missing:,} of their "
            f"{self.interaction_ids:,} items have no title and no attributes"
        )
        if self.difference:
            return f"{text}. The ids differ in {self.difference}: spell them alike in both files"
        return f"{text}. Check items.id in the data set's TOML"


def compare(catalog: Iterable[str], interactions: Iterable[str]) -> Matching:
    """Compare the ids of a catalog with those of the interactions."""
    listed, seen = set(catalog), set(interactions)
    matched = len(listed & seen)
    if matched >= EXPECTED * len(seen):
        return Matching(len(listed), len(seen), matched)
    plain = (name for name, strip in SPELLINGS.items() if _overlap(strip, listed, seen) >= max(EXPECTED * len(seen), 1))
    return Matching(len(listed), len(seen), matched, next(plain, ""))


def of_record(record: Mapping[str, Any]) -> Matching | None:
    """The comparison that a result of `ingest` recorded; None if it is older than this comparison."""
    keys = ("catalog_ids", "interaction_ids", "matched", "difference")
    return Matching(**{key: record[key] for key in keys}) if keys[0] in record else None


def _overlap(strip: Callable[[str], str], listed: set[str], seen: set[str]) -> int:
    return len({strip(one) for one in listed} & {strip(one) for one in seen})
