"""Finds the layout of a text: comments, lines before the header, delimiter, quote and escape."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.core.errors import UnreadableInput
from pipeline.sources.dialect import DELIMITERS, Marks, split_quoted

RARE_DELIMITERS = ("\x01", "\x1f", "^", "~", "¦")
LAST_RESORT = (":",)
COMMENTS = ("#", "%", "//")
_FIRST_LINES = 400
_FIRST_RECORDS = 1000
"""Enough to tell a category from a rating, and day-first from month-first dates."""
_LONGEST_RECORD = 50  # lines
_LONGEST_PREAMBLE = 30  # lines
_SEP_LINE = re.compile(r"\"?sep=(.{1,4}?)\"?", re.IGNORECASE).fullmatch
_QUOTES = (('"', ""), ('"', "\\"), ("'", ""), ("'", "\\"), ("", ""), ("", "\\"))
"""Quote and escape, the more frequent ones first."""


@dataclass(frozen=True)
class TextLayout:
    """The layout of a text, and its first records."""

    marks: Marks
    records: list[list[str]]
    """The first records after the preamble, broken ones left out."""
    broken: int
    """How many were left out."""
    comment: str = ""
    skip_lines: int = 0
    comments: list[str] = field(default_factory=list)
    """Comment lines before the first record, without their mark."""

    header_end: int = 0
    """Physical lines up to the end of the first record."""

    @property
    def width(self) -> int:
        """The most frequent number of fields; 0 without records."""
        return _usual([len(record) for record in self.records])[0]

    @property
    def is_even(self) -> float:
        """Share of the records that have that number of fields."""
        return _usual([len(record) for record in self.records])[1]


def layout_of(lines: Sequence[str], name: str) -> TextLayout:
    """The layout of a text's lines. Raises UnreadableInput if no delimiter splits them."""
    skip, given = 0, []
    if lines and (found := _SEP_LINE(lines[0].strip())):
        skip, given = 1, [found[1]]
    lines = lines[skip:]
    comment = _comment(lines)
    comments = [line[len(comment) :].strip() for line in lines[: _preamble(lines, comment)] if line.strip()]
    body = [line for line in lines if not line.startswith(comment)] if comment else list(lines)
    if comment:  # the night skips blank lines among the first comments, too
        body = body[next((at for at, line in enumerate(body) if line.strip()), len(body)) :]
    marks = _marks([line for line in body[:_FIRST_LINES] if line.strip()], body, given, name)
    if not comment:
        above = _lines_above(body[:_FIRST_LINES], marks)
        skip, body = skip + above, body[above:]
    records, broken = split(body[: 4 * _FIRST_RECORDS], marks, _FIRST_RECORDS)
    end = skip + _preamble(lines, comment) + (_record(body, 0, marks)[2] if body else 0)
    return TextLayout(marks, records, broken, comment, skip, comments, end)


def split(lines: Sequence[str], marks: Marks, most: int) -> tuple[list[list[str]], int]:
    """The first records of lines, blank lines left out, and how many records are broken."""
    records: list[list[str]] = []
    at = broken = 0
    while at < len(lines) and len(records) < most:
        record, state, n_lines = _record(lines, at, marks)
        if state == "whole" and record != [""]:
            records.append(record)
        broken += state != "whole"
        at += n_lines
    return records, broken


def _record(lines: Sequence[str], at: int, marks: Marks) -> tuple[list[str], str, int]:
    """The record that starts on a line, its state, and its number of lines; a broken one has one line."""
    record, state = split_quoted(lines[at], marks)
    if state != "open":
        return record, state, 1
    for end in range(at + 2, min(at + _LONGEST_RECORD, len(lines)) + 1):
        if marks.quote in lines[end - 1]:
            record, state = split_quoted("\n".join(lines[at:end]), marks)
            if state != "open":
                return (record, state, end - at) if state == "whole" else (record, state, 1)
    return record, "open", 1


