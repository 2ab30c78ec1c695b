"""What a query gave, as CSV, JSON lines or Parquet; CSV is safe to open in a spreadsheet."""

import sys
from pathlib import Path

import polars as pl

from pipeline.contracts import UnreadableInput

FORMATS = ("csv", "jsonl", "parquet")
FORMULA = r"^[\s\x00-\x20\u{feff}]*[=+\-@＝＋－＠]|^[\t\r\n]"
"""Text that a spreadsheet would run (OWASP, "CSV injection"), after blanks too, and with the full-width forms that some
take for the plain ones; numbers are no text."""


def guarded(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would take for a formula; lists as JSON."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    frame = frame.with_columns(frame[name].map_elements(_as_json, return_dtype=pl.String) for name in nested)
    text = pl.col(pl.String)
    return frame.with_columns(text.str.replace(FORMULA, "'${0}"))


def write(frame: pl.DataFrame, form: str | None, output: str | None) -> None:
    """To a file, by its ending where no format is given, else to stdout. UnreadableInput says what is wrong."""
    form = form or Path(output or "").suffix.lstrip(".").lower()
    if form not in FORMATS:
        raise UnreadableInput(f"--output {output}: its ending says no format; there are: {', '.join(FORMATS)}")
    if output is None and form == "parquet":
        raise UnreadableInput("Parquet is not for a terminal: name a file, --output FILE.parquet")
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
