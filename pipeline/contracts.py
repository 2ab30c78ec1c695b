"""Every table's schema, once: Polars schema, DuckDB DDL, comments and checks all come from here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import polars as pl

TEXT, INT, BIG, FLOAT, BOOL, TIME = pl.String, pl.Int32, pl.Int64, pl.Float64, pl.Boolean, pl.Datetime("us")
VECTOR = pl.List(pl.Float32)
DUCKDB_TYPES = {
    TEXT: "VARCHAR", INT: "INTEGER", BIG: "BIGINT", FLOAT: "DOUBLE", BOOL: "BOOLEAN",
    TIME: "TIMESTAMP", VECTOR: "FLOAT[]", pl.Float32: "FLOAT",
}  # fmt: skip


class ContractError(ValueError):
    """A frame does not keep its contract."""


Ids = Mapping[str, Sequence[str]]
"""Ids of users and items, and raw source lines, by column: what a message is about, kept out of its prose."""


class Naming(Exception):
    """An error whose message has no ids: they are in `ids`, so that a user can be forgotten without a text search."""

    def __init__(self, message: str = "", ids: Ids | None = None):
        super().__init__(message)
        self.ids: Ids = {column: list(values) for column, values in (ids or {}).items() if values}


class Refused(Naming):
    """Ran, but a check refuses to publish: exit code 3, the published tables are as they were."""


class Held(RuntimeError):
    """Another process has a published file open for writing: exit code 4. Names the process."""


class UnreadableInput(Naming, ValueError):
    """Input that can't be read, or a home that can't be written: exit code 2. Names the file and what to do."""


def with_ids(message: str, ids: Ids | None) -> str:
    """A message and its ids, for the terminal only: `... [user_id 'u7'; item_id 'i1']`."""
    said = "; ".join(f"{column} {', '.join(map(repr, values))}" for column, values in (ids or {}).items() if values)
    return f"{message} [{said}]" if said else message


class Reason(StrEnum):
    """Why a row went where it went; every row of a stage has exactly one. `kept` goes on to the next stage."""

    KEPT = "kept"
    # ingest
    EMPTY_LINE = "empty_line"
    TOO_FEW_FIELDS = "too_few_fields"
    TOO_MANY_FIELDS = "too_many_fields"
    BROKEN_QUOTE = "broken_quote"
    BAD_ENCODING = "bad_encoding"
    LINE_TOO_LONG = "line_too_long"
    EMPTY_USER = "empty_user"
    EMPTY_ITEM = "empty_item"
    ID_TOO_LONG = "id_too_long"
    RATING_NOT_A_NUMBER = "rating_not_a_number"
    RATING_NOT_FINITE = "rating_not_finite"
    TIMESTAMP_UNREADABLE = "timestamp_unreadable"
    TIMESTAMP_OUT_OF_RANGE = "timestamp_out_of_range"
    FORGOTTEN = "forgotten"
    AFTER_AS_OF = "after_as_of"
    # clean
    DUPLICATE = "duplicate"
    KEEP_IF = "keep_if"
    USER_NOT_SAMPLED = "user_not_sampled"
    BELOW_MIN_INTERACTIONS = "below_min_interactions"
    # split
    COLD_IN_HOLDOUT = "cold_in_holdout"
    NOT_IN_PUBLISHED_SPLIT = "not_in_published_split"


LEFT_OUT = (Reason.FORGOTTEN, Reason.AFTER_AS_OF)
"""Of ingest: valid rows that are not wanted, of a forgotten user or after the moment of a replay. No rejects."""


@dataclass(frozen=True)
class Column:
    """A column's type, its meaning with unit, and whether it may be null."""

    dtype: pl.DataType | type[pl.DataType]
    doc: str
    nullable: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A table's contract; `key` columns identify a row, `volatile` ones may differ between equal runs."""

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
            f'"{name}" {DUCKDB_TYPES[c.dtype]}' + ("" if c.nullable else " NOT NULL")
            for name, c in self.columns.items()
        )
        comments = [f"COMMENT ON TABLE {self.name} IS {_literal(self.doc)};"]
        comments += [f'COMMENT ON COLUMN {self.name}."{n}" IS {_literal(c.doc)};' for n, c in self.columns.items()]
        return f"CREATE TABLE {self.name} (\n  {fields}\n);\n" + "\n".join(comments)

    def without(self, *names: str) -> "Table":
        """The same contract less some columns."""
        columns = {name: column for name, column in self.columns.items() if name not in names}
        return replace(self, columns=columns, key=tuple(name for name in self.key if name not in names))

    def empty(self) -> pl.DataFrame:
        """A frame without rows."""
        return pl.DataFrame(schema=self.schema)

    def check(self, frame: pl.DataFrame, unique: bool = True) -> pl.DataFrame:
        """Return `frame` with the columns in order; raise ContractError on a wrong type, null or repeated key.

        Categorical passes for text: the same, with every distinct value stored once.
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
        if unique and self.key and frame.height and frame.select(self.key).is_duplicated().any():
            raise ContractError(f"{self.name}: key {self.key} is not unique")
        return frame


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def rows(table: Table, records: list[dict]) -> pl.DataFrame:
    """A checked frame from records; absent nullable columns become null."""
    return table.check(pl.DataFrame(records, schema=table.schema, orient="row"))