def _comment(lines: Sequence[str]) -> str:
    """The mark of comment lines, if there are some before the first record, and most lines are none."""
    first = next((line for line in lines if line.strip()), "")
    mark = next((mark for mark in COMMENTS if first.startswith(mark)), "")
    some = [line for line in lines[:_FIRST_LINES] if line.strip()]
    marked = [line for line in some if line.startswith(mark)]
    if not mark or len(marked) > 0.5 * len(some):
        return ""
    if len(marked) == 1 and not first[len(mark) :].startswith((" ", "\t")) and _is_like(first, some[1:]):
        return ""  # a header such as `#user,item`
    return mark


def _is_like(line: str, others: list[str]) -> bool:
    """Whether a line has as many fields as most others, for some delimiter."""
    return any(
        line.count(by) and line.count(by) == _usual([other.count(by) for other in others])[0] for by in DELIMITERS
    )


def _preamble(lines: Sequence[str], comment: str) -> int:
    """Index of the first line that is no comment, and not blank among comments."""
    if not comment:
        return 0
    return next((at for at, line in enumerate(lines) if line.strip() and not line.startswith(comment)), len(lines))


def _lines_above(lines: Sequence[str], marks: Marks) -> int:
    """Number of lines above the header: blank ones, and a few with fewer fields than the header and the rows."""
    starts: list[int] = []
    records: list[list[str]] = []
    at = 0
    while at < len(lines):
        record, _, n_lines = _record(lines, at, marks)
        if lines[at].strip():
            starts.append(at)
            records.append(record)
        at += n_lines
    usual, share = _usual([len(record) for record in records])
    if usual < 2 or share < 0.5:
        return starts[0] if starts else 0
    first = next(at for at, record in enumerate(records) if len(record) == usual)
    few = starts[first] <= _LONGEST_PREAMBLE and all(len(record) < usual for record in records[:first])
    return starts[first if few and not _is_row(records[first]) else 0]


def _is_row(record: list[str]) -> bool:
    """Whether a record has a number: then it is a row, and no header."""
    return any(re.fullmatch(r"-?[0-9]+([.,][0-9]*)?", cell.strip()) for cell in record)


def _marks(first: list[str], body: Sequence[str], given: list[str], name: str) -> Marks:
    text = "\n".join(first)
    present = [by for by in (*DELIMITERS, *RARE_DELIMITERS) if by in text]
    present += [wide for by in ",;|" if text.count(wide := f"{by} ") > 0.9 * text.count(by)]
    for delimiters in (given or present, LAST_RESORT):
        quality = {by: _quality(first, by, text) for by in delimiters}
        best = max(delimiters, key=lambda by: quality[by], default="")
        if best == " ":  # blanks are in names and times, too
            others = [by for by in delimiters if by != " " and _separates(by, text) and quality[by][2] >= 3]
            even = [by for by in others if quality[by][0] >= 0.9 * quality[best][0]]
            best = max(even, key=lambda by: quality[by], default=best)
        if best and quality[best][0] > 0:
            best = best if given else _widened(best, first)
            return _quoting(best, body)
    raise UnreadableInput(f"{name}: no known delimiter splits its lines; set delimiter in the data set's TOML")


def _separates(delimiter: str, text: str) -> bool:
    """Whether a delimiter does more than to write decimals. Of the delimiters, only a comma writes them."""
    return delimiter != "," or len(re.findall("(?<=[0-9]),(?=[0-9])", text)) < text.count(",")


def _quality(lines: list[str], delimiter: str, text: str) -> tuple[float, float, int, int]:
    """Share of the records with the usual number of fields, share without stray quotes, that number, and priority."""
    best = max((_evenness(lines, Marks(delimiter, *marks)) for marks in _candidates(text)), key=lambda one: one[:2])
    strict = [_evenness(lines, Marks(delimiter, *marks)) for marks in _candidates(text) if marks[0]]
    is_natural = delimiter != " " or '"' not in text  # blanks around quotes are usual in texts
    order = (", ", "; ", "| ", *DELIMITERS, *RARE_DELIMITERS, *LAST_RESORT, delimiter)
    clean = max(one[2] for one in strict) if is_natural else 0.0
    return best[0], clean, best[1], -order.index(delimiter)


