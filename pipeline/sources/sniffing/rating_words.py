"""Ratings that are written as words or stars: what each text counts as."""

import re
from collections.abc import Collection

_PAIRS: tuple[tuple[str, str, float], ...] = (
    ("true", "false", 0), ("t", "f", 0), ("yes", "no", 0), ("y", "n", 0), ("ja", "nein", 0), ("oui", "non", 0),
    ("on", "off", 0), ("recommended", "not recommended", 0), ("up", "down", -1), ("thumbs up", "thumbs down", -1),
    ("upvote", "downvote", -1), ("upvoted", "downvoted", -1), ("like", "dislike", -1), ("liked", "disliked", -1),
    ("love", "hate", -1), ("loved", "hated", -1), ("positive", "negative", -1), ("pos", "neg", -1), ("good", "bad", -1),
    ("fresh", "rotten", -1), ("👍", "👎", -1), ("+", "-", -1),
)  # fmt: skip
"""A text for 1, the opposite, and what the opposite counts as: 0 for 'not so', -1 for a vote against."""
_NEUTRAL = frozenset({"neutral", "meh", "none", "skip", "no opinion", "unsure", "mixed", "0", "😐"})
_STARS = re.compile(r"([★⭐🌟*]\ufe0f?)*(½|⯨)?(☆|✩|⯪)*")
_NAMED_STARS = re.compile(r"([0-9]+(?:\.[0-9]+)?) *[-_]?(?:stars?|★|⭐)", re.IGNORECASE)


def polar_words(texts: Collection[str]) -> dict[str, float] | None:
    """What each text counts as, if all are of one pair of opposites such as `up` and `down`; None if not.

    A text that is missing of the pair is added in the spelling of the other. One side alone is enough for words that
    only answer a question (`True`, `yes`).
    """
    filled = {text.strip() for text in texts}
    for good, bad, against in _PAIRS:
        plain = {text: _plain(text) for text in filled}
        sides = set(plain.values()) & {good, bad}
        neutral = {text for text, word in plain.items() if word in _NEUTRAL and word not in (good, bad)}
        if not sides or set(plain.values()) - {good, bad} - {plain[text] for text in neutral}:
            continue
        if against < 0 and len(sides) < 2:
            continue  # `like` alone is an event
        values = {text: 1.0 if plain[text] == good else 0.0 if text in neutral else float(against) for text in filled}
        for side, other, value in ((good, bad, float(against)), (bad, good, 1.0)):
            if other not in sides and side in sides:
                like = next(text for text in sorted(filled) if plain[text] == side)
                values[_spelled(other, like)] = value
        return dict(sorted(values.items(), key=lambda pair: (-pair[1], pair[0])))
    return None


def _plain(text: str) -> str:
    return re.sub(r"[-_ ]+", " ", text.strip().lower()) if len(text) > 1 else text.lower()


def _spelled(word: str, like: str) -> str:
    """A word in the case of another."""
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[:1].isupper() else word


def star_texts(texts: Collection[str]) -> dict[str, float] | None:
    """What each text counts as, if all are stars (`★★★★☆`, `⭐⭐⭐`, `4 stars`); None if not."""
    filled = sorted({text.strip() for text in texts})
    values: dict[str, float] = {}
    for text in filled:
        named = _NAMED_STARS.fullmatch(text)
        if named:
            values[text] = float(named[1])
        elif text and _STARS.fullmatch(text):
            values[text] = sum(text.count(star) for star in "★⭐🌟*") + 0.5 * any(half in text for half in "½⯨")
        else:
            return None
    if not values:
        return None
    width = {len(text) for text in values}
    shapes = {re.sub(r"[0-9]+(\.[0-9]+)?", "#", text) for text in values}
    size = max(5, int(max(values.values())))
    if len(width) == 1 and all(set(text) <= set("★☆") for text in values):  # the others of the scale, which may be rare
        size = width.pop()
        values |= {"★" * n + "☆" * (size - n): float(n) for n in range(size + 1)}
    elif len(stars := set("".join(values))) == 1 and stars <= set("★⭐🌟"):
        values |= {min(stars) * n: float(n) for n in range(1, size + 1)}
    elif shapes <= {"# star", "# stars"}:
        values |= {f"{n} star{'s' * (n > 1)}": float(n) for n in range(1, size + 1)}
    return dict(sorted(values.items(), key=lambda pair: (pair[1], pair[0])))
