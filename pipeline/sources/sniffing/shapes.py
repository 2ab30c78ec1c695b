"""Tables that are no interactions: matrices, adjacency lists, baskets and impressions are named, with what to do."""

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing.cells import number
from pipeline.sources.sniffing.times import unit_of

_WIDE = 8
"""Columns from which a table of numbers may be a matrix."""
_WIDE_UNNAMED = 15
_RECURRING, _LONGEST_ID = 0.6, 80
_EXPECTED = "An interaction file has one line per user and item"
_EVEN = 0.6
_NEARLY_ALL, _MOST, _MANY = 0.95, 0.5, 0.4
_ID = re.compile(r"[A-Za-z]{0,12}[-_:]?[0-9][A-Za-z0-9_-]*").fullmatch
_IMPRESSION = re.compile(r"\S+-[01]( \S+-[01])+ ?").fullmatch
_LIST = re.compile(r"\s*[\[({].*,.*[\])}]\s*").fullmatch
_LINES = (
    (re.compile(r"\S+ {2,}[^,]*").fullmatch, "has columns that are aligned by blanks",
     "write one blank between them, e.g. tr -s ' ' < FILE > out.txt"),
    (re.compile(r"[^{,]+ \{\".*\}\s*").fullmatch, "has log lines with JSON",
     "write the JSON alone, one object per line, e.g. sed 's/^[^{]*//' FILE > out.jsonl"),
    (re.compile(r"\S+( [0-9]+:[0-9.]+){2,}\s*").fullmatch, "is in LIBSVM form",
     "write one line per user and item"),
)  # fmt: skip
"""Pattern of a line, what such a file is, what to do."""
SEPARATORS = ("|", ";", ",", " ", "/", "+")


def refuse_lines(name: str, lines: Sequence[str]) -> None:
    """Raise UnreadableInput for lines that no delimiter divides: aligned columns, log lines with JSON, LIBSVM."""
    some = [line for line in lines[:100] if line.strip()]
    if not some or any(by in some[-1] for by in "\t;|"):
        return
    for pattern, what, advice in _LINES:
        if sum(pattern(line) is not None for line in some) > _NEARLY_ALL * len(some) - 1:
            raise UnreadableInput(f"{name} {what}: {advice}")


def refuse_matrix(name: str, records: Sequence[Sequence[str]]) -> None:
    """Raise UnreadableInput if the records are a matrix of users and items. The first one may be its header."""
    if len(records) < 3 or len(records[0]) < _WIDE:
        return
    body = [row for row in records[1:] if len(row) == len(records[0])]
    cells = [cell for row in body for cell in row[1:]]
    if not cells or not _nearly_all(cell.strip() == "" or number(cell.strip()) is not None for cell in cells):
        return
    head = [cell.strip() for cell in records[0][1:]]
    ids = len(set(head)) == len(head) and (
        sum(number(cell) is None for cell in head) == len(head) or _ascends(head) or _is_unlike(head, cells)
    )
    values = Counter(cell.strip() for cell in cells)
    few = len(values) <= max(25, len(cells) / 20)
    is_named = ids and (few or values[""] > _MANY * len(cells))
    is_unnamed = len(records[0]) >= _WIDE_UNNAMED and few
    timed = any(unit_of([row[at] for row in body]) for at in range(1, len(head) + 1) if body[0][at].strip())
    if (is_named or is_unnamed) and not timed:
        raise UnreadableInput(
            f"{name} looks like a matrix: a row per user and {len(head)} columns, one per item. {_EXPECTED}: unpivot "
            "it, e.g. in DuckDB: copy (unpivot 'FILE' on columns(* exclude (USER_COLUMN)) into name item value rating) "
            "to 'out.csv'"
        )


def refuse_adjacency(name: str, records: Sequence[Sequence[str]], delimiter: str) -> None:
    """Raise UnreadableInput if lines without a header list all items of a user, or the items of a basket."""
    if len(records) < 3:
        return
    widths = Counter(len(record) for record in records)
    ids = [record for record in records if all(_is_id(cell) for cell in record if cell.strip())]
    uneven = widths.most_common(1)[0][1] < (1 - _MANY) * len(records) and max(widths) > 2
    firsts = {record[0] for record in records}
    if uneven and len(ids) >= _NEARLY_ALL * len(records) and len(firsts) >= _NEARLY_ALL * len(records):
        raise UnreadableInput(_adjacency(name, records, delimiter))
    cells = [cell for record in records for cell in record]
    recurring = len(set(cells)) <= _RECURRING * len(cells) and max(map(len, cells)) <= _LONGEST_ID
    if uneven and recurring and (delimiter != " " or len(ids) >= _NEARLY_ALL * len(records)):
        raise UnreadableInput(
            f"{name} looks like a basket list: the lines have {min(widths)} to {max(widths)} fields. {_EXPECTED}: "
            "write each basket as lines with its number and one item"
        )
    if len(widths) == 1 and max(widths) >= 4 and len(firsts) == len(records) and _one_pool(records):
        raise UnreadableInput(_adjacency(name, records, delimiter))


