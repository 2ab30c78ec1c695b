"""Conditions on the item catalog in `[export]`: which items they mean, and whether they can be evaluated at all."""

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Dataset, Items
from pipeline.config.publishing import Export
from pipeline.config.run import Run
from pipeline.core.errors import SettingsError
from pipeline.core.suggest import nearest
from pipeline.publishing import item_columns
from pipeline.schemas import tables
from pipeline.sources import attributes, catalog_reader, files
from pipeline.sources.column_names import columns_of
from pipeline.storage import expressions, warehouse
from pipeline.storage.expressions import NIGHT_DATE, Expression

CATALOG = "the item catalog"
ADDED = ("exclude_where", "only_where", "boost", "promote", "reasons", "active_days", "explore", "holdback",
         "by", "trending", "fallback_by", "audiences")  # fmt: skip
"""Keys of `[export]` that enter the key of its result only where they are set."""


@dataclass(frozen=True)
class ItemConditions:
    """The conditions of `[export]`, parsed."""

    exclude_where: Expression | None
    only_where: Expression | None
    boost: list[Expression]
    promote: list[Expression | None]
    """None for a promotion of a file's items."""

    @classmethod
    def of(cls, export: Export) -> "ItemConditions":
        """Raises SettingsError, with the key, for a text that is no allowed expression."""

        def parsed(text: str | None, key: str) -> Expression | None:
            return None if text is None else expressions.parse(text, f"export.{key}")

        boost = [expressions.parse(each.where, f"export.boost[{n}].where") for n, each in enumerate(export.boost)]
        promote = [parsed(each.where, f"export.promote[{n}].where") for n, each in enumerate(export.promote)]
        only = parsed(export.only_where, "only_where")
        return cls(parsed(export.exclude_where, "exclude_where"), only, boost, promote)

    @property
    def all(self) -> list[Expression]:
        """Those that are set."""
        return [each for each in (self.exclude_where, self.only_where, *self.boost, *self.promote) if each]

    def excluded(self, frame: pl.DataFrame) -> dict[str, pl.Series]:
        """Which items of `item_frame` each of the rules exclude_where and only_where excludes, (I,) bool."""
        found = {}
        if self.exclude_where:
            found["exclude_where"] = expressions.passing(self.exclude_where, frame, CATALOG)
        if self.only_where:
            found["only_where"] = ~expressions.passing(self.only_where, frame, CATALOG)
        return found


def item_frame(wide: pl.DataFrame, listed: pl.DataFrame, items: Items | None, night: dt.date) -> pl.DataFrame:
    """One row per row of `wide`, with every name that conditions may use.

    `wide` has the columns of the published table `items`, `listed` those of `item_attributes`. An attribute with
    several values is a list, empty for an item without one.
    """
    many = list(items.attributes) if items else []
    frame = wide.with_columns(pl.lit(night).alias(NIGHT_DATE))
    lowered = {name.lower() for name in frame.columns}
    for name in many:
        if name.lower() in lowered:
            continue
        values = listed.filter(attribute=name).group_by("item_id").agg(pl.col("value").alias(name))
        frame = frame.join(values, on="item_id", how="left", maintain_order="left")
        frame = frame.with_columns(pl.col(name).fill_null([]))
    if items:
        own = {items.id: "item_id"} | ({items.title: "title"} if items.title else {})
        frame = frame.with_columns(pl.col(column).alias(name) for name, column in own.items() if name not in frame)
    return frame


def of_raw(raw: Path, wide: pl.DataFrame, items: Items | None, night: dt.date) -> pl.DataFrame:
    """`item_frame` of the items of `wide`, which has the columns of tables.ITEMS, with the catalog of the raw layer."""
    columns = attributes.read_columns(raw)
    table = item_columns.table_with(columns)
    added = columns.select("item_id", *list(table.columns)[len(tables.ITEMS.columns) :])
    joined = wide.select(list(tables.ITEMS.columns)).join(added, on="item_id", how="left", maintain_order="left")
    return item_frame(joined, attributes.item_attributes(raw), items, night)


def of_published(con: warehouse.Connection, items: Items | None, night: dt.date) -> pl.DataFrame:
    """`item_frame` of all items of a published database."""
    return item_frame(con.sql("FROM items").pl(), con.sql("FROM item_attributes").pl(), items, night)


