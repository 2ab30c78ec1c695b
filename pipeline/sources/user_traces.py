"""Finds and redacts traces of a user in prose, in JSON and in raw source lines.

Fields are compared exactly. In prose an id counts if it is a whole token: an id of LONG characters or more anywhere, a
shorter one only after words such as `user_id`, since it may be an item or a count otherwise.
"""

import ast
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

from pipeline.schemas.reasons import Reason
from pipeline.sources.dialect import Marks, split_quoted
from pipeline.sources.line_reader import RAW_LIMIT
from pipeline.storage.forgotten_users import REDACTED, Forgotten

LONG = 16
"""Length in characters from which an id in a text is not a coincidence."""
QUOTED = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"")
EXAMPLE = re.compile(r"(?<=\): )(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")")
"""A raw source line that older versions quoted in a reason: `a.csv line 3 (too_few_fields): '…'`."""
CUT = 80
"""Length in characters at which older versions cut such a line."""
PASSES = 9
"""Maximum passes over a message."""
NAMED_BEFORE = r"(?i:(?<!\w)user(?:_?id)?['\"]?\s*[:=]?\s*['\"]?)"
BEFORE = r"(?:(?<!\w)|(?<=\\[abfnrtv0])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4})|(?<=%[0-9A-F]{2}))"
"""No letter or digit before the token, except at the end of an escape: `\\n`, `\\u0009`, `%2C`."""
USER_KEYS = ("user_id", "user", "users", "user_ids")
UNDECIDED = (Reason.BROKEN_QUOTE, Reason.LINE_TOO_LONG, Reason.BAD_ENCODING)
"""Reasons of rejected lines whose fields can't be told from each other."""
SNIFFED = ("::", "\t", ",", ";", "|", " ")


@dataclass(frozen=True)
class Dialect:
    """How a source's lines are laid out; `delimiter` None: it was sniffed, so any of SNIFFED is possible."""

    delimiter: str | None = None
    quote: str = '"'

    @property
    def delimiters(self) -> tuple[str, ...]:
        """All delimiters that are possible."""
        return (self.delimiter,) if self.delimiter else SNIFFED


@dataclass(frozen=True)
class Person:
    """The user who is to be forgotten, with what is needed to find traces."""

    user_id: str
    listed: Forgotten
    """All forgotten users, including this one."""
    dialects: tuple[Dialect, ...] = (Dialect(),)
    is_item: bool = False
    """An item has the same id: then prose counts only if it says that the id is a user's."""
    is_part: bool = False
    """Another id contains this one: then bare bytes prove nothing."""

    @property
    def is_long(self) -> bool:
        """Whether the bare id is a trace in any text."""
        return len(self.user_id) >= LONG and not self.is_item

    @cached_property
    def spellings(self) -> list[str]:
        """The id as written in CSV, Python, JSON, HTML, SQL and URLs, the longest first."""
        once = _spelt(self.user_id)
        twice = {spelling for one in once for spelling in _spelt(one)}
        return sorted({one for one in once | twice if one}, key=lambda one: (-len(one), one))

    @cached_property
    def cores(self) -> list[str]:
        """Texts for a quick first search: the longest run that no escape changes; without one, all spellings."""
        runs = re.findall(r"[A-Za-z0-9]+", self.user_id)
        return [max(runs, key=len)] if runs else self.spellings

    @cached_property
    def bytes_of_it(self) -> list[bytes]:
        """The spellings as bytes, in the encodings of files."""
        found = {one.encode(code, "surrogatepass") for one in self.spellings for code in ("utf-8", "utf-16-le")}
        return sorted(found | {one.encode("latin-1") for one in self.spellings if _is_latin(one)})

    @cached_property
    def _tokens(self) -> list[re.Pattern[str]]:
        before = "" if self.is_long else NAMED_BEFORE
        return [re.compile(f"({before}){_token(one)}") for one in self.spellings]

    @cached_property
    def _bare(self) -> list[re.Pattern[str]]:
        return [re.compile(_token(one)) for one in self.spellings]

    def redacted(self, text: str) -> str:
        """A text of any kind with the id redacted."""
        if not self.may_be_in(text):
            return text
        for token in self._tokens:
            text = token.sub(lambda match: match[1] + REDACTED, text)
        return text

    def redacted_message(self, text: str) -> str:
        """A reason, note or error with the id redacted, and with quoted pieces redacted that name a forgotten user."""

        def blank(piece: re.Match[str]) -> str:
            inner = _unquoted(piece[0])
            return repr(REDACTED) if self.listed.named_in(inner) or self.is_in_raw(inner) else piece[0]

        def example(piece: re.Match[str]) -> str:
            inner = _unquoted(piece[0])
            undecided = inner != REDACTED and (len(inner) >= CUT or is_undecided(inner, self.dialects))
            return repr(REDACTED) if undecided else piece[0]

        for _ in range(PASSES):  # an apostrophe in an id may pair with the quote of another piece
            before, text = text, self.redacted(EXAMPLE.sub(example, text))
            for token in self._bare if len(self.user_id) >= LONG else []:
                text = token.sub(REDACTED, text)
            text = QUOTED.sub(blank, text)
            if text == before:
                break
        return text

    def is_in_raw(self, raw: str) -> bool:
        """Whether a raw source line contains the id as a token, and so as a field of any layout."""
        return self.may_be_in(raw) and any(token.search(raw) for token in self._bare)

    def may_be_in(self, text: str) -> bool:
        """Whether a text may contain the id: a quick check."""
        return any(core in text for core in self.cores) and any(one in text for one in self.spellings)


