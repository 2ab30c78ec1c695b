"""Results of queries as files: CSV that is safe in a spreadsheet, JSON lines, Parquet."""

import json
import sys
from pathlib import Path

import polars as pl

from pipeline.core.errors import UnreadableInput

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
    return json.dumps(value.to_list() if isinstance(value, pl.Series) else value, default=str, ensure_ascii=False)
