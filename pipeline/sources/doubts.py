"""What was read with a doubt: rows that are kept although their file says something twice, or looks damaged."""

from collections.abc import Mapping

KEY_TWICE = "key_twice"
MARK_IN_TEXT = "mark_in_text"
_TEXTS = {
    KEY_TWICE: ("has", "have", "a key twice in one JSON object: the last value counts"),
    MARK_IN_TEXT: ("begins", "begin", "with a byte order mark, as where files were joined: it is left out"),
}


def in_words(doubts: Mapping[str, int]) -> list[str]:
    """One sentence per kind of doubt, with the number of lines."""
    texts = ((n, *_TEXTS[kind]) for kind, n in doubts.items())
    return [f"1 line {one} {rest}" if n == 1 else f"{n:,} lines {many} {rest}" for n, one, many, rest in texts]
