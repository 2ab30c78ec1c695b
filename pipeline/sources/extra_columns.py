"""Source columns that the raw layer keeps in addition to user, item, rating and timestamp: those that settings name."""

from collections.abc import Iterator

import pyarrow as pa

from pipeline.config.dataset import Dataset
from pipeline.storage import expressions

PREFIX = "source_"
ROLES = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp"}
"""Role of a column in `[columns]` to its name in the raw layer."""
RATED = "rated"
"""In conditions: whether the row has a rating."""
SCALARS = ("BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
           "FLOAT", "DOUBLE", "DECIMAL", "DATE", "TIMESTAMP")  # fmt: skip
"""DuckDB types of Parquet columns that are kept as they are; others are kept as text."""


def extra_columns(dataset: Dataset) -> list[str]:
    """Names of the columns, as in the source, each once. Empty for a data set whose settings name none."""
    return list(_named(dataset))


def stored_name(column: str) -> str:
    """Name of a source column in the raw layer: prefixed, since `rating` and the like have their own columns there."""
    return PREFIX + column


def stored_columns(dataset: Dataset) -> dict[str, str]:
    """Name in the raw layer to name in the source."""
    return {stored_name(column): column for column in _named(dataset)}


def keys_of(dataset: Dataset) -> dict[str, str]:
    """Name in the raw layer to the first setting that names the column, for messages."""
    return {stored_name(column): key for column, key in _named(dataset).items()}


def _named(dataset: Dataset) -> dict[str, str]:
    """Column to the first setting that names it, in the order of the settings."""
    named: dict[str, str] = {}
    for column, key in _settings(dataset):
        named.setdefault(column, key)
    return named


def _settings(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Pairs of a column and the setting that names it."""
    if events := dataset.events:
        if events.column:
            yield events.column, "events.column"
        if events.quantity:
            yield events.quantity, "events.quantity"
    for key in ("keep_if", "positive_if"):
        if text := getattr(dataset.feedback, key):
            expression = expressions.parse(text, f"dataset.feedback.{key}")
            yield from ((name, expression.key) for name in source_names(dataset, expression))


def source_names(dataset: Dataset, expression: expressions.Expression) -> list[str]:
    """The columns that a condition names besides those of `[columns]` and the night's date."""
    known = {*ROLES, *ROLES.values(), RATED, expressions.NIGHT_DATE}
    own = {getattr(dataset.columns, role) for role in ROLES}
    return [name for name in expression.names if name.lower() not in known and name not in own]


def scalar(column: str, kind: str) -> str:
    """SQL for a Parquet column of DuckDB type `kind`: its own scalar type, times in UTC without a zone, else text.

    `column` is its quoted name.
    """
    if kind.startswith(("TIMESTAMP", "DATE")):
        return _time(column, kind)
    if kind.partition("(")[0] in SCALARS:
        return column
    return f"nullif({text_of_bytes(column) if kind == 'BLOB' else f'CAST({column} AS VARCHAR)'}, '')"


def text_of_bytes(column: str) -> str:
    """SQL for a column of bytes: the text that they are in UTF-8, else their escapes, such as `\\xFF`."""
    return f"coalesce(TRY(decode({column})), CAST({column} AS VARCHAR))"


def _time(quoted: str, kind: str) -> str:
    """SQL for a time without a zone, as Python has it: infinity is the end of the year 9999, -infinity the start of the
    year 1, and what else is outside of these years is null.
    """
    if kind == "TIMESTAMP_NS":
        return quoted  # all of them are inside
    if kind.startswith(("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")):
        quoted, kind = f"({quoted} AT TIME ZONE 'UTC')", "TIMESTAMP"
    first, last = (f"CAST('{end}' AS {kind})" for end in ("0001-01-01", "9999-12-31 23:59:59"))
    return (
        f"CASE WHEN isinf({quoted}) THEN greatest({first}, least({quoted}, {last})) "
        f"WHEN year({quoted}) BETWEEN 1 AND 9999 THEN {quoted} END"
    )


def common_types(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for the rows of several files: numbers of different sizes are widened, other differences are text."""
    fields = []
    for name in schemas[0].names:
        types = [schema.field(name).type for schema in schemas]
        kind = types[0]
        if any(t != kind for t in types):
            try:
                each = [pa.schema([(name, t)]) for t in types]
                kind = pa.unify_schemas(each, promote_options="permissive").field(name).type
            except pa.ArrowException:
                kind = pa.dictionary(pa.int32(), pa.string())
        fields.append((name, kind))
    return pa.schema(fields)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, which are texts that were written without their type."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
