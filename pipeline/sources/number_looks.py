"""What a text that is not read as a number looks like, and the setting that reads it."""

import re
from collections.abc import Mapping

_SEPARATORS = ",.'\u2019 \u00a0\u202f_"
_LOOKS: tuple[tuple[str, str], ...] = (
    ("empty", r" *"),
    ("decimal comma", r"[+-]?(?:[0-9]*,[0-9]{1,2}|[0-9]*,[0-9]{4,}|0,[0-9]+|[0-9]{4,},[0-9]+)(?:[eE][+-]?[0-9]+)?"),
    ("decimal comma or thousands separator", r"[+-]?[1-9][0-9]{0,2},[0-9]{3}"),
    ("thousands separator", rf"[+-]?[0-9]{{1,3}}(?:[{re.escape(_SEPARATORS)}][0-9]{{2,3}})+(?:[.,][0-9]*)?"),
    ("fraction", r"[0-9]+(?:[.,][0-9]*)? *(?:/|[^\W\d_]+(?: [^\W\d_]+)?) *[0-9]+(?:[.,][0-9]*)?.{0,10}"),
    ("percentage", r"[+-]?[0-9]+(?:[.,][0-9]*)? *%"),
    ("number with a unit or currency", r"[+-]?\W{0,2}[0-9]+(?:[.,][0-9]+)*.{0,12}|[^\W\d]{1,3} ?[0-9]+(?:[.,][0-9]+)*"),
    ("stars", r"[★⭐🌟☆½*\ufe0f]+"),
    ("word", r"[^0-9]{1,40}"),
)
_COMPILED = tuple((name, re.compile(pattern).fullmatch) for name, pattern in _LOOKS)
ADVICE: Mapping[str, str] = {
    "empty": 'to keep the rows without a rating, set dataset.columns.rating_values = { "" = -1 } and '
    "dataset.feedback.missing_ratings = [-1]",
    "decimal comma": 'set dataset.columns.decimal = ","',
    "decimal comma or thousands separator": 'set dataset.columns.decimal = "," or dataset.columns.thousands = ","',
    "thousands separator": "set dataset.columns.thousands to the separator",
    "fraction": "set dataset.columns.rating_of to the highest rating, e.g. 5",
    "percentage": "set dataset.columns.rating_of, e.g. to 100",
    "number with a unit or currency": "write it without the unit, or list the texts in dataset.columns.rating_values",
    "stars": 'set dataset.columns.rating_values, e.g. { "★★★☆☆" = 3 }',
    "word": "set dataset.columns.rating_values, e.g. { yes = 1, no = 0 }",
}
"""What a text looks like to what reads it."""


def looks_like(text: str) -> str | None:
    """A key of ADVICE for a text that is not read as a number; None if it looks like nothing known."""
    if len(text) > 100:
        return None
    plain = text.strip()
    return next((name for name, fits in _COMPILED if fits(plain)), None)


def in_words(looks: Mapping[str, int]) -> str:
    """`12 look like a decimal comma: set …; 3 look like …`, the most frequent first; empty if there are none."""
    ordered = sorted(looks.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return "; ".join(
        f"{n:,} {'are empty' if name == 'empty' else f'look like a {name}' if name != 'stars' else 'look like stars'}: "
        f"{ADVICE.get(name, 'see the rejected rows')}"
        for name, n in ordered
    )
