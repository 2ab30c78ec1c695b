"""Sniffs an interaction file and writes a commented data set TOML for it, for a person to check."""

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing import availability
from pipeline.sources.sniffing.cancellations import cancelled_rows
from pipeline.sources.sniffing.column_doubts import with_distinct_names
from pipeline.sources.sniffing.column_roles import Assigned, assign, fits, is_count_name
from pipeline.sources.sniffing.columns_section import columns_section, quoted
from pipeline.sources.sniffing.documents import refuse_documents
from pipeline.sources.sniffing.events_section import events_section
from pipeline.sources.sniffing.feedback import IMPLICIT, Feedback, feedback_of
from pipeline.sources.sniffing.items import column_of_items, find_catalog
from pipeline.sources.sniffing.preview import Peek, peek
from pipeline.sources.sniffing.shapes import refuse_lists, refuse_nested

ATTRIBUTES = (
    "# [attributes] items = true in a recipe: models read these columns, and items without rows are listed, too."
)
NO_CATALOG = """# No item catalog was found next to the file. With one, the published lists have titles. For example:
# [items]
# files = ["items.csv"]
# id = "item"
# title = "title"
# attributes = { genres = "|" }  # column = separator of its values"""


SHOWN_ROWS = 3
MOST_COLUMNS = 6
"""Columns that are compared with the files next to an interaction file."""
REPEATS = 'repeats = "sum"  # of one user, item and event type: they add up'

ALIKE = "every row weighs 1, except in ials with use_weights = true"
COUNTS = f"the quantities in {{name}} are not read as weights: {ALIKE}; to read them, uncomment repeats = 'sum'"


@dataclass(frozen=True)
class Proposal:
    """What `init` understood of a file."""

    toml: str
    """The TOML of a data set with this file."""
    notes: list[str]
    """What was guessed or looks wrong, for a person to check; one sentence each."""
    guess: list[list[str]] = field(default_factory=list)
    """Names of all columns and their first rows, if user or item was only guessed."""
    positives: str = ""
    """Which rows count as positive, or how much a row counts, where that is a matter of choice."""


def sniff(path: Path) -> str:
    """The TOML of a data set with this file. Raises UnreadableInput if no user and item columns are found."""
    return propose(path).toml


def propose(path: Path, name: str = "") -> Proposal:
    """The data set of a file, with notes for a person; without a `name` it has the file's.

    Raises UnreadableInput if no user and item columns are found.
    """
    if not path.is_file():
        raise UnreadableInput(f"{path} does not exist or is not a file")
    table = peek(path)
    assigned = _assigned(path, table)
    roles = assigned.roles
    refuse_documents(path.name, table, roles)
    if not table.rows or not {"user", "item"} <= roles.keys():
        raise UnreadableInput(
            f"{path}: no lines with both a user and an item were found in the first {len(table.rows):,} rows; "
            "an interaction file has one line per user and item"
        )
    refuse_nested(path.name, table.names, table.nested, roles)
    refuse_lists(path.name, table.names, table.rows, roles)
    table = with_distinct_names(table, roles, path.name)
    counted = _counted(table, assigned)
    events = events_section(path, table, {at for at in roles.values() if at != counted})
    if events and events.quantity:
        assigned, roles = _without_rating(assigned, table.names.index(events.quantity))
    columns, notes = columns_section(table, assigned, events.quantity if events else None)
    feedback = _feedback(table, assigned, has_events=events is not None)
    lines = [
        f"# Sniffed from the first lines of {path.name!r}; check it before you use it.",
        f"name = {quoted(as_name(name or file_name(path)))}",
        'description = ""',
        "",
        "[source]",
        f"files = [{quoted(glob.escape(path.name))}]  # globs, relative to this file or to --data",
        *_lines(table.reading),
        "",
        "[columns]",
        *columns,
        "",
        "[feedback]",
        *feedback.lines,
    ]
    if not events and (cancelled := cancelled_rows(table, set(roles.values()))):
        notes.append(cancelled[0])
        lines += [f"# {cancelled[0]}:", f"# keep_if = {quoted(cancelled[1])}"]
    if events:
        lines += [REPEATS, "", *events.lines]
        notes += events.notes
    found = find_catalog(path, table.names[roles["item"]], set(table.column(roles["item"])))
    if catalog := found.catalog:
        items = {"files": [glob.escape(catalog.file.name)], **catalog.settings()}
        lines += ["", f"[items]  # {catalog.file.name!r} lists the items", *_lines(items)]
        lines.append(ATTRIBUTES)
        if rule := catalog.rule():
            lines += availability.comment(rule)
    else:
        lines += ["", NO_CATALOG]
    layout = [*table.notes, *found.notes]
    lines[1:1] = [f"# Check: {note}" for note in layout]
    guess = [table.names, *table.rows[:SHOWN_ROWS]] if assigned.guessed else []
    return Proposal("\n".join(lines) + "\n", [*layout, *notes, *feedback.notes], guess, feedback.positives)


