"""Output of commands: tables for people, JSON, README tables."""

import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.terminal import as_json, plain, show_line


def show(records: list[dict[str, Any]], options: Namespace) -> None:
    """Print JSON, or a table that is as wide as its content."""
    if options.json:
        print(as_json(records, indent=1))
        return
    if not records:
        print("(no rows)", file=sys.stderr)
        return
    cells = [list(map(_cell, records[0])), *([_cell(v) for v in record.values()] for record in records)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    numeric = [all(isinstance(r[key], int | float) or r[key] is None for r in records) for key in records[0]]
    for row in cells:
        line = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numeric, strict=True))
        show_line("  ".join(line).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else plain(" ".join(str(value).split()))


def replace_block(path: Path, name: str, change: Callable[[str], str]) -> None:
    """Replace the text between `<!-- name -->` and `<!-- /name -->` of a file by what `change` makes of it.

    UnreadableInput if there is no such file (an installed package has none), or no such markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    try:
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(begin)
        block, after = rest.split(end)
    except (OSError, ValueError) as error:
        raise UnreadableInput(f"{path} has no block {begin} … {end} ({error})") from None
    write_atomically(path, f"{before}{begin}\n\n{change(block.strip()).strip()}\n\n{end}{after}")


def this_command() -> str:
    """The shell words that started this program, so that a suggested command can be pasted as it is."""
    started = Path(sys.argv[0])
    if started.name not in ("nightrecs", "nightrecs.exe"):
        return f"{_typed(Path(sys.executable))} -m flows.cli"
    found = shutil.which("nightrecs")
    return "nightrecs" if found and Path(found).resolve() == started.resolve() else _typed(started)


def _typed(path: Path) -> str:
    """`path` as a shell word, relative to the current folder where it is inside it."""
    absolute = path.absolute()  # links are kept: .venv/bin/python resolves to the system's
    inside = absolute.is_relative_to(Path.cwd())
    return shlex.quote(str(absolute.relative_to(Path.cwd()) if inside else absolute))
