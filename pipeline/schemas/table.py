"""Declares tables; Polars schema, DuckDB DDL, comments and checks are derived from the declaration."""

from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from pipeline.core.errors import ContractError

TEXT, INT, BIG, FLOAT, BOOL, TIME = pl.String, pl.Int32, pl.Int64, pl.Float64, pl.Boolean, pl.Datetime("us")
VECTOR = pl.List(pl.Float32)
FEW = 10_000
"""Rows below which keys are compared as they are."""
DUCKDB_TYPES: dict[pl.DataType | type[pl.DataType], str] = {
    pl.Int8: "TINYINT", TEXT: "VARCHAR", INT: "INTEGER", BIG: "BIGINT", FLOAT: "DOUBLE", BOOL: "BOOLEAN",
    TIME: "TIMESTAMP", VECTOR: "FLOAT[]", pl.Float32: "FLOAT", pl.Date: "DATE",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column: its type, its meaning with the unit, and whether it may be null."""

    dtype: pl.DataType | type[pl.DataType]
    doc: str
    nullable: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A table's schema. `key` columns identify a row; `volatile` columns may differ between equal runs."""

    name: str
    doc: str
    key: tuple[str, ...]
    columns: dict[str, Column]
    volatile: tuple[str, ...] = ()

    @property
    def schema(self) -> pl.Schema:
        """Polars schema."""
        return pl.Schema({name: column.dtype for name, column in self.columns.items()})

    @property
    def ddl(self) -> str:
        """`CREATE TABLE` with its comments, for DuckDB."""
        fields = ",\n  ".join(
            f"{_quoted(name)} {DUCKDB_TYPES[c.dtype]}" + ("" if c.nullable else " NOT NULL")
            for name, c in self.columns.items()
        )
        comments = [f"COMMENT ON TABLE {self.name} IS {_literal(self.doc)};"]
        about = ((_quoted(name), _literal(column.doc)) for name, column in self.columns.items())
        comments += [f"COMMENT ON COLUMN {self.name}.{name} IS {text};" for name, text in about]
        return f"CREATE TABLE {self.name} (\n  {fields}\n);\n" + "\n".join(comments)

    def without(self, *names: str) -> "Table":
        """The same schema without some columns."""
        columns = {name: column for name, column in self.columns.items() if name not in names}
        return replace(self, columns=columns, key=tuple(name for name in self.key if name not in names))

    def empty(self) -> pl.DataFrame:
        """A frame without rows."""
        return pl.DataFrame(schema=self.schema)

    def check(self, frame: pl.DataFrame, unique: bool = True) -> pl.DataFrame:
        """Return `frame` with the columns in order; raise ContractError on a wrong type, null or repeated key.

        Categorical is accepted as text: it is the same, with every distinct value stored once.
        """
        if missing := set(self.columns) - set(frame.columns):
            raise ContractError(f"{self.name}: missing columns {sorted(missing)}")
        frame = frame.select(list(self.columns))
        for name, column in self.columns.items():
            stored = frame.schema[name]
            if stored != column.dtype and (stored, column.dtype) != (pl.Categorical, TEXT):
                raise ContractError(f"{self.name}.{name}: {frame.schema[name]}, not {column.dtype}")
            if not column.nullable and frame[name].null_count():
                raise ContractError(f"{self.name}.{name}: {frame[name].null_count()} nulls")
        if unique and self.key and _repeats(frame.select(self.key)):
            raise ContractError(f"{self.name}: key {self.key} is not unique")
        return frame


def _repeats(keys: pl.DataFrame) -> bool:
    """Whether a row occurs twice. Rows are compared only where two hashes are equal: a table of rows takes ten times
    the memory of their hashes."""
    if keys.height < FEW:
        return bool(keys.height and keys.is_duplicated().any())
    hashes = keys.hash_rows()  # (R,) uint64
    ordered = hashes.sort()
    twice = ordered.filter(ordered == ordered.shift(1)).unique()
    return bool(len(twice)) and bool(keys.filter(hashes.is_in(twice.implode())).is_duplicated().any())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def rows(table: Table, records: list[dict[str, Any]]) -> pl.DataFrame:
    """A checked frame from records. Missing nullable columns become null."""
    return table.check(pl.DataFrame(records, schema=table.schema, orient="row"))
