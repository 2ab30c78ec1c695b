"""Attributes of items and users from their files: one row per value, and typed columns for the rules of `[export]`."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Items, Users
from pipeline.config.run import Run
from pipeline.schemas import tables
from pipeline.schemas.table import Table
from pipeline.sources import column_types, exclusions
from pipeline.sources.catalog_reader import OTHER, read_items
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.sources.user_traces import Dialect
from pipeline.storage import forgotten_users

COLUMNS, ITEM_ATTRIBUTES, USER_ATTRIBUTES = (
    "catalog_columns.parquet", "item_attributes.parquet", "user_attributes.parquet"
)  # fmt: skip
"""Files of the raw layer: typed columns by item_id, and the attributes of items and users. Each is written only if
its table has columns that the catalog itself does not have."""


USUAL = NumberFormat()
NO_WORDS = ("",)
"""What is no value of a catalog's column: words such as NULL are gone where its file has them for missing values."""


def long_form(wide: pl.DataFrame, table: Table, columns: list[str]) -> pl.DataFrame:
    """Rows of ITEM_ATTRIBUTES or USER_ATTRIBUTES from ids, JSON `attributes`, and one column per other attribute."""
    key = table.key[0]
    parts = [table.empty()]
    declared = wide.select(key, "attributes").drop_nulls("attributes")
    listed = [(owner, name, value) for owner, text in declared.iter_rows() for name, values in json.loads(text).items()
              for value in values]  # fmt: skip
    parts.append(pl.DataFrame(listed, schema=table.schema, orient="row"))
    for column in columns:
        part = wide.select(key, attribute=pl.lit(column.removeprefix(OTHER)), value=pl.col(column).str.strip_chars())
        parts.append(part.filter(pl.col("value") != ""))
    return table.check(pl.concat(parts).unique(maintain_order=True).sort(table.key))


def write_items(folder: Path, catalog: pl.DataFrame, form: NumberFormat = USUAL) -> dict[str, str]:
    """Write the files of a catalog as `read_items` returns it, if it has other columns; returns their types.

    `form`: how it writes numbers.
    """
    columns = [column for column in catalog.columns if column.startswith(OTHER)]
    if not columns:
        return {}
    plain = {column.removeprefix(OTHER): with_plain_numbers(catalog[column], form) for column in columns}
    types = {name: column_types.infer_column(column, NO_WORDS) for name, column in plain.items()}
    typed = [column_types.cast(plain[name], kind, NO_WORDS).alias(name) for name, kind in types.items()]
    others = [column for column in typed if column.name != "item_id"]
    pl.DataFrame([catalog["item_id"], *others]).write_parquet(folder / COLUMNS)
    long_form(catalog, tables.ITEM_ATTRIBUTES, columns).write_parquet(folder / ITEM_ATTRIBUTES)
    return types


def with_plain_numbers(column: pl.Series, form: NumberFormat) -> pl.Series:
    """A column of text with its numbers as in most files, if all of its values are numbers of `form`; else as it is."""
    if form.is_usual_in_times:
        return column
    texts = column.cast(pl.String)
    distinct = texts.drop_nulls().unique()
    filled = [text for text in distinct.to_list() if text.strip() not in NO_WORDS]
    is_number = re.compile(form.pattern).fullmatch
    if not filled or not all(is_number(text.strip()) for text in filled):
        return column
    return texts.replace({text: form.plain(text.strip()) for text in filled})


def published_columns(names: Iterable[str]) -> list[str]:
    """The columns of a catalog that the table `items` has as well: those whose names are free in it. SQL does not
    tell upper and lower case apart."""
    taken, free = {name.lower() for name in tables.ITEMS.columns}, list[str]()
    for name in names:
        if name.lower() not in taken:
            taken.add(name.lower())
            free.append(name)
    return free


def read_columns(raw: Path) -> pl.DataFrame:
    """Typed columns of the catalog after the column item_id; no rows for a catalog without other columns."""
    path = raw / COLUMNS
    return pl.read_parquet(path) if path.exists() else pl.DataFrame(schema={"item_id": pl.String})


def item_attributes(raw: Path) -> pl.DataFrame:
    """Rows of ITEM_ATTRIBUTES of a night."""
    if (raw / ITEM_ATTRIBUTES).exists():
        return pl.read_parquet(raw / ITEM_ATTRIBUTES)
    path = raw / "catalog.parquet"
    catalog = pl.read_parquet(path) if path.exists() else tables.CATALOG.empty()
    return long_form(catalog, tables.ITEM_ATTRIBUTES, [])


def user_attributes(raw: Path) -> pl.DataFrame:
    """Rows of USER_ATTRIBUTES of a night."""
    path = raw / USER_ATTRIBUTES
    return pl.read_parquet(path) if path.exists() else tables.USER_ATTRIBUTES.empty()


def write_users(run: Run, folder: Path, names: list[str], scratch: Path) -> tuple[dict[str, int], pl.DataFrame]:
    """Write the attributes of the users who have a row; returns counts, and the rejected lines.

    Forgotten users are left out, and lines that name one, or may, are redacted.
    """
    users = run.settings.dataset.users
    assert users
    frame, counts, rejected = read_items(run.data, names, as_items(users), scratch, section="users")
    wide = frame.rename({"item_id": "user_id"})
    listed = forgotten_users.read(run.home, run.dataset)
    active = pl.read_parquet(folder / INTERACTIONS, columns=["user_id"])["user_id"].unique().cast(pl.String)
    gone = pl.Series([user in listed for user in wide["user_id"]], dtype=pl.Boolean)
    known = wide.filter(~gone & wide["user_id"].is_in(active.implode()))
    columns = [column for column in wide.columns if column.startswith(OTHER)]
    long_form(known, tables.USER_ATTRIBUTES, columns).write_parquet(folder / USER_ATTRIBUTES)
    found = {"users": counts["items"], "repeated": counts["repeated"], "with_rows": known.height}
    found |= {name: counts[name] for name in ("missing", "key_twice") if name in counts}
    return found, exclusions.redact(rejected, listed, [Dialect(users.delimiter, users.quote)])


def as_items(users: Users) -> Items:
    """The settings of a file of users in the form of a catalog's."""
    return Items(**users.model_dump())