def refuse_prose(name: str, records: Sequence[Sequence[str]], even: float) -> None:
    """Raise UnreadableInput if too few records, the share `even`, have the same number of fields."""
    if even < _EVEN:
        widths = {len(record) for record in records}
        raise UnreadableInput(
            f"{name} is no table: its lines have {min(widths)} to {max(widths)} fields with any delimiter. {_EXPECTED}"
        )


def refuse_nested(name: str, names: Sequence[str], nested: dict[str, str], roles: dict[str, int]) -> None:
    """Raise UnreadableInput if a column with a role holds lists or structs; `nested` has the types of such columns."""
    for role, at in roles.items():
        if kind := nested.get(names[at]):
            advice = "write its field as a column of its own"
            if not kind.startswith("struct"):
                advice = "write one row for each of its values, e.g. with unnest() in SQL or explode() in a data frame"
            raise UnreadableInput(
                f"{name}: column {names[at]!r} (columns.{role}) has the type {kind}, no single value: {advice}"
            )


def refuse_lists(name: str, names: Sequence[str], rows: Sequence[Sequence[str]], roles: dict[str, int]) -> None:
    """Raise UnreadableInput if the cells of a column hold impressions, or those of the item column several items."""
    for at, column in enumerate(names):
        cells = [row[at] for row in rows if row[at].strip()]
        if cells and sum(_IMPRESSION(cell) is not None for cell in cells) > _MOST * len(cells):
            raise UnreadableInput(
                f"{name} looks like a log of impressions: the cells of {column!r} list items and whether they were "
                f"clicked, e.g. {cells[0][:40]!r}. Write one line per user and clicked item"
            )
    at = roles.get("item", -1)
    if at >= 0 and (by := separator_of([row[at] for row in rows])):
        raise UnreadableInput(
            f"{name} looks like a basket list: a cell of {names[at]!r} holds several items, e.g. "
            f"{_example(rows, at, by)!r}. {_EXPECTED}. To read this one, write a data set's TOML with explode = {by!r} "
            "in [source], and the columns of user and item in [columns]: then each item is a row"
        )


def separator_of(cells: Sequence[str]) -> str:
    """What separates the items in cells that hold several; empty if they hold one."""
    cells = [cell for cell in cells if cell.strip()]
    if len(cells) < 3:
        return ""
    if sum(_LIST(cell) is not None for cell in cells) > _MOST * len(cells):
        return ","
    for by in SEPARATORS:
        if sum(by in cell.strip() for cell in cells) < _MOST * len(cells):
            continue
        parts = [part.strip() for cell in cells for part in cell.split(by)]
        recurring = len(set(parts)) <= _RECURRING * len(parts)
        ids = _nearly_all(_ID(part) is not None for part in parts)
        if (ids and (recurring or by != " ")) or (recurring and by in "|;," and not unit_of(list(cells))):
            return by
    return ""


def _adjacency(name: str, records: Sequence[Sequence[str]], delimiter: str) -> str:
    return (
        f"{name} looks like an adjacency list: each line has a user, then all items of that user ({len(records[0])} "
        f"fields in the first line). {_EXPECTED}. To read this one, write a data set's TOML with header = false, "
        f'column_names = ["user", "item"], delimiter = {delimiter!r} and explode = {delimiter!r} in [source]: then '
        "each item is a row"
    )


def _one_pool(records: Sequence[Sequence[str]]) -> bool:
    """Whether all fields but the first are ids of the same pool, different ones in each record."""
    if not all(number(cell) is not None and _is_id(cell) for record in records for cell in record):
        return False
    if any(len(set(record[1:])) < len(record) - 1 for record in records):
        return False
    columns = [set(column) for column in list(zip(*records, strict=True))[1:]]
    others = [set[str]().union(*columns[:at], *columns[at + 1 :]) for at in range(len(columns))]
    return all(len(own & other) >= _MOST * len(own) for own, other in zip(columns, others, strict=True))


def _ascends(head: Sequence[str]) -> bool:
    values = [number(cell) for cell in head]
    return (
        None not in values and values == sorted(v for v in values if v is not None) and len(values) == len(set(values))
    )


def _is_unlike(head: Sequence[str], cells: Sequence[str]) -> bool:
    """Whether names of columns that are numbers are no values of the table."""
    return not set(head) & {cell.strip() for cell in cells}


def _is_id(cell: str) -> bool:
    return _ID(cell.strip()) is not None


def _example(rows: Sequence[Sequence[str]], at: int, by: str) -> str:
    return next(row[at] for row in rows if by in row[at])[:40]


def _nearly_all(fits) -> bool:
    results = list(fits)
    return sum(results) >= _NEARLY_ALL * len(results)
