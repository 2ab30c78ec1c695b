"""Text for a terminal: without characters that would steer it, as titles and ids of a source may hold."""

import json
import re
from typing import Any

_STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""C0 but tab and newline, DEL, C1, and what changes the direction of writing."""
_IN_TEXT = re.compile(f"[{_STEERING}]")


def plain(text: str) -> str:
    """The text without control characters; newline and tab stay."""
    return _IN_TEXT.sub("", text)


def show_line(text: str = "") -> None:
    """Print a line for people to stdout."""
    print(plain(text))


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON in UTF-8 in which control characters are escaped, also those that JSON itself lets pass."""
    text = json.dumps(value, default=str, ensure_ascii=False, indent=indent)
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