def _candidates(text: str) -> list[tuple[str, str]]:
    """Quotes and escapes that a text may have. The usual quote is one of them in any case."""
    marks = [("", ""), ('"', "")]
    if "\\" in text:
        marks.append(("", "\\"))
    for quote in ('"', "'"):
        if quote == '"' or re.search(r"(^|[^\w\s'])'", text, re.MULTILINE):
            marks += [(quote, "")] if quote not in {m[0] for m in marks} else []
            marks += [(quote, "\\")] if f"\\{quote}" in text or f"\\\\{quote}" in text else []
    return sorted(marks, key=_QUOTES.index)


def _evenness(lines: Sequence[str], marks: Marks) -> tuple[float, int, float]:
    """Share of the records with the usual number of fields, that number, and their share without a stray quote."""
    records, broken = split(lines, marks, _FIRST_RECORDS)
    widths = [len(record) for record in records if len(record) > 1]
    total = len(records) + broken
    if not widths:
        return 0.0, 0, 0.0
    width, n_equal = Counter(widths).most_common(1)[0]
    clean = 0
    if marks.quote:
        clean = sum(len(record) == width and not any(marks.quote in cell for cell in record) for record in records)
    return n_equal / total, width, clean / total


def _widened(delimiter: str, lines: list[str]) -> str:
    """The delimiter, doubled if it is that in every line."""
    wide = delimiter * 2
    if delimiter == " " or len(wide) > 4:
        return delimiter
    is_wide = all(line.count(wide) and 2 * line.count(wide) == len(wide) // 2 * line.count(delimiter) for line in lines)
    return wide if is_wide else delimiter


def _quoting(delimiter: str, body: Sequence[str]) -> Marks:
    """The quote and the escape with which most records of the whole text have the usual number of fields."""
    text = "\n".join(body)
    if not any(mark in text for mark in "\"'\\"):
        return Marks(delimiter)
    even = {marks: _even_records(body, Marks(delimiter, *marks)) for marks in _candidates(text)}
    most = max(even.values())
    best = next(marks for marks in sorted(even, key=_QUOTES.index) if even[marks] == most)
    if best[0] == '"' and ("'", "") in even and even["'", ""] == most and _encloses("'", '"', body, delimiter):
        best = "'", ""
    return Marks(delimiter, *best)


def _even_records(body: Sequence[str], marks: Marks) -> int:
    """How many records have the usual number of fields, counted so that lines of a long record are no records."""
    records, broken = split(body, marks, len(body))
    usual, share = _usual([len(record) for record in records])
    lines_of_others = sum(len(record) != usual for record in records) + broken
    return round(share * len(records)) - lines_of_others if usual > 1 else -len(body)


def _encloses(quote: str, other: str, body: Sequence[str], delimiter: str) -> bool:
    """Whether some column is enclosed in a quote in nearly all records, and none in the other one."""
    records, _ = split(body[:_FIRST_LINES], Marks(delimiter, ""), _FIRST_RECORDS)
    usual, _ = _usual([len(record) for record in records])
    columns = list(zip(*(record for record in records if len(record) == usual), strict=False))

    def share(mark: str, column: tuple[str, ...]) -> float:
        return sum(len(c) > 1 and c[0] == mark == c[-1] for c in column[1:]) / max(len(column) - 1, 1)

    enclosed = any(share(quote, column) > 0.9 for column in columns)
    return enclosed and not (other and any(share(other, column) > 0.1 for column in columns))


def _usual(widths: Sequence[int]) -> tuple[int, float]:
    """The most frequent width and its share."""
    if not widths:
        return 0, 0.0
    width, n_equal = Counter(widths).most_common(1)[0]
    return width, n_equal / len(widths)
