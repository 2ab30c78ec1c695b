"""Reads one Parquet file: every row becomes a row or a rejected line; rows count as lines, from 1."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.dataset import Columns, Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.schemas.reasons import Reason
from pipeline.sources import line_reader
from pipeline.sources.dialect import find_column
from pipeline.sources.duckdb_reader import ROLES, FileResult, no_fast_way, stream_rows, wanted_columns
from pipeline.sources.extra_columns import keys_of, scalar, text_of_bytes
from pipeline.sources.parquet_writer import INTERACTIONS, PartWriter, schema_with, write_rows
from pipeline.sources.parsing import Rejected, row_reader
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection


@dataclass(frozen=True)
class Column:
    """A column of a Parquet file."""

    name: str
    sql: str
    """Its quoted name in DuckDB, which renames the later ones of names that differ by upper and lower case only."""
    kind: str
    """Its type in DuckDB."""


def columns_of(con: Connection, path: Path) -> list[Column]:
    """The columns of a file, in order. Raises UnreadableInput."""
    try:
        described = con.sql(f"DESCRIBE SELECT * FROM read_parquet({warehouse.literal(path)})").fetchall()
        names = pq.read_schema(path).names
    except (warehouse.DatabaseError, OSError, pa.ArrowException) as error:
        raise _unreadable(path, [], error) from None
    names = names if len(names) == len(described) else [str(row[0]) for row in described]
    return [
        Column(name, warehouse.quoted(str(row[0])), str(row[1])) for name, row in zip(names, described, strict=True)
    ]


def read_parquet(con: Connection, path: Path, name: str, dataset: Dataset, into: Path, exact: bool) -> FileResult:
    """Write the rows and rejected lines of `path` into the folder `into`. `exact`: read row by row in any case."""
    columns = columns_of(con, path)
    wanted, keys = wanted_columns(dataset), keys_of(dataset)
    found: dict[str, Column] = {}
    for role, column in wanted.items():
        at = find_column(column, keys.get(role, f"columns.{role}"), [each.name for each in columns], name)
        found[role] = columns[at]
        if role in ROLES:
            check_type(name, role, column, columns[at].kind)
    _check_bytes(con, path, name, found)
    dataset = _typed(dataset, found.get("rating"))
    source = f"FROM read_parquet({warehouse.literal(path)})"
    extra = [f"{scalar(found[stored].sql, found[stored].kind)} AS {warehouse.quoted(stored)}" for stored in keys]
    texts = [f"{_as_text(found.get(role), role)} AS {role}_text" for role in ROLES]
    view = f"SELECT {', '.join([*texts, *extra])} {source}"
    schema = _schema(con, view, list(keys))
    time = found.get("timestamp")
    unit = "iso" if time and time.kind.startswith(("TIMESTAMP", "DATE")) else dataset.columns.timestamp_unit
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
    read = row_reader(dataset.columns.model_copy(update={"timestamp_unit": unit}), dataset.feedback.missing_ratings)
    slow = f"SELECT {', '.join([_no_text(found), *(_shown(found.get(role), role) for role in ROLES), *extra])} {source}"
    with PartWriter(into, name, schema=schema) as part:
        for line, (fault, texts, extras) in enumerate(_rows(con, slow, path), start=1):
            user, item, *others = texts
            try:
                if fault:
                    raise Rejected(Reason.BAD_ENCODING, wanted[fault])
                made = [read(user, one, *others) for one in line_reader.exploded(item, dataset.source.explode)]
                for row in made:
                    part.keep((*row, *extras))
            except Rejected as rejected:
                part.note_look(rejected.looks)
                raw = line_reader.shown("\t".join(texts).encode(), "utf-8")
                part.reject(line, rejected.column, rejected.reason, raw)
    return FileResult(dict(part.ledger), failure, dict(part.looks))


def _typed(dataset: Dataset, rating: Column | None) -> Dataset:
    """The data set without its settings of how numbers are written, if ratings are numbers already."""
    if rating is None or rating.kind in ("VARCHAR", "BLOB", "BOOLEAN"):
        return dataset
    usual = Columns().model_dump(include={"decimal", "thousands", "rating_of", "rating_values"})
    return dataset.model_copy(update={"columns": dataset.columns.model_copy(update=usual)})


def _as_text(column: Column | None, role: str) -> str:
    """SQL for a column as the text that a CSV would have; NULL for bytes that are no text."""
    if column is None:
        return "NULL::VARCHAR"
    sql, kind = column.sql, column.kind
    if kind.startswith(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")):
        sql = f"{sql} AT TIME ZONE 'UTC'"
    if role == "timestamp" and kind.startswith(("TIMESTAMP", "DATE")):
        sql = f"coalesce(CAST(TRY_CAST({sql} AS TIMESTAMP) AS VARCHAR), CAST({sql} AS VARCHAR))"
    elif kind in ("FLOAT", "DOUBLE") or (kind.startswith("DECIMAL") and role == "rating"):
        sql = f"CAST({sql} AS DOUBLE)"
        if role in ("user", "item"):  # NaN is what pandas writes for a missing value
            # compared as text: by a file's statistics, which leave NaN out, DuckDB takes isnan() for false everywhere
            return f"nullif(nullif(CAST({sql} AS VARCHAR), 'nan'), '-nan')"
    elif kind == "BLOB":  # texts that were written without their type
        sql = f"TRY(decode({sql}))"
    return f"CAST({sql} AS VARCHAR)"


def _no_text(found: dict[str, Column]) -> str:
    """SQL for the first role whose value is bytes that are no UTF-8; NULL if there is none."""
    cases = [
        f"WHEN {found[role].sql} IS NOT NULL AND TRY(decode({found[role].sql})) IS NULL THEN '{role}'"
        for role in ROLES
        if role in found and found[role].kind == "BLOB"
    ]
    return f"CASE {' '.join(cases)} END" if cases else "NULL"


def _shown(column: Column | None, role: str) -> str:
    """SQL for a column as text; bytes that are no text are shown with escapes, such as `\\xFF`."""
    is_bytes = column is not None and column.kind == "BLOB"
    text = text_of_bytes(column.sql) if column is not None and is_bytes else _as_text(column, role)
    return f"coalesce({text}, '')"


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


def _check_bytes(con: Connection, path: Path, name: str, found: dict[str, Column]) -> None:
    """Raise UnreadableInput if a column of bytes has no value that is a text. `found`: role to column."""
    for role, column in found.items():
        if role not in ROLES or column.kind != "BLOB":
            continue
        file = warehouse.literal(path)
        counts = f"SELECT count({column.sql}), count(TRY(decode({column.sql}))) FROM read_parquet({file})"
        try:
            ((n_values, n_texts),) = con.sql(counts).fetchall()
        except warehouse.DatabaseError as error:
            raise _unreadable(path, [column.name], error) from None
        if n_values and not n_texts:
            raise UnreadableInput(
                f"{name}: column {column.name!r} (columns.{role}) has bytes that are no text, which are not read: cast "
                "it, e.g. with encode(column, 'hex') in PostgreSQL, or hex(column) in DuckDB and SQLite"
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


def _rows(con: Connection, query: str, path: Path) -> Iterator[tuple[str | None, tuple, tuple]]:
    """The role whose bytes are no text, the texts of the roles, and the values of the extra columns, row by row."""
    try:
        found = con.execute(query)
        while rows := found.fetchmany(50_000):
            yield from ((row[0], row[1 : 1 + len(ROLES)], row[1 + len(ROLES) :]) for row in rows)
    except warehouse.DatabaseError as error:
        raise _unreadable(path, [], error) from None
