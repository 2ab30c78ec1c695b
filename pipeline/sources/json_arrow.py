"""The fast reader of JSON lines: Arrow's parser, for blocks in which every line is one object and nothing is doubtful.

It takes fewer texts than the line reader, and reads those to the same values. What it can't tell from an ordinary value
(a key twice, a number that is written as no integer in a column of ids, a value of another type) is a fault.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json

from pipeline.config.dataset import Dataset
from pipeline.sources.arrow_reader import NotPlain, check_ids, ratings_of, times_of, without_empty
from pipeline.sources.blocks import is_valid
from pipeline.sources.duckdb_reader import ROLES, no_fast_way, stream_rows, wanted_columns
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parsing import COUNTS, SCALES
from pipeline.storage import warehouse
from pipeline.storage.warehouse import Connection

_AT_ONCE = 2**20
"""Bytes that a thread parses at a time; no line is longer."""
_DEEP = 200
"""Brackets in a line from which on Python's parser may give up, which the line reader uses."""
_NOT_FINITE = re.compile(rb"[:,\[\s]-?(?:NaN|Inf)").search
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]").search
_ESCAPED = re.compile(rb"\\\\u[dD][89a-fA-F]").search
"""A backslash before it: what looks like a pair may be half of one."""
_NEGATIVE_ZERO = re.compile(rb"-0\s*[,}]").search
_TEXT, _WHOLE, _NUMBER, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
Kind = Literal["text", "whole", "number", "flag"]
_TYPES: dict[Kind, pa.DataType] = {"text": _TEXT, "whole": _WHOLE, "number": _NUMBER, "flag": _FLAG}


@dataclass(frozen=True)
class Shape:
    """The columns of a file of JSON lines that are wanted."""

    columns: dict[str, str]
    """Role, or name in the raw layer, to the column."""
    kinds: Mapping[str, Kind]
    """The type of each column's values."""

    @property
    def schema(self) -> pa.Schema:
        """What Arrow reads. A path such as `user.id` may be a key by itself, too, which would count."""
        tree: dict[str, Any] = {}
        for role, column in self.columns.items():
            at, (*before, last) = tree, column.split(".")
            for key in before:
                at = at.setdefault(key, {})
            at[last] = _TYPES[self.kinds[role]]
        flat = {column: _TEXT for column in self.columns.values() if "." in column}
        return pa.schema([*_fields(tree), *flat.items()])


def _fields(tree: Mapping[str, Any]) -> list[tuple[str, pa.DataType]]:
    return [(key, pa.struct(_fields(kind)) if isinstance(kind, dict) else kind) for key, kind in tree.items()]


def shape_of(lines: Iterable[bytes], dataset: Dataset) -> Shape | None:
    """How Arrow reads a file that begins with these lines; None if it can't.

    A column has the type that most of its values have: a block in which one has another type is read line by line.
    """
    columns, unit = wanted_columns(dataset), dataset.columns.timestamp_unit
    names = list(columns.values())
    parts = [column.split(".") for column in names]
    if dataset.source.explode or len(set(names)) < len(names) or no_fast_way(dataset, unit):
        return None
    if any("" in part for part in parts):
        return None
    if any(a != b and a == b[: len(a)] for a in parts for b in parts):  # a value, and a path into it
        return None
    found: dict[str, Counter[str]] = {role: Counter() for role in columns}
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # the line reader says why
            continue
        if isinstance(values, dict):
            for role, column in columns.items():
                found[role][_kind(_at(values, column))] += 1
    kinds: dict[str, Kind] = {
        role: kind for role, values in found.items() if (kind := _usable(role, _usual(values), dataset))
    }
    return Shape(columns, kinds) if kinds.keys() == columns.keys() else None


def _usable(role: str, kind: Kind | None, dataset: Dataset) -> Kind | None:
    """The type by which Arrow reads a column of this kind; None if the text of a value could not be had from it."""
    numbers = NumberFormat.of_columns(dataset.columns)
    is_counted = numbers.is_usual_in_times and dataset.columns.timestamp_unit in COUNTS
    may_be_number = {"rating": numbers.is_usual, "timestamp": is_counted}
    if role == "rating" and kind == "whole":
        kind = "number"
    if kind == "flag" and role in ROLES:
        return None
    if kind in ("whole", "number") and not may_be_number.get(role, kind == "whole"):
        return None
    return kind


def _at(values: object, column: str) -> object:
    for key in column.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "flag"
    for kind, types in (("", type(None)), ("text", str), ("whole", int), ("number", float)):
        if isinstance(value, types):
            return kind
    return "nested"


def _usual(kinds: Counter[str]) -> Kind | None:
    """The kind of most values; None if that is no single value. Without any value: text."""
    del kinds[""]
    kind = max(kinds, key=kinds.__getitem__, default="text")
    if kind == "whole" and kinds["number"]:
        kind = "number"
    return cast(Kind, kind) if kind in _TYPES else None


