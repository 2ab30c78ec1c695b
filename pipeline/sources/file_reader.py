"""Reads one source file, text, JSON lines or Parquet: every line becomes a row or a rejected line."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.schemas.reasons import Reason
from pipeline.sources import line_reader
from pipeline.sources.csv_reader import read_text
from pipeline.sources.dialect import find_column
from pipeline.sources.duckdb_reader import ROLES, FileResult, no_fast_way, stream_rows, wanted_columns
from pipeline.sources.file_kinds import Kind, kind_of
from pipeline.sources.json_lines import read_json_lines
from pipeline.sources.parquet_writer import INTERACTIONS, PartWriter, write_rows
from pipeline.sources.parsing import Rejected, clock, row_reader
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection


def read_file(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool = False) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read line by line in any case.

    Raises UnreadableInput if the file is unreadable as a whole or lacks a column.
    """
    clock(dataset.columns.timestamp_unit)  # a wrong unit is an error before anything is read
    kind = kind_of(path, name)
    if kind == Kind.PARQUET:
        return _read_parquet(con, path, name, dataset, into, exact)
    try:
        if kind == Kind.JSON_LINES:
            return read_json_lines(path, name, dataset, into)
        return read_text(con, path, name, dataset, into, exact)
    finally:
        (into / ".plain").unlink(missing_ok=True)


def _read_parquet(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """Read a Parquet file as text columns; rows count as lines, from 1."""
    file = warehouse.literal(path)
    wanted = wanted_columns(dataset.columns)
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
    except warehouse.DatabaseError as error:
        raise _unreadable(path, [], error) from None
    types = {str(row[0]): str(row[1]) for row in described}
    for role, column in wanted.items():
        find_column(column, f"columns.{role}", list(types), name)
        check_type(name, role, column, types[column])
    texts = ", ".join(f"{_as_text(wanted.get(role), role, types)} AS {role}_text" for role in ROLES)
    view = f"SELECT {texts} FROM read_parquet({file})"
    is_time = types.get(wanted.get("timestamp", ""), "").startswith(("TIMESTAMP", "DATE"))
    unit = "iso" if is_time else dataset.columns.timestamp_unit
    try:
        failure = "as asked" if exact else "explode" if dataset.source.explode else no_fast_way(dataset, unit)
        if not failure:
            _, failure = stream_rows(con, view, dataset, unit, lambda rows: write_rows(rows, into / INTERACTIONS))
    except warehouse.DatabaseError as error:
        raise _unreadable(path, list(wanted.values()), error) from None
    if failure is None:
        rows = pq.read_metadata(into / INTERACTIONS).num_rows
        with PartWriter(into, name, rows=False):
            return FileResult({Reason.KEPT: rows} if rows else {}, None)
    columns = dataset.columns.model_copy(update={"timestamp_unit": unit})
    read = row_reader(columns, dataset.feedback.missing_ratings)
    with PartWriter(into, name) as part:
        for line, texts in enumerate(_rows(con, view, path, list(wanted.values())), start=1):
            user, item, *others = texts
            for one in line_reader.exploded(item, dataset.source.explode):
                try:
                    part.keep(read(user, one, *others))
                except Rejected as rejected:
                    raw = line_reader.shown("\t".join(texts).encode(), "utf-8")
                    part.reject(line, rejected.column, rejected.reason, raw)
                    break
    return FileResult(dict(part.ledger), failure)


def _as_text(column: str | None, role: str, types: dict[str, str]) -> str:
    """SQL for a Parquet column as the text that a CSV would have."""
    if column is None:
        return "NULL::VARCHAR"
    quoted, kind = '"' + column.replace('"', '""') + '"', types[column]
    if kind.startswith(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")):
        quoted = f"{quoted} AT TIME ZONE 'UTC'"
    if role == "timestamp" and kind.startswith(("TIMESTAMP", "DATE")):
        quoted = f"CAST({quoted} AS TIMESTAMP)"
    elif kind in ("FLOAT", "DOUBLE") or (kind.startswith("DECIMAL") and role == "rating"):
        quoted = f"CAST({quoted} AS DOUBLE)"
    elif kind == "BLOB":  # texts that were written without their type
        quoted = f"TRY(decode({quoted}))"
    return f"CAST({quoted} AS VARCHAR)"


def check_type(name: str, role: str, column: str, kind: str) -> None:
    """Raise UnreadableInput if a column of the type `kind`, as DuckDB names it, holds no single value for its role."""
    if kind.endswith("]") or kind.startswith("MAP("):
        advice = "write one row for each of its values, e.g. with unnest() in SQL or explode() in a data frame"
    elif kind.startswith(("STRUCT(", "UNION(")):
        advice = "write the field that holds the value as a column of its own"
    elif role == "timestamp" and (kind == "TIME" or kind.startswith(("TIME ", "TIME_", "INTERVAL", "BOOLEAN"))):
        advice = "a time needs its date: write a timestamp, or a number since 1970"
    else:
        return
    raise UnreadableInput(f"{name}: column {column!r} (columns.{role}) has the type {kind}, no single value: {advice}")


def _unreadable(path: Path, columns: list[str], error: Exception) -> UnreadableInput:
    """The error for a Parquet file that DuckDB does not read: it is damaged only if another reader fails, too."""
    reason = str(error).partition("\n")[0]
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches(columns=columns):
                pass
            schema = file.schema_arrow
            kinds = ", ".join(f"{column!r} {schema.field(column).type}" for column in columns)
    except (OSError, pa.ArrowException):
        return UnreadableInput(f"{path} is truncated, damaged or no Parquet file ({reason}): copy it again")
    return UnreadableInput(
        f"{path} is sound, but its columns can't be read ({reason}): {kinds or 'none'}. "
        "Write them as texts, numbers or timestamps"
    )


def _rows(con: Connection, view: str, path: Path, columns: list[str]):
    try:
        found = con.execute(
            f"SELECT {', '.join(f'coalesce({role}_text, {chr(39) * 2})' for role in ROLES)} FROM ({view})"
        )
        while rows := found.fetchmany(50_000):
            yield from rows
    except warehouse.DatabaseError as error:
        raise _unreadable(path, columns, error) from None
