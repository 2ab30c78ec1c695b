"""Writes `[columns]` for an unknown file, with comments and notes for a person to check."""

import json

from pipeline.sources.sniffing import times
from pipeline.sources.sniffing.cells import filled, is_numeric
from pipeline.sources.sniffing.column_doubts import column_doubts
from pipeline.sources.sniffing.column_kinds import Kind
from pipeline.sources.sniffing.column_roles import Assigned, is_count_name, is_id_or_time
from pipeline.sources.sniffing.number_spellings import unread as unread_numbers
from pipeline.sources.sniffing.preview import Peek

_UNUSED = (
    Kind.CATEGORY, Kind.PRICE, Kind.LATITUDE, Kind.LONGITUDE, Kind.ITEM_ATTRIBUTE, Kind.USER_ATTRIBUTE,
)  # fmt: skip
"""Kinds that a person might look for among the roles."""
_COUNT, _NUMBER = "count", "number"


def columns_section(table: Peek, assigned: Assigned, quantity: str | None = None) -> tuple[list[str], list[str]]:
    """Lines of TOML below `[columns]`, and notes; each note is in a comment, too.

    `quantity`: a column that `[events]` reads.
    """
    roles = assigned.roles
    lines, notes = [f"# columns of the file: {', '.join(map(quoted, table.names))}"], list[str]()
    if assigned.guessed:
        notes.append("the columns were guessed from their values and their order; check them with the first rows")
        lines.append(f"# {notes[-1]}")
    if unused := _unused(table, assigned, quantity):
        lines.append(f"# not used: {', '.join(f'{quoted(table.names[at])} ({kind})' for at, kind in unused)}")
    doubts = column_doubts(table, roles)
    notes += doubts
    lines += [f"# {doubt}" for doubt in doubts]
    for role, at in roles.items():
        lines.append(f"{role} = {quoted(table.names[at])}{_example(table, at)}")
        if role == "rating":
            written, found = _rating(table, assigned)
            lines += written
            notes += found
    written, found = _times(table, assigned)
    lines += written
    notes += found
    if flags := [quoted(table.names[at]) for at in assigned.flags]:
        notes.append(
            f"{', '.join(flags)} {'has' if len(flags) == 1 else 'have'} two values, as yes and no. If no means "
            f"not liked, set rating = {flags[0]} and, in [feedback], positive_if = 'rating > 0'"
        )
        lines.append(f"# {notes[-1]}")
    if (at := assigned.unread_rating) is not None:
        notes.append(f"{quoted(table.names[at])} is named like a rating, but {_why_unread(table, at)}")
        lines.append(f"# {notes[-1]}.")
    return lines, notes


def _why_unread(table: Peek, at: int) -> str:
    """Why a column that is named like a rating is none, and what would make it one."""
    column = table.column(at)
    empty = sum(not cell.strip() for cell in column)
    if empty > 0.5 * len(column):
        return (
            f"{empty:,} of {len(column):,} rows have none, so it is not used. To use it, set rating to it, "
            'rating_values = { "" = -1 } and, in [feedback], missing_ratings = [-1]: rows without a rating are kept'
        )
    return (
        f"has no numbers that are known, e.g. {_first(table, at)!r}. Set rating to it, and rating_values to what its "
        "texts count as"
    )


def _unused(table: Peek, assigned: Assigned, quantity: str | None) -> list[tuple[int, str]]:
    """Columns that no setting reads and a person might look for, with what they are; counts and numbers among them."""
    found: dict[int, str] = {at: str(kind) for at, kind in assigned.kinds.items() if kind in _UNUSED}
    taken = {*assigned.roles.values(), *assigned.kinds, *assigned.flags, assigned.unread_rating}
    for at, name in enumerate(table.names):
        cells = filled(table.column(at))
        if at in taken or name == quantity or not table.has_names or not cells or times.is_time_name(name):
            continue
        if is_numeric(cells) and not is_id_or_time(name) and times.unit_of(cells) is None:
            found[at] = _COUNT if is_count_name(name) else _NUMBER
    return sorted(found.items())


