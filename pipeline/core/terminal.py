"""Text for a terminal, without the control characters that titles and ids of a source may contain."""

import json
import re

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""C0 except tab and newline, DEL, C1, and the characters that change the text direction."""
_IN_TEXT = re.compile(f"[{_CONTROL}]")


def plain(text: str) -> str:
    """The text without control characters, except newline and tab."""
    return _IN_TEXT.sub("", text)


def show_line(text: str = "") -> None:
    """Print a line to stdout, without control characters."""
    print(plain(text))


def as_json(value: object, indent: int | None = None) -> str:
    """JSON in UTF-8 in which all control characters are escaped, including those that JSON allows."""
    text = json.dumps(value, default=str, ensure_ascii=False, indent=indent)
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