def _assigned(path: Path, table: Peek) -> Assigned:
    """The roles of the columns. Where the item is a guess, a catalog next to the file says which column it is."""
    names = table.names if table.has_names else [""] * len(table.names)
    assigned = assign(names, table.rows)
    item = assigned.roles.get("item", -1)
    if not assigned.guessed or item < 0 or fits(names[item], "item"):
        return assigned
    taken = {assigned.roles.get("rating"), assigned.roles.get("timestamp"), *(assigned.kinds.keys() - {item})}
    among = [at for at in range(len(names)) if at not in taken]
    known = column_of_items(path, table, among[:MOST_COLUMNS])
    return assigned if known in (None, item) else assign(names, table.rows, known)


def _counted(table: Peek, assigned: Assigned) -> int | None:
    """The column of the rating, if it counts something: with event types it is the quantity of an event."""
    at = assigned.roles.get("rating")
    return at if at is not None and is_count_name(table.names[at]) else None


def _without_rating(assigned: Assigned, column: int) -> tuple[Assigned, dict[str, int]]:
    """The same without a rating in this column, and its roles."""
    unread = None if assigned.unread_rating == column else assigned.unread_rating
    if assigned.roles.get("rating") != column:
        return replace(assigned, unread_rating=unread), assigned.roles
    roles = {role: at for role, at in assigned.roles.items() if role != "rating"}
    return replace(assigned, roles=roles, spelling=None, unread_rating=unread), roles


def _feedback(table: Peek, assigned: Assigned, has_events: bool) -> Feedback:
    if not (spelling := assigned.spelling):
        return feedback_of([])
    name = table.names[assigned.roles["rating"]]
    is_rating = "rating_of" in spelling.settings or (table.has_names and fits(name, "rating"))
    values = spelling.numbers(table.column(assigned.roles["rating"]))
    found = feedback_of(values, is_count_name(name), is_rating and not is_count_name(name))
    if has_events or found.lines[0] != IMPLICIT or max(values, default=0) <= 1:
        return found
    lines = [*found.lines, f'# repeats = "sum"  # reads the quantities in {quoted(name)}; without it, {ALIKE}']
    return replace(found, lines=lines, positives=COUNTS.format(name=quoted(name)))


def _lines(settings: Mapping[str, object]) -> list[str]:
    """The keys of one TOML table, one line each."""
    guessed = {"column_names": "  # guessed: the file has no header"}
    return [f"{key} = {_toml(value)}{guessed.get(key, '')}" for key, value in settings.items()]


def _toml(value: object) -> str:
    if isinstance(value, dict):
        keys = (key if re.fullmatch("[A-Za-z0-9_-]+", key) else quoted(key) for key in value)
        return "{ " + ", ".join(f"{key} = {quoted(by)}" for key, by in zip(keys, value.values(), strict=True)) + " }"
    return quoted(value)


def file_name(path: Path) -> str:
    """A file's name without its suffixes: `plays` of `plays.csv.gz`."""
    return path.stem if path.name.startswith(".") else path.name.split(".")[0]


def as_name(text: str) -> str:
    """A text as the name of a data set: other characters than letters, digits, _ and - are replaced."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).lstrip("-_")[:64] or "dataset"