def _rating(table: Peek, assigned: Assigned) -> tuple[list[str], list[str]]:
    """How the ratings are written, and which of them are not read."""
    spelling, at = assigned.spelling, assigned.roles["rating"]
    assert spelling
    settings = dict(spelling.settings)
    if "timestamp" in assigned.roles and times.has_decimal_commas(table.column(assigned.roles["timestamp"])):
        settings.setdefault("decimal", ",")
    lines = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    notes = [f"{quoted(table.names[at])}: {note}" for note in spelling.notes]
    if sentence := unread_numbers(table.column(at), spelling):
        notes.append(f"{quoted(table.names[at])}: {sentence}")
    if any(not cell.strip() for cell in table.column(at)):
        lines.append(
            '# rating_values = { "" = -1 }  # with missing_ratings = [-1] below: rows without a rating are kept'
        )
    return lines + [f"# {note}" for note in notes], notes


def _times(table: Peek, assigned: Assigned) -> tuple[list[str], list[str]]:
    """The unit of the times, and what of them is ambiguous or not read."""
    if "timestamp" not in assigned.roles:
        attributes = {at for at in assigned.kinds if times.unit_of(table.column(at))}  # as the release date of a film
        return _unread_columns(table, {*assigned.roles.values(), *attributes})
    at = assigned.roles["timestamp"]
    column, unit, name = table.column(at), assigned.unit or "s", quoted(table.names[at])
    lines, notes = [f"timestamp_unit = {quoted(unit)}  # s, ms, us, ns, iso or a strptime format"], list[str]()
    if "rating" not in assigned.roles and times.has_decimal_commas(column):
        lines.append('decimal = ","')
    if other := times.ambiguous_with(column, unit):
        notes.append(f"day and month are ambiguous: {quoted(other)} reads these times too; choose the right one")
    if empty := sum(not cell.strip() for cell in column):
        notes.append(f"{name}: {empty:,} of {len(column):,} times are empty; the night rejects these rows")
    if rest := times.unread(column, unit):
        reads = f"{quoted(rest.other)} reads most of them" if rest.other else "no known format reads them"
        notes.append(
            f"{name} has mixed formats: {rest.rows:,} of {len(column):,} times are not read by {quoted(unit)}, e.g. "
            f"{rest.example[:40]!r}; {reads}. The night rejects these rows: write the times in one format"
        )
    return lines + [f"# {note}" for note in notes], notes


def _unread_columns(table: Peek, taken: set[int]) -> tuple[list[str], list[str]]:
    """Columns that look like times in no known format, or in several: without times, the split is random."""
    lines, notes = list[str](), list[str]()
    for at in range(len(table.names)):
        column, name = table.column(at), quoted(table.names[at])
        if at in taken:
            continue
        units = times.units_of(column)
        if len(units) > 1:
            notes.append(
                f"{name} has times in mixed formats: {', '.join(map(quoted, units))}. Write them in one format"
            )
        elif times.looks_like_time(table.names[at], column):
            notes.append(f"{name} looks like a time, but no known format reads it{_example(table, at)}")
        else:
            continue
        lines.append(f"# {notes[-1]}.")
        advice = "Set timestamp to it, and timestamp_unit to its strptime format; without times, the split is random"
        lines.append(f"# {advice}.")
        notes[-1] = f"{notes[-1].replace('  # e.g.', ', e.g.')}. {advice}"
    return lines, notes


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{quoted(text)} = {number:g}" for text, number in value.items()) + " }"
    return quoted(value)


def _first(table: Peek, at: int) -> str:
    return next((cell for cell in table.column(at) if cell.strip()), "")[:40]


def _example(table: Peek, at: int) -> str:
    return f"  # e.g. {table.rows[0][at][:40]!r}" if table.rows else ""


def quoted(value: object) -> str:
    """A TOML string or list: JSON, with DEL escaped, which TOML requires."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
