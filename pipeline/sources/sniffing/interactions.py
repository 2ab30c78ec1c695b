"""Sniffs an interaction file and writes a commented data set TOML for it, for a person to check."""

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UnreadableInput
from pipeline.sources.sniffing.column_roles import ambiguous_with, looks_like_time, number, roles_of
from pipeline.sources.sniffing.items import find_catalog
from pipeline.sources.sniffing.preview import Peek, peek
from pipeline.sources.sniffing.shapes import refuse_lists, refuse_nested

NO_CATALOG = """# No item catalog was found next to the file. With one, the published lists have titles. For example:
# [items]
# files = ["items.csv"]
# id = "item"
# title = "title"
# attributes = { genres = "|" }  # column = separator of its values"""


@dataclass(frozen=True)
class Proposal:
    """What `init` understood of a file."""

    toml: str
    """The TOML of a data set with this file."""
    notes: list[str]
    """What was guessed or looks wrong, for a person to check; one sentence each."""


def sniff(path: Path) -> str:
    """The TOML of a data set with this file. Raises UnreadableInput if no user and item columns are found."""
    return propose(path).toml


def propose(path: Path) -> Proposal:
    """The data set of a file, with notes for a person. Raises UnreadableInput if no user and item columns are found."""
    if not path.is_file():
        raise UnreadableInput(f"{path} does not exist or is not a file")
    table = peek(path)
    unit, roles = roles_of(table.names, table.rows)
    if not table.rows or not {"user", "item"} <= roles.keys():
        raise UnreadableInput(
            f"{path}: no lines with both a user and an item were found in the first {len(table.rows):,} rows; "
            "an interaction file has one line per user and item"
        )
    refuse_nested(path.name, table.names, table.nested, roles)
    refuse_lists(path.name, table.names, table.rows, roles)
    texts = table.column(roles["rating"]) if "rating" in roles else []
    ratings = sorted({value for text in texts if (value := number(text)) is not None})
    lines = [
        f"# Sniffed from the first lines of {path.name!r}; check it before you use it.",
        f"name = {_quoted(_name(path))}",
        'description = ""',
        "",
        "[source]",
        f"files = [{_quoted(glob.escape(path.name))}]  # globs, relative to this file or to --data",
        *_lines(table.reading),
        "",
        "[columns]",
        f"# columns of the file: {', '.join(map(_quoted, table.names))}",
    ]
    lines += [f"{role} = {_quoted(table.names[at])}{_example(table, at)}" for role, at in roles.items()]
    if "timestamp" in roles:
        lines.append(f"timestamp_unit = {_quoted(unit)}  # s, ms, us, ns, iso or a strptime format")
        if other := ambiguous_with(table.column(roles["timestamp"]), unit):
            lines.append(f"# day and month are ambiguous: {_quoted(other)} reads these times too; choose the right one")
    else:
        lines += _unread_times(table, set(roles.values()))
    explicit = bool(ratings) and len(ratings) <= 20 and ratings[-1] <= 100
    lines += ["", "[feedback]", f'kind = "{"explicit" if explicit else "implicit"}"']
    if len(ratings) > 1 and ratings[0] == -1 and ratings[1] >= 0:
        lines.append("missing_ratings = [-1]  # means 'seen, not rated'")
    if explicit:
        lines.append(f'# positive_if = "rating >= {ratings[-1] * 0.8:g}"  # without it, every row counts as positive')
    found = find_catalog(path, table.names[roles["item"]], set(table.column(roles["item"])))
    if catalog := found.catalog:
        items = {"files": [glob.escape(catalog.file.name)], **catalog.settings()}
        lines += ["", f"[items]  # {catalog.file.name!r} lists the items", *_lines(items)]
    else:
        lines += ["", NO_CATALOG]
    notes = [*table.notes, *found.notes]
    lines[1:1] = [f"# Check: {note}" for note in notes]
    return Proposal("\n".join(lines) + "\n", notes)


def _unread_times(table: Peek, taken: set[int]) -> list[str]:
    """Comments on columns that look like times in no known format: without times the split is random."""
    unread = (
        at for at in range(len(table.names)) if at not in taken and looks_like_time(table.names[at], table.column(at))
    )
    return [
        line
        for at in unread
        for line in (
            f"# {_quoted(table.names[at])} looks like a time, but no known format reads it{_example(table, at)}.",
            "# Set timestamp to it, and timestamp_unit to its strptime format; without times, the split is random.",
        )
    ]


def _lines(settings: dict[str, Any]) -> list[str]:
    """The keys of one TOML table, one line each."""
    guessed = {"column_names": "  # guessed: the file has no header"}
    return [f"{key} = {_toml(value)}{guessed.get(key, '')}" for key, value in settings.items()]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        keys = (key if re.fullmatch("[A-Za-z0-9_-]+", key) else _quoted(key) for key in value)
        return "{ " + ", ".join(f"{key} = {_quoted(by)}" for key, by in zip(keys, value.values(), strict=True)) + " }"
    return _quoted(value)


def _name(path: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0] if not path.name.startswith(".") else path.stem)
    return name.lstrip("-_")[:64] or "dataset"


def _example(table: Peek, at: int) -> str:
    return f"  # e.g. {table.rows[0][at][:40]!r}" if table.rows else ""


def _quoted(value: Any) -> str:
    """A TOML string or list: JSON, with DEL escaped, which TOML requires."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
