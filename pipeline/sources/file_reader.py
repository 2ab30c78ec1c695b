"""Reads one source file, text, JSON lines or Parquet: every line becomes a row or a rejected line."""

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
from pipeline.sources.file_kinds import Kind, kind_of
from pipeline.sources.json_lines import read_json_lines
from pipeline.sources.parquet_writer import INTERACTIONS, PartWriter, schema_with, write_rows
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
            return read_json_lines(con, path, name, dataset, into, exact)
        return read_text(con, path, name, dataset, into, exact)
    finally:
        (into / ".plain").unlink(missing_ok=True)


def _read_parquet(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """Read a Parquet file as text columns; rows count as lines, from 1."""
    file = warehouse.literal(path)
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM read_parquet({file})").fetchall()
    except warehouse.DatabaseError as error:
        raise _unreadable(path, [], error) from None
    types = {str(row[0]): str(row[1]) for row in described}
    wanted, keys = wanted_columns(dataset), keys_of(dataset)
    for role, column in wanted.items():
        find_column(column, keys.get(role, f"columns.{role}"), list(types), name)
        if role in ROLES:
            check_type(name, role, column, types[column])
    _check_bytes(con, path, name, {role: c for role, c in wanted.items() if role in ROLES and types[c] == "BLOB"})
    dataset = _typed(dataset, types)
    texts = [f"{_as_text(wanted.get(role), role, types)} AS {role}_text" for role in ROLES]
    texts += [f"{scalar(wanted[stored], types[wanted[stored]])} AS {warehouse.quoted(stored)}" for stored in keys]
    view = f"SELECT {', '.join(texts)} FROM read_parquet({file})"
    schema = _schema(con, view, list(keys))
    is_time = types.get(wanted.get("timestamp", ""), "").startswith(("TIMESTAMP", "DATE"))
    unit = "iso" if is_time else dataset.columns.timestamp_unit
    try:
        failure = "as asked" if exact else "explode" if dataset.source.explode else no_fast_way(dataset, unit)
        if not failure:
            rows_path = into / INTERACTIONS
            _, failure = stream_rows(con, view, dataset, unit, lambda rows: write_rows(rows, rows_path, schema))
    except warehouse.DatabaseError as error:
        raise _unreadable(path, list(wanted.values()), error) from None
    if failure is None:
        rows = pq.read_metadata(into / INTERACTIONS).num_rows
        with PartWriter(into, name, rows=False):
            return FileResult({Reason.KEPT: rows} if rows else {}, None)
    columns = dataset.columns.model_copy(update={"timestamp_unit": unit})
    read = row_reader(columns, dataset.feedback.missing_ratings)
    with PartWriter(into, name, schema=schema) as part:
        for line, (texts, extra) in enumerate(_rows(con, view, path, list(keys)), start=1):
            user, item, *others = texts
            try:
                made = [read(user, one, *others) for one in line_reader.exploded(item, dataset.source.explode)]
                for row in made:
                    part.keep((*row, *extra))
            except Rejected as rejected:
                part.note_look(rejected.looks)
                raw = line_reader.shown("\t".join(texts).encode(), "utf-8")
                part.reject(line, rejected.column, rejected.reason, raw)
    return FileResult(dict(part.ledger), failure, dict(part.looks))


def _typed(dataset: Dataset, types: dict[str, str]) -> Dataset:
    """The data set without its settings of how numbers are written, if ratings are numbers already."""
    kind = types.get(dataset.columns.rating or "", "")
    if kind in ("VARCHAR", "BLOB", "BOOLEAN", ""):
        return dataset
    usual = Columns().model_dump(include={"decimal", "thousands", "rating_of", "rating_values"})
    return dataset.model_copy(update={"columns": dataset.columns.model_copy(update=usual)})


def _as_text(column: str | None, role: str, types: dict[str, str]) -> str:
    """SQL for a Parquet column as the text that a CSV would have."""
    if column is None:
        return "NULL::VARCHAR"
    quoted, kind = '"' + column.replace('"', '""') + '"', types[column]
    if kind.startswith(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")):
        quoted = f"{quoted} AT TIME ZONE 'UTC'"
    if role == "timestamp" and kind.startswith(("TIMESTAMP", "DATE")):
        quoted = f"coalesce(CAST(TRY_CAST({quoted} AS TIMESTAMP) AS VARCHAR), CAST({quoted} AS VARCHAR))"
    elif kind in ("FLOAT", "DOUBLE") or (kind.startswith("DECIMAL") and role == "rating"):
        quoted = f"CAST({quoted} AS DOUBLE)"
        if role in ("user", "item"):
            quoted = f"CASE WHEN NOT isnan({quoted}) THEN {quoted} END"  # what pandas writes for a missing value
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


def _check_bytes(con: Connection, path: Path, name: str, columns: dict[str, str]) -> None:
    """Raise UnreadableInput if most values of a column of bytes are no text; else they are rejected row by row.

    `columns`: role to column.
    """
    for role, column in columns.items():
        quoted, file = warehouse.quoted(column), warehouse.literal(path)
        try:
            found = con.sql(
                f"SELECT count({quoted}), count(TRY(decode({quoted}))) FROM read_parquet({file})"
            ).fetchall()
        except warehouse.DatabaseError as error:
            raise _unreadable(path, [column], error) from None
        ((n_values, n_texts),) = found
        if n_texts < n_values / 2:
            raise UnreadableInput(
                f"{name}: column {column!r} (columns.{role}) has bytes that are no text, which are not read: cast it, "
                "e.g. with encode(column, 'hex') in PostgreSQL, or hex(column) in DuckDB and SQLite"
            )


def _unreadable(path: Path, columns: list[str], error: Exception) -> UnreadableInput:
    """The error for a Parquet file that DuckDB does not read: it is damaged only if another reader fails, too."""
    reason = str(error).partition("\n")[0]
    try:
        with pq.ParquetFile(path) as file:
            for _ in file.iter_batches(columns=columns or None):
                pass
            schema = file.schema_arrow
            kinds = ", ".join(f"{field.name!r} {field.type}" for field in schema if field.name in columns)
    except (OSError, pa.ArrowException):
        return UnreadableInput(f"{path} is truncated, damaged or no Parquet file ({reason}): copy it again")
    return UnreadableInput(
        f"{path} is sound, but its columns can't be read ({reason}): {kinds or 'none'}. "
        "Write them as texts, numbers or timestamps"
    )


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
        raise _unreadable(path, [], error) from None
