"""Sniffs an interaction file and writes a commented data set TOML for it, for a person to check."""

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing import availability
from pipeline.sources.sniffing.column_roles import Assigned, assign, fits, is_count_name
from pipeline.sources.sniffing.columns_section import columns_section, quoted
from pipeline.sources.sniffing.feedback import Feedback, feedback_of
from pipeline.sources.sniffing.items import find_catalog
from pipeline.sources.sniffing.preview import Peek, peek

NO_CATALOG = """# No item catalog was found next to the file. With one, the published lists have titles. For example:
# [items]
# files = ["items.csv"]
# id = "item"
# title = "title"
# attributes = { genres = "|" }  # column = separator of its values"""


SHOWN_ROWS = 3


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
    """Which rows count as positive, where that is a matter of choice."""


def sniff(path: Path) -> str:
    """The TOML of a data set with this file. Raises UnreadableInput if no user and item columns are found."""
    return propose(path).toml


def propose(path: Path) -> Proposal:
    """The data set of a file, with notes for a person. Raises UnreadableInput if no user and item columns are found."""
    if not path.is_file():
        raise UnreadableInput(f"{path} does not exist or is not a file")
    table = peek(path)
    has_header = table.reading.get("header", True)
    assigned = assign(table.names if has_header else [""] * len(table.names), table.rows)
    roles = assigned.roles
    if not table.rows or not {"user", "item"} <= roles.keys():
        raise UnreadableInput(
            f"{path}: no lines with both a user and an item were found in the first {len(table.rows):,} rows; "
            "an interaction file has one line per user and item"
        )
    columns, notes = columns_section(table, assigned)
    feedback = _feedback(table, assigned)
    lines = [
        f"# Sniffed from the first lines of {path.name!r}; check it before you use it.",
        f"name = {quoted(_name(path))}",
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
    found = find_catalog(path, table.names[roles["item"]], set(table.column(roles["item"])))
    if catalog := found.catalog:
        items = {"files": [glob.escape(catalog.file.name)], **catalog.settings()}
        lines += ["", f"[items]  # {catalog.file.name!r} lists the items", *_lines(items)]
        if rule := catalog.exclude_where():
            lines += availability.comment(rule)
    else:
        lines += ["", NO_CATALOG]
    layout = [*table.notes, *found.notes]
    lines[1:1] = [f"# Check: {note}" for note in layout]
    guess = [table.names, *table.rows[:SHOWN_ROWS]] if assigned.guessed else []
    return Proposal("\n".join(lines) + "\n", [*layout, *notes, *feedback.notes], guess, feedback.positives)


def _feedback(table: Peek, assigned: Assigned) -> Feedback:
    if not (spelling := assigned.spelling):
        return feedback_of([])
    name = table.names[assigned.roles["rating"]]
    is_rating = "rating_of" in spelling.settings or (table.reading.get("header", True) and fits(name, "rating"))
    return feedback_of(
        spelling.numbers(table.column(assigned.roles["rating"])),
        is_count_name(name),
        is_rating and not is_count_name(name),
    )


def _lines(settings: dict[str, Any]) -> list[str]:
    """The keys of one TOML table, one line each."""
    guessed = {"column_names": "  # guessed: the file has no header"}
    return [f"{key} = {_toml(value)}{guessed.get(key, '')}" for key, value in settings.items()]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        keys = (key if re.fullmatch("[A-Za-z0-9_-]+", key) else quoted(key) for key in value)
        return "{ " + ", ".join(f"{key} = {quoted(by)}" for key, by in zip(keys, value.values(), strict=True)) + " }"
    return quoted(value)


def _name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0] if not path.name.startswith(".") else path.stem)
    return name.lstrip("-_")[:64] or "dataset"