def doubts(block: bytes, encoding: str) -> str:
    """Why Arrow can't be trusted with a block of whole lines; empty if it can."""
    if b"\0" in block:
        return "a NUL byte"
    if not block.isascii() and (encoding != "utf-8" or not is_valid(block, encoding)):
        return "another encoding"
    plain = block.replace(b"\r\n", b"\n") if b"\r" in block else block
    if b"\r" in plain:
        return "a CR within a line"
    plain = plain if plain.endswith(b"\n") else plain + b"\n"
    text = np.frombuffer(plain, np.uint8)  # (B,)
    ends = np.flatnonzero(text == ord("\n"))  # (L,)
    starts = np.append(0, ends[:-1] + 1)
    if (text[starts] != ord("{")).any() or (text[ends - 1] != ord("}")).any():
        return "a line that is no object"  # else a line could have several, or continue on the next one
    if (b"NaN" in block or b"Inf" in block) and _NOT_FINITE(block):
        return "a number that is not finite"
    if _SURROGATE(block) and (_ESCAPED(block) or _SURROGATE(_PAIR.sub(b"", block))):
        return "half of a surrogate pair"
    brackets = np.add.reduceat((text == ord("{")) | (text == ord("[")), starts, dtype=np.int32)  # (L,)
    return "deeply nested values" if brackets.max(initial=0) > _DEEP else ""


def read_rows(
    con: Connection, block: bytes, n_lines: int, shape: Shape, dataset: Dataset
) -> tuple[list[pa.RecordBatch], str | None]:
    """The typed rows of a block of lines without doubts, one each, in batches; or the fault that makes it unfit."""
    try:
        found = _parsed(block, shape)
        if found.num_rows != n_lines:
            return [], "another number of objects than lines"
        texts = _wanted(found, block, shape)
        if _is_native(shape, dataset):
            return [_typed(batch, shape, dataset) for batch in texts.to_batches()], None
        rows: list[pa.RecordBatch] = []
        con.register("_json_lines", texts)
        try:
            view = f"SELECT {', '.join(_select(shape))} FROM _json_lines"
            _, fault = stream_rows(con, view, dataset, dataset.columns.timestamp_unit, rows.extend)
        finally:
            con.unregister("_json_lines")
        return ([], fault) if fault else (rows, None)
    except NotPlain as fault:
        return [], str(fault)


def _parsed(block: bytes, shape: Shape) -> pa.Table:
    try:
        return arrow_json.read_json(
            pa.BufferReader(block),
            read_options=arrow_json.ReadOptions(block_size=_AT_ONCE),
            parse_options=arrow_json.ParseOptions(
                explicit_schema=shape.schema, newlines_in_values=False, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowInvalid as error:  # its text may have a value
        is_twice = "was specified twice" in str(error)
        raise NotPlain("a key twice" if is_twice else "a value of another type, or no JSON") from None


def _wanted(found: pa.Table, block: bytes, shape: Shape) -> pa.Table:
    """The wanted columns by role; whole numbers and flags of ids and extra columns as they are written."""
    columns = []
    for role, column in shape.columns.items():
        rows = found[column]
        if "." in column:
            if rows.null_count < len(rows):
                raise NotPlain(f"a key {column!r}")
            first, *others = column.split(".")
            rows = found[first]
            for key in others:
                rows = pa.chunked_array(
                    [chunk.flatten()[chunk.type.get_field_index(key)] for chunk in rows.chunks],
                    rows.type.field(key).type,
                )
        if role not in ("rating", "timestamp") and rows.type in (_WHOLE, _FLAG):
            if rows.type == _WHOLE and b"-0" in block and _NEGATIVE_ZERO(block):
                raise NotPlain("-0")
            rows = rows.cast(_TEXT)
        if role in ROLES and rows.null_count:
            raise NotPlain(f"no {role}")
        columns.append(rows)
    return pa.table(columns, names=list(shape.columns))


def _is_native(shape: Shape, dataset: Dataset) -> bool:
    """Whether numbers are numbers, and times are counts of a usual unit."""
    is_counted = "timestamp" not in shape.columns or dataset.columns.timestamp_unit in SCALES
    return is_counted and all(shape.kinds[role] != "text" for role in ("rating", "timestamp") if role in shape.kinds)


def _typed(batch: pa.RecordBatch, shape: Shape, dataset: Dataset) -> pa.RecordBatch:
    """The columns of `raw`, then the extra columns."""
    found = {name: batch.column(name) for name in shape.columns}
    for role in ("user", "item"):
        check_ids(found[role], role)
    rows = [found["user"], found["item"], ratings_of(found.get("rating"), len(batch), dataset)]
    rows.append(times_of(found.get("timestamp"), len(batch), dataset))
    others = [name for name in shape.columns if name not in ROLES]
    rows += [_filled(found[name]) for name in others]
    return pa.RecordBatch.from_arrays(rows, names=["user_id", "item_id", "rating", "timestamp", *others])


def _filled(column: Any) -> Any:
    """Texts, null where one is null or empty."""
    return without_empty(column.fill_null("") if column.null_count else column)


def _select(shape: Shape) -> Iterator[str]:
    for role in ROLES:
        found = f"CAST({warehouse.quoted(role)} AS {_sql_type(shape, role)})"
        yield f"{found if role in shape.columns else 'NULL::VARCHAR'} AS {role}_text"
    for name in shape.columns:
        if name not in ROLES:
            yield f"nullif({warehouse.quoted(name)}, '') AS {warehouse.quoted(name)}"


def _sql_type(shape: Shape, role: str) -> str:
    return "DOUBLE" if role == "rating" and shape.kinds.get(role) == "number" else "VARCHAR"
