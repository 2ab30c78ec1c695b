"""Attributes of the catalog as the models read them: one row per item and value, and items without events."""

import json
from pathlib import Path

import polars as pl

from pipeline.config.attributes import Attributes
from pipeline.config.dataset import Dataset
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.sources import attributes as of_catalog
from pipeline.sources import catalog_reader, files

ITEM_VALUES, VALUES, NUMBERS = "item_values.parquet", "attribute_values.parquet", "attribute_numbers.parquet"
"""Files of the encoded layer: item_idx and value_idx; value_idx with its attribute, text and number of items; item_idx,
attribute and number of the columns of numbers and dates, for the leakage audit."""
TENTHS = 10
"""Parts that a column of numbers or dates is cut into, each with about as many items."""
FEW = 20
"""A column of numbers with at most so many distinct values is not cut."""


def check(dataset: Dataset, wanted: Attributes, data: Path) -> None:
    """Raise SettingsError if `[attributes]` asks for what the catalog does not have."""
    if not wanted.used:
        return
    if not dataset.items:
        raise SettingsError("attributes.items: the data set has no [items], so no item has attributes")
    if dataset.source.generator and not any(data.glob("*")):
        return
    items = dataset.items
    known = [*items.attributes, *catalog_reader.other_columns(data, files.find_files(data, items.files), items)]
    if not known:
        raise SettingsError("attributes.items: [items] of the data set names no attributes, and its files have none")
    for name in wanted.names or []:
        if name not in known:
            raise SettingsError(
                f"attributes.items: the item catalog has no attribute {name!r}{nearest(name, known)}; "
                f"there are: {', '.join(known[:40])}"
            )


def with_new_items(items: pl.DataFrame, raw: Path) -> pl.DataFrame:
    """Rows of items.parquet (item_idx, item_id) with the other items of the catalog after them, sorted by id.

    So the indices of items with events are those of a night without attributes.
    """
    path = raw / "catalog.parquet"
    if not path.exists():
        return items
    catalog = pl.read_parquet(path, columns=["item_id"])["item_id"].cast(pl.String)
    new = catalog.filter(~catalog.is_in(items["item_id"].implode())).unique().sort()
    index = pl.int_range(items.height, items.height + len(new), dtype=pl.Int32, eager=True)
    return pl.concat([items, pl.DataFrame({"item_idx": index, "item_id": new})])


def read(raw: Path, items: pl.DataFrame, wanted: Attributes) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Contents of ITEM_VALUES and VALUES for the rows of items.parquet.

    A number or a date of a column with more than FEW distinct values is replaced by its tenth, `3/10`; equal numbers
    are in one tenth. Values that fewer than `min_items` items have are left out.
    """
    listed = of_catalog.item_attributes(raw)
    if wanted.names is not None:
        listed = listed.filter(pl.col("attribute").is_in(wanted.names))
    cut = {name: column for name, column in numbers(raw).items() if column["number"].n_unique() > FEW}
    kept = listed.filter(~pl.col("attribute").is_in(list(cut)))
    parts = [kept.join(items, on="item_id").select("item_idx", "attribute", "value")]
    for name, column in cut.items():
        if wanted.names is None or name in wanted.names:
            known = column.join(items, on="item_id")
            place = pl.col("number").rank("average") - 0.5
            tenth = (place * TENTHS / pl.len()).floor().cast(pl.Int64).clip(0, TENTHS - 1) + 1
            text = pl.format(f"{{}}/{TENTHS}", tenth)
            parts.append(known.select("item_idx", pl.lit(name).alias("attribute"), text.alias("value")))
    entries = pl.concat(parts).unique(["item_idx", "attribute", "value"])
    counted = entries.group_by("attribute", "value").agg(pl.len().cast(pl.Int64).alias("n_items"))
    values = counted.filter(pl.col("n_items") >= wanted.min_items).sort("attribute", "value")
    values = values.with_row_index("value_idx").cast({"value_idx": pl.Int32})
    entries = entries.join(values, on=["attribute", "value"]).select("item_idx", "value_idx")
    return entries.sort("item_idx", "value_idx"), values


def read_numbers(raw: Path, items: pl.DataFrame, wanted: Attributes) -> pl.DataFrame:
    """Content of NUMBERS for the rows of items.parquet."""
    parts = [pl.DataFrame(schema={"item_idx": pl.Int32, "attribute": pl.String, "number": pl.Float64})]
    for name, column in numbers(raw).items():
        if wanted.names is None or name in wanted.names:
            parts.append(column.join(items, on="item_id").select("item_idx", attribute=pl.lit(name), number="number"))
    return pl.concat(parts)


def described_items(encoded: Path) -> pl.DataFrame:
    """Column item_id: items of an encoded layer with a value that models read; none where attributes are not used."""
    if not (encoded / ITEM_VALUES).exists():
        return pl.DataFrame(schema={"item_id": pl.String})
    items = pl.read_parquet(encoded / "items.parquet")
    return items.join(pl.read_parquet(encoded / ITEM_VALUES), on="item_idx", how="semi").select("item_id")


def numbers(raw: Path) -> dict[str, pl.DataFrame]:
    """Columns of numbers, dates and truth values of the catalog: name to item_id and `number`, a float."""
    columns, found = of_catalog.read_columns(raw), {}
    for name, dtype in columns.schema.items():
        if name != "item_id" and (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean):
            number = pl.col(name).to_physical().cast(pl.Float64).alias("number")
            column = columns.select(pl.col("item_id").cast(pl.String), number).drop_nulls("number")
            found[name] = column.filter(pl.col("number").is_finite()).unique("item_id", keep="first")
    return found


def report(values: pl.DataFrame, n_new: int, n_undescribed: int) -> str:
    """What was read, as a sentence for the journal."""
    by_attribute = values.group_by("attribute").len().sort("attribute").rows()
    named = ", ".join(f"{json.dumps(name)} {n:,}" for name, n in by_attribute) or "none"
    found = f"attributes: models read {values.height:,} values ({named}); {n_new:,} items of the catalog have no event"
    return (
        f"{found}; {n_undescribed:,} of them have no value that models read, so they are in no list"
        if n_undescribed
        else found
    )