def check(export: Export, dataset: Dataset, data: Path) -> None:
    """Raise SettingsError if a condition is not allowed, or if the files of the catalog lack a column that it,
    max_per_attribute or explore names."""
    conditions = ItemConditions.of(export).all
    limits = {f"max_per_attribute.{name}": name for name in export.max_per_attribute}
    dated = export.explore and export.explore.available_from
    limits |= {"by.attribute": export.by.attribute} if export.by else {}
    wanted = export.audiences.attributes if export.audiences else []
    limits |= {f"audiences.attributes[{n}]": name for n, name in enumerate(wanted)}
    limits |= {"trending.by": export.trending.by} if export.trending and export.trending.by else {}
    if not (conditions or limits or dated) or (dataset.source.generator and not any(data.glob("*"))):
        return
    items, known = dataset.items, [*tables.ITEMS.columns, NIGHT_DATE]
    if limits and not items:
        key = next(iter(limits)).partition(".")[0] if export.max_per_attribute else next(iter(limits))
        raise SettingsError(f"export.{key}: the data set has no [items], so no item has attributes")
    if items:
        names = files.find_files(data, items.files)
        others = catalog_reader.other_columns(data, names, items)
        known += [*catalog_reader.named_columns(items).values(), *others]
        header = (
            [
                column
                for name in names
                for column in columns_of(data / name, name, items, catalog_reader.named_columns(items))
            ]
            if limits
            else []
        )
        for key, name in limits.items():
            key = "max_per_attribute" if key.startswith("max_per_attribute.") else key
            _check_attribute(f"export.{key}", name, [*items.attributes, *others], header)
    if dated and dated not in known[len(tables.ITEMS.columns) + 1 :]:
        near = nearest(dated, known)
        raise SettingsError(f"export.explore.available_from: {CATALOG} has no column {dated!r}{near}")
    for condition in conditions:
        expressions.resolve(condition, dict.fromkeys(known), CATALOG)


def _check_attribute(key: str, name: str, attributes: list[str], header: list[str]) -> None:
    """Raise SettingsError unless `name` is one of the attributes that items have; `header`: columns of the files."""
    if name in attributes:
        return
    if name in header:
        raise SettingsError(
            f"{key}: the column {name!r} of {CATALOG} is not read as an attribute: write "
            f'attributes = {{ {json.dumps(name)} = "" }} in [items] of the data set, with the separator in the quotes '
            "if a cell has several values"
        )
    there = f"there are: {', '.join(attributes[:40])}" if attributes else "it has no attributes"
    raise SettingsError(f"{key}: {CATALOG} has no attribute {name!r}{nearest(name, attributes)}; {there}")


def check_values(run: Run, raw: Path) -> None:
    """Evaluate every condition on the catalog before anything is fitted, and look for the dates of new items.

    Raises SettingsError if that is impossible.
    """
    exports = (run.settings.export, *run.settings.named_lists.values())
    conditions = [condition for export in exports for condition in ItemConditions.of(export).all]
    dates = {each.explore.available_from for each in exports if each.explore and each.explore.available_from}
    if conditions or dates:
        path = raw / "catalog.parquet"
        items = pl.read_parquet(path, columns=["item_id", "title"]) if path.exists() else tables.ITEMS.empty()
        blank = pl.DataFrame(schema=tables.ITEMS.schema)
        wide = pl.concat([blank, items], how="diagonal").with_columns(pl.col("n_interactions").fill_null(0))
        night = expressions.night_date(run.as_of, run.started_at)
        frame = of_raw(raw, wide, run.settings.dataset.items, night)
        for condition in conditions:
            expressions.passing(condition, frame, CATALOG)
        for column in sorted(dates):
            check_dates(column, frame)


def check_dates(column: str, frame: pl.DataFrame) -> None:
    """Raise SettingsError if a column of the catalog, named by `explore.available_from`, has no dates."""
    dtype = frame.schema[column]
    if dtype not in (pl.Date, pl.Datetime("us")) and frame[column].null_count() < frame.height:
        raise SettingsError(
            f"export.explore.available_from = {column!r}: the column has no dates like 2026-11-30, or not in every "
            f"filled line (it is read as {dtype})"
        )


def key_settings(run: Run, of: Export | None = None) -> dict[str, object]:
    """The settings of `[export]`, or of a list of `[lists]`, for the key of the export."""
    export = of or run.settings.export
    kept = {name: value for name, value in export.model_dump().items() if name not in ADDED or value}
    if expressions.depend_on_date(*(condition.text for condition in ItemConditions.of(export).all)):
        kept[NIGHT_DATE] = expressions.night_date(run.as_of, run.started_at)
    if export.explore:  # what is drawn, and which dates are still to come
        kept |= {"seed": run.settings.seed, NIGHT_DATE: expressions.night_date(run.as_of, run.started_at)}
    return kept


def excluding(export: Export, frame: pl.DataFrame) -> pl.DataFrame:
    """Columns item_id and rule: items of `item_frame` that a condition excludes, for the audit."""
    parts = [pl.DataFrame(schema={"item_id": pl.String, "rule": pl.String})]
    for rule, out in ItemConditions.of(export).excluded(frame).items():
        parts.append(frame.filter(out).select("item_id", rule=pl.lit(rule)))
    return pl.concat(parts)
