"""Reads one source file, text or Parquet: every line becomes a row or a rejected line."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Columns, Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.schemas.reasons import Reason
from pipeline.sources import line_reader
from pipeline.sources.csv_reader import read_text
from pipeline.sources.dialect import find_column
from pipeline.sources.duckdb_reader import ROLES, FileResult, no_fast_way, stream_rows, wanted_columns
from pipeline.sources.extra_columns import keys_of, scalar
from pipeline.sources.parquet_writer import INTERACTIONS, PartWriter, schema_with, write_rows
from pipeline.sources.parsing import Rejected, clock, row_reader
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection


def read_file(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool = False) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read line by line in any case.

    Raises UnreadableInput if the file is unreadable as a whole or lacks a column.
    """
    clock(dataset.columns.timestamp_unit)  # a wrong unit is an error before anything is read
    if path.suffix == ".parquet":
        return _read_parquet(con, path, name, dataset, into, exact)
    try:
        return read_text(con, path, name, dataset, into, exact)
    finally:
        (into / ".plain").unlink(missing_ok=True)


def _read_parquet(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """Read a Parquet file as text columns; rows count as lines, from 1."""
    file = warehouse.literal(path)
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} is truncated or no Parquet file ({error}): copy it again") from None
    types = {str(row[0]): str(row[1]) for row in described}
    wanted, keys = wanted_columns(dataset), keys_of(dataset)
    for role, column in wanted.items():
        find_column(column, keys.get(role, f"columns.{role}"), list(types), name)
    dataset = _typed(dataset, types)
    texts = [f"{_as_text(wanted.get(role), role, types)} AS {role}_text" for role in ROLES]
    texts += [f"{scalar(wanted[stored], types[wanted[stored]])} AS {warehouse.quoted(stored)}" for stored in keys]
    view = f"SELECT {', '.join(texts)} FROM read_parquet({file})"
    schema = _schema(con, view, list(keys))
    is_time = types.get(wanted.get("timestamp", ""), "").startswith(("TIMESTAMP", "DATE"))
    unit = "iso" if is_time else dataset.columns.timestamp_unit
    try:
        failure = "as asked" if exact else no_fast_way(dataset, unit)
        if not failure:
            rows_path = into / INTERACTIONS
            _, failure = stream_rows(con, view, dataset, unit, lambda rows: write_rows(rows, rows_path, schema))
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} can't be read ({error}): copy it again") from None
    if failure is None:
        rows = pq.read_metadata(into / INTERACTIONS).num_rows
        with PartWriter(into, name, rows=False):
            return FileResult({Reason.KEPT: rows} if rows else {}, None)
    columns = dataset.columns.model_copy(update={"timestamp_unit": unit})
    read = row_reader(columns, dataset.feedback.missing_ratings)
    with PartWriter(into, name, schema=schema) as part:
        for line, (texts, extra) in enumerate(_rows(con, view, path, list(keys)), start=1):
            try:
                part.keep((*read(*texts), *extra))
            except Rejected as rejected:
                part.note_look(rejected.looks)
                raw = line_reader.shown("\t".join(texts).encode(), "utf-8")
                part.reject(line, rejected.column, rejected.reason, raw)
    return FileResult(dict(part.ledger), failure, dict(part.looks))


def _typed(dataset: Dataset, types: dict[str, str]) -> Dataset:
    """The data set without its settings of how numbers are written, if ratings are numbers already."""
    kind = types.get(dataset.columns.rating or "", "")
    if kind in ("VARCHAR", "BOOLEAN", ""):
        return dataset
    usual = Columns().model_dump(include={"decimal", "thousands", "rating_of", "rating_values"})
    return dataset.model_copy(update={"columns": dataset.columns.model_copy(update=usual)})


def _as_text(column: str | None, role: str, types: dict[str, str]) -> str:
    """SQL for a Parquet column as the text that a CSV would have."""
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


def _schema(con: Connection, view: str, extra: list[str]) -> pa.Schema:
    """The schema of the rows, with the types of the extra columns."""
    if not extra:
        return schema_with([])
    names = ", ".join(map(warehouse.quoted, extra))
    found = con.sql(f"SELECT {names} FROM ({view}) LIMIT 0").to_arrow_reader(1).schema
    return schema_with((field.name, field.type) for field in found)


def _rows(con: Connection, view: str, path: Path, extra: list[str]) -> Iterator[tuple[tuple, tuple]]:
    """The texts of the roles and the values of the extra columns, row by row."""
    columns = [f"coalesce({role}_text, {chr(39) * 2})" for role in ROLES] + [warehouse.quoted(name) for name in extra]
    try:
        found = con.execute(f"SELECT {', '.join(columns)} FROM ({view})")
        while rows := found.fetchmany(50_000):
            yield from ((row[: len(ROLES)], row[len(ROLES) :]) for row in rows)
    except warehouse.DatabaseError as error:
        raise UnreadableInput(f"{path} is damaged ({error}): copy it again") from None
