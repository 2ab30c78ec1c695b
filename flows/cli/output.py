"""Output of commands: tables for people, CSV that is safe in a spreadsheet, JSON lines, Parquet, README tables."""

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.terminal import as_json, plain, show_line

FORMATS = ("csv", "jsonl", "parquet")
FORMULA = r"^[\s\x00-\x20\u{feff}]*[=+\-@＝＋－＠]|^[\t\r\n]"
"""Text that a spreadsheet would run as a formula (OWASP, "CSV injection"): also after blanks, and with the full-width
forms that some spreadsheets accept. Numbers are not text."""


def guarded(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe in front of every text that looks like a formula; lists as JSON."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    frame = frame.with_columns(frame[name].map_elements(_as_json, return_dtype=pl.String) for name in nested)
    text = pl.col(pl.String)
    return frame.with_columns(text.str.replace(FORMULA, "'${0}"))


def write(frame: pl.DataFrame, form: str | None, output: str | None) -> None:
    """Write to a file or stdout. `form`: one of FORMATS; None: by the ending of `output`. Raises UnreadableInput."""
    form = form or Path(output or "").suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise UnreadableInput(f"--output {output}: unknown ending; there are: {', '.join(FORMATS)}")
    if output is None and form == "parquet":
        raise UnreadableInput("Parquet is not for a terminal; use --output FILE.parquet")
    try:
        target = Path(output) if output else sys.stdout.buffer
        match form:
            case "csv":
                guarded(frame).write_csv(target)
            case "jsonl":
                frame.write_ndjson(target)
            case _:
                frame.write_parquet(target)
    except OSError as error:
        raise UnreadableInput(f"can't write {output}: {error.strerror or error}") from None


def _as_json(value: pl.Series) -> str:
    import json

    return json.dumps(value.to_list() if isinstance(value, pl.Series) else value, default=str, ensure_ascii=False)


def show(data: pl.DataFrame | list[dict[str, Any]], options: Any) -> None:
    """Print JSON, or a table that is as wide as its content."""
    records = data.to_dicts() if isinstance(data, pl.DataFrame) else data
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
