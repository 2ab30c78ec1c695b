"""What a person should know of columns with ids: names that occur twice, rows without an id, ids that look alike."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from pipeline.core.errors import UnreadableInput
from pipeline.sources.catalog_ids import SPELLINGS, stands_for_missing
from pipeline.sources.sniffing.cells import filled
from pipeline.sources.sniffing.column_roles import fits
from pipeline.sources.sniffing.id_graph import is_nearly_distinct
from pipeline.sources.sniffing.preview import Peek

_IDS = ("user", "item")
_EXCEL_TEXT = re.compile(r'="[^"]*"').fullmatch
_ROUNDED = re.compile(r"[0-9]([.,][0-9]+)?E\+[0-9]+").fullmatch
"""Long numbers that Excel has rounded."""
_MOSTLY = 0.9
_MANY_ROWS = 100


def with_distinct_names(table: Peek, roles: dict[str, int], name: str) -> Peek:
    """The table with names of its own for columns of a role whose name occurs twice, in place of the header.

    Raises UnreadableInput for a file that has its names in it.
    """
    twins = {table.names[at] for at in roles.values() if table.names.count(table.names[at]) > 1}
    if not twins:
        return table
    shown = " and ".join(repr(twin) for twin in sorted(twins))
    if not table.has_layout:
        raise UnreadableInput(f"{name}: two columns are named {shown}; rename one of them")
    names = list[str]()
    for column in table.names:
        number = 2
        new = column
        while column in twins and new in names:
            new, number = f"{column}_{number}", number + 1
        names.append(new)
    reading = {**table.reading, "header": False, "column_names": names, "skip_lines": table.header_end}
    note = f"two columns are named {shown}: column_names tells them apart; check which of them is meant"
    return replace(table, names=names, reading=reading, notes=[*table.notes, note])


def column_doubts(table: Peek, roles: dict[str, int]) -> list[str]:
    """One sentence per doubt."""
    notes = [*_repeated_names(table, roles), *(note for role in _IDS for note in _of_ids(table, roles[role], role))]
    return [*notes, *(note for role in _IDS for note in _hardly_recurs(table, roles[role], role))]


def _hardly_recurs(table: Peek, at: int, role: str) -> Iterator[str]:
    """A column that only its values made a user or an item, although hardly one of them occurs twice."""
    column, name = table.column(at), table.names[at]
    if table.has_names and len(column) >= _MANY_ROWS and not fits(name, role) and is_nearly_distinct(column):
        yield (
            f"hardly a value of {name!r} occurs twice in the first {len(column):,} rows, as of numbers of orders or of "
            f"rows: of {role}s with one row each nothing is learnt. Check columns.{role}"
        )


def _repeated_names(table: Peek, roles: dict[str, int]) -> Iterator[str]:
    """Columns that have one name, but for upper and lower case."""
    alike = defaultdict[str, list[int]](list)
    for at, name in enumerate(table.names):
        alike[name.casefold()].append(at)
    for places in alike.values():
        names = dict.fromkeys(table.names[at] for at in places)
        shown = " and ".join(map(repr, names))
        read = [f"{role} = {table.names[at]!r}" for role, at in roles.items() if at in places]
        if len(names) > 1:
            reads = f"; check {' and '.join(read)}" if read else ""
            yield f"the columns {shown} differ only in upper and lower case{reads}"
        elif len(places) > 1 and shown != "''":
            yield f"{len(places)} columns are named {shown}: no setting can name one of them"


def _of_ids(table: Peek, at: int, role: str) -> Iterator[str]:
    column, name = table.column(at), table.names[at]
    rows = len(column)
    if empty := sum(not cell for cell in column):
        lack = "lines lack the key" if table.kinds else "rows have no value in"
        yield f"{empty:,} of {rows:,} {lack} {name!r}{_instead(table, at)}; the night rejects them as empty_{role}"
    if wrong := table.undecoded.get(name, 0):
        yield (
            f"{wrong:,} of {rows:,} values of {name!r} are bytes that are no UTF-8; the night rejects them as "
            "bad_encoding: write ids as text, e.g. in hexadecimal"
        )
    kinds = table.kinds.get(name, set())
    if nested := kinds & {"list", "object"}:
        yield f"{name!r} is a {' or a '.join(sorted(nested))} in some lines; the night rejects them as nested_value"
    if len(single := kinds - nested) > 1:
        types = f"{', '.join(sorted(single))}"
        yield f"{name!r} has values of several types ({types}): 1, 1.0 and \"1\" are the ids '1', '1.0' and '1'"
    yield from _spellings(filled(column), name)


def _instead(table: Peek, at: int) -> str:
    """The column that most of the rows without a value have instead."""
    lacking = [row for row in table.rows if not row[at]]
    having = [row for row in table.rows if row[at]]
    for other, name in enumerate(table.names):
        has_it = sum(bool(row[other]) for row in lacking) >= _MOSTLY * len(lacking)
        if other != at and has_it and sum(bool(row[other]) for row in having) <= (1 - _MOSTLY) * len(having):
            return f" (most of them have {name!r} instead)"
    return ""


def _spellings(cells: list[str], name: str) -> Iterator[str]:
    """Ids that a person may take for the same, or for none."""
    ids = Counter(cells)
    for difference, plain in SPELLINGS.items():
        if pairs := list(_alike(ids, plain)):
            yield (
                f"{len(pairs):,} ids of {name!r} differ from others only in {difference}, e.g. {pairs[0][0]!r} and "
                f"{pairs[0][1]!r}: they are read as different ids"
            )
            break
    blank = [cell for cell in ids if cell != cell.strip()]
    if len(blank) > 0.5 * len(ids):
        yield f"most ids of {name!r} have blanks around them, e.g. {blank[0]!r}: they are part of the ids"
    if words := [cell for cell in ids if stands_for_missing(cell)]:
        rows = sum(ids[word] for word in words)
        yield (
            f"{rows:,} of {len(cells):,} ids of {name!r} are {', '.join(map(repr, words[:3]))}, which look like a "
            "missing value but are read as ids. If they are none, leave these rows out with keep_if in [feedback]"
        )
    if rounded := [cell for cell in ids if _ROUNDED(cell)]:
        yield (
            f"ids of {name!r} such as {rounded[0]!r} are long numbers that a spreadsheet has rounded: different ids "
            "are one now. Export the column as text"
        )
    if marked := [cell for cell in ids if _EXCEL_TEXT(cell)]:
        yield f"ids of {name!r} such as {marked[0]!r} are written for Excel: the marks are part of the ids"


def _alike(ids: Iterable[str], plain: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Pairs of ids that are one when they are spelt plainly."""
    first: dict[str, str] = {}
    for one in ids:
        key = plain(one)
        if key in first:
            yield first[key], one
        else:
            first[key] = one