def is_named(raw: str, listed: Forgotten, dialects: Iterable[Dialect]) -> bool:
    """Whether a raw line names a forgotten user, split by the sources' dialects. Only hashes of ids are needed."""
    delimiters = {delimiter for dialect in dialects for delimiter in dialect.delimiters}
    if listed.named_in(raw, delimiters) or any(token in listed for token in re.findall(r"\w[\w.@+-]*", raw)):
        return True
    parsed = [_fields(raw, delimiter, dialect.quote) for dialect in dialects for delimiter in dialect.delimiters]
    return any(field in listed or field.strip() in listed for fields, _ in parsed for field in fields)


def is_undecided(raw: str, dialects: Iterable[Dialect], reason: str = "") -> bool:
    """Whether a raw line may name a user although no field shows it: it is cut, unreadable, or has an open quote."""
    if reason in UNDECIDED or len(raw) >= RAW_LIMIT or "\ufffd" in raw:
        return True
    return any(
        _fields(raw, delimiter, dialect.quote)[1] == "open"
        for dialect in dialects
        for delimiter in ([one for one in dialect.delimiters if one in raw] or dialect.delimiters)
        if dialect.quote
    )


def redact_json(value: Any, person: Person, keep: Iterable[str] = (), key: str = "") -> Any:
    """Decoded JSON with the user redacted: ids compared exactly, texts as prose. `keep`: keys that stay unchanged."""
    if isinstance(value, dict):
        if set(value) == {"column", "value"}:
            return {**value, "value": _redacted_field(value["column"], value["value"], person)}
        return {
            REDACTED if name == person.user_id and key in USER_KEYS else name: (
                inner if name in keep else redact_json(inner, person, keep, name)
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [redact_json(inner, person, keep, key) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return REDACTED if key in USER_KEYS[:2] and str(value) == person.user_id else value
    if not isinstance(value, str):
        return value
    if key in USER_KEYS and value == person.user_id:
        return REDACTED
    if key == "raw":
        return _redacted_field("raw", value, person)
    is_prose = key in ("reason", "text") or (" " in value and key != "params")
    return person.redacted_message(value) if is_prose else person.redacted(value)


def _redacted_field(column: str, value: str, person: Person) -> str:
    """The redacted value of `{column, value}`, the form in which reasons and notes store ids."""
    if column.startswith("item") or "item_id" in column:
        return value
    named = value == person.user_id or person.is_in_raw(value) or is_named(value, person.listed, person.dialects)
    cut = column == "raw" and value != REDACTED and (len(value) >= CUT or is_undecided(value, person.dialects))
    return REDACTED if named or cut else value


def texts_in(value: object) -> Iterator[str]:
    """Every text in decoded JSON, keys included."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)
    elif isinstance(value, str):
        yield value


def _fields(raw: str, delimiter: str, mark: str) -> tuple[list[str], str]:
    return split_quoted(raw, Marks(delimiter, mark))


def _token(spelling: str) -> str:
    """A pattern for a whole token: no letter or digit follows if the id ends in one."""
    left = BEFORE if re.match(r"\w", spelling) else ""
    right = r"(?!\w)" if re.search(r"\w\Z", spelling) else ""
    return f"{left}{re.escape(spelling)}{right}"


def _spelt(text: str) -> set[str]:
    plain = repr(text)[1:-1]
    quotes = {plain, plain.replace("\\'", "'"), plain.replace("\\'", "'").replace("'", "\\'")}
    jsons = {json.dumps(text, ensure_ascii=ascii)[1:-1] for ascii in (True, False)}
    marks = {text.replace(mark, mark * 2) for mark in ("'", '"')} | {html.escape(text), html.escape(text, quote=False)}
    try:
        urls = {quote(text), quote(text, safe=""), quote_plus(text)}
    except UnicodeEncodeError:
        urls = set[str]()
    return {text} | quotes | jsons | marks | urls


def _is_latin(text: str) -> bool:
    return all(ord(letter) < 256 for letter in text)


def _unquoted(piece: str) -> str:
    try:
        return str(ast.literal_eval(piece))
    except (ValueError, SyntaxError):
        return piece[1:-1]
