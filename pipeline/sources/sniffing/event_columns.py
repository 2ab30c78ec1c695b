"""Finds the column with the kind of each event: view, add to cart, purchase."""

import re
from collections import Counter
from dataclasses import dataclass

from pipeline.sources.sniffing.rating_words import polar_words

_NAMES = """
event eventtype eventname eventkind eventtypeid action actiontype actionname activity activitytype behavior behaviour
behaviortype behaviourtype interaction interactiontype feedbacktype engagement engagementtype verb operation optype
useraction
"""
_VAGUE_NAMES = "type kind status typeid"
"""Names that a column of events may have, as well as one of categories: its values decide."""
_WORDS = """
view viewed pageview pv impression click clicked clickout tap open opened detail detailview visit browse search cart
addtocart addcart atc removefromcart removecart basket addtobasket checkout checkoutstart begincheckout order ordered
orders buy bought purchase purchased transaction conversion pay paid payment sale sold return returned refund refunded
cancel cancelled wishlist addtowishlist favorite favourite fav addtofavorites collect save saved bookmark follow
unfollow like share shared comment rate review subscribe unsubscribe play played skip skipped pause stop finish
finished complete completed listen listened watch watched stream read download install rent rental borrow borrowed
reserve reserved book booked apply applied contact views clicks carts purchases plays
"""
_KNOWN_NAMES, _KNOWN_WORDS = frozenset(_NAMES.split()), frozenset(_WORDS.split())
_POSSIBLE_NAMES = _KNOWN_NAMES | frozenset(_VAGUE_NAMES.split())
_MOST_TYPES = 40


@dataclass(frozen=True)
class EventColumn:
    """The column with the kinds of events."""

    at: int
    """Index of the column."""
    counts: dict[str, int]
    """Rows of each type, the most frequent first; of the rows that were looked at."""


def event_column(names: list[str], rows: list[list[str]], taken: set[int] | None = None) -> EventColumn | None:
    """The column of event types, by its name and its values; None if there is none.

    `names` may be empty texts where the file has no header. Columns in `taken` have another role. A column of votes or
    of yes and no (`up`, `down`; `True`, `False`) is a rating in words, not a column of events. One type alone is enough
    if the name or the type is known.
    """
    found: list[tuple[int, int, EventColumn]] = []
    for at, name in enumerate(names):
        column = [row[at].strip() for row in rows]
        if at in (taken or ()) or not any(column):
            continue
        counts = Counter(column)
        if score := _score(name, counts):
            found.append((score, -at, EventColumn(at, dict(counts.most_common()))))
    return max(found, key=lambda each: each[:2])[2] if found else None


def _score(name: str, counts: Counter[str]) -> int:
    """How much speaks for a column of events: 0 nothing, 1 its values, 2 its name, 3 both."""
    if len(counts) > _MOST_TYPES or polar_words(list(counts)):
        return 0
    plain, rows = _plain(name), counts.total()
    is_coded = all(re.fullmatch(r"[0-9]{1,2}", value) for value in counts)
    is_worded = sum(n for value, n in counts.items() if _plain(value) in _KNOWN_WORDS) >= 0.9 * rows
    is_named = plain in _KNOWN_NAMES and not any(len(value) > 40 for value in counts)
    if plain and plain not in _POSSIBLE_NAMES and len(counts) < 2:
        return 0
    if not is_named and is_coded:
        return 0
    return 2 * is_named + is_worded


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
