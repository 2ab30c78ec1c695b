"""Reads one source file by a strict DuckDB statement, and line by line in Python only where that stumbles."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import reading, sources, warehouse
from pipeline.contracts import Reason, UnreadableInput
from pipeline.layout import Layout, find_column, read_layout
from pipeline.parts import BIG_BATCH, INTERACTIONS, PartWriter, write_rows
from pipeline.settings import Columns, Dataset
from pipeline.values import SCALES, Rejected, clock, row_reader
from pipeline.warehouse import Connection

_PLAIN_FORMAT = re.compile(r"(%[YmdHMS]|[^%A-Za-z0-9])+").fullmatch
"""Formats that DuckDB and Python are known to read alike."""
_ROLES = ("user", "item", "rating", "timestamp")


@dataclass(frozen=True)
class FileResult:
    """What reading a file gave."""

    ledger: dict[str, int]
    rescanned: str | None
    """Why it was read line by line; None where the fast way did."""


def wanted_columns(columns: Columns) -> dict[str, str]:
    """Role to the name of the source's column, those that are configured."""
    return {role: name for role in _ROLES if (name := getattr(columns, role))}


def read_file(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool = False) -> FileResult:
    """Write the rows and rejects of `path` into the folder `into`. `exact` reads line by line in any case.

    Raises UnreadableInput where the file is broken as a whole or lacks a column.
    """
    clock(dataset.columns.timestamp_unit)  # a wrong unit is an error before anything is read
    if path.suffix == ".parquet":
        return _read_parquet(con, path, name, dataset, into, exact)
    plain, copy = into / ".plain", into / ".copy"
    try:
        return _read_text(con, path, name, dataset, into, exact)
    finally:
        plain.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def _read_text(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    plain = sources.unpack(path, into / ".plain")
    layout = read_layout(plain, name, dataset.source, wanted_columns(dataset.columns))
    if layout is None:
        return _rescan_text(plain, None, name, dataset, into, "an empty file")
    survey = sources.survey(plain, layout)
    if exact or survey.doubts:
        return _rescan_text(plain, layout, name, dataset, into, ", ".join(sorted(survey.doubts)) or "as asked")
    fast = sources.copy_as_utf8(plain, layout, into / ".copy") if survey.needs_copy(layout) else plain
    unit = dataset.columns.timestamp_unit
    numbers = {"rating", *(["timestamp"] if unit in SCALES else [])} if survey.is_plain else set()
    view = _text_view(fast, layout, numbers)
    failure = _read_fast(con, view, dataset, unit, into, survey.is_plain)
    kept = survey.lines - layout.header
    if failure is None and pq.read_metadata(into / INTERACTIONS).num_rows != kept:
        failure = "a record over several lines"
    if failure:
        return _rescan_text(plain, layout, name, dataset, into, failure)
    with PartWriter(into, name, rows=False):
        return FileResult({Reason.KEPT: kept} if kept else {}, None)


def _rescan_text(plain: Path, layout: Layout | None, name: str, dataset: Dataset, into: Path, why: str) -> FileResult:
    read = row_reader(dataset.columns, dataset.feedback.missing_ratings)
    with PartWriter(into, name) as part:
        if layout:
            reading.rescan(plain, layout, read, part)
    return FileResult(dict(part.ledger), why)


def _read_fast(
    con: Connection, view: str, dataset: Dataset, unit: str, into: Path, is_plain: bool = False
) -> str | None:
    """Write the rows by one statement; what stopped it, or None."""
    kind = "count" if unit in SCALES else unit if unit == "iso" else "format"
    if dataset.columns.timestamp and kind == "format" and not _PLAIN_FORMAT(unit):
        return "a time format of its own"
    con.execute(f"CREATE OR REPLACE TEMP VIEW source_text AS {view}")
    try:
        rows = warehouse.run_sql(
            con, "1_interactions",
            has_rating=dataset.columns.rating is not None,
            missing_ratings=dataset.feedback.missing_ratings,
            clock=kind if dataset.columns.timestamp else "none",
            scale=SCALES.get(unit, 1), is_plain=is_plain,
            format=unit if kind == "format" else "%Y",
        )  # fmt: skip
        assert rows is not None
        write_rows(warehouse.stream(rows, BIG_BATCH), into / INTERACTIONS)
    except warehouse.BadData as error:
        return str(error).splitlines()[0][:200]
    return None


def _text_view(path: Path, layout: Layout, numbers: Collection[str] = ()) -> str:
    """`numbers`: roles that the reader may take for numbers, and needn't keep as text."""
    ids = {layout.positions.get(role) for role in ("user", "item")}
    places = {layout.positions[role] for role in numbers if role in layout.positions} - ids
    kinds = ["DOUBLE" if i in places else "VARCHAR" for i in range(layout.n_fields)]
    names = ", ".join(f"'c{i}': '{kind}'" for i, kind in enumerate(kinds))
    texts = [
        f"c{layout.positions[role]} AS {role}_text" if role in layout.positions else f"NULL::VARCHAR AS {role}_text"
        for role in _ROLES
    ]
    delimiter, quote, file = (warehouse.literal(text) for text in (layout.delimiter, layout.quote, path))
    return (
        f"SELECT {', '.join(texts)} FROM read_csv({file}, auto_detect = false, header = false, "
        f"skip = {int(layout.header)}, delim = {delimiter}, quote = {quote}, escape = {quote}, "
        f"columns = {{{names}}})"
    )


def _read_parquet(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """As text; lines are rows, counted from 1."""
    file = warehouse.literal(path)
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} is no Parquet file or is cut off ({error}): copy it again") from None
    types = {str(row[0]): str(row[1]) for row in described}
    wanted = wanted_columns(dataset.columns)
    for role, column in wanted.items():
        find_column(column, f"columns.{role}", list(types), name)
    texts = ", ".join(f"{_as_text(wanted.get(role), role, types)} AS {role}_text" for role in _ROLES)
    view = f"SELECT {texts} FROM read_parquet({file})"
    is_time = types.get(wanted.get("timestamp", ""), "").startswith(("TIMESTAMP", "DATE"))
    unit = "iso" if is_time else dataset.columns.timestamp_unit
    try:
        failure = "as asked" if exact else _read_fast(con, view, dataset, unit, into)
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} can't be read ({error}): copy it again") from None
    if failure is None:
        rows = pq.read_metadata(into / INTERACTIONS).num_rows
        with PartWriter(into, name, rows=False):
            return FileResult({Reason.KEPT: rows} if rows else {}, None)
    columns = dataset.columns.model_copy(update={"timestamp_unit": unit})
    read = row_reader(columns, dataset.feedback.missing_ratings)
    with PartWriter(into, name) as part:
        for line, texts in enumerate(_rows(con, view, path), start=1):
            try:
                part.keep(read(*texts))
            except Rejected as rejected:
                raw = reading.shown("\t".join(texts).encode(), "utf-8")
                part.reject(line, rejected.column, rejected.reason, raw)
    return FileResult(dict(part.ledger), failure)


def _as_text(column: str | None, role: str, types: dict[str, str]) -> str:
    """A Parquet column as the text that a CSV would have."""
    if column is None:
        return "NULL::VARCHAR"
    quoted, kind = '"' + column.replace('"', '""') + '"', types[column]
    if kind.startswith("TIMESTAMP WITH TIME ZONE"):
        quoted = f"{quoted} AT TIME ZONE 'UTC'"
    elif role == "timestamp" and kind.startswith(("TIMESTAMP", "DATE")):
        quoted = f"CAST({quoted} AS TIMESTAMP)"
    elif kind.startswith("DECIMAL") or kind in ("FLOAT", "DOUBLE"):
        quoted = f"CAST({quoted} AS DOUBLE)"
    return f"CAST({quoted} AS VARCHAR)"


def _rows(con: Connection, view: str, path: Path):
    try:
        found = con.execute(
            f"SELECT {', '.join(f'coalesce({role}_text, {chr(39) * 2})' for role in _ROLES)} FROM ({view})"
        )
        while rows := found.fetchmany(50_000):
            yield from rows
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} is damaged ({error}): copy it again") from None
