"""The published table `items` of a data set whose catalog has more columns than id and title."""

from dataclasses import replace

import polars as pl

from pipeline.schemas import tables
from pipeline.schemas.table import Column, Table
from pipeline.sources.attributes import published_columns


def table_with(columns: pl.DataFrame) -> Table:
    """The table `items` with the typed columns of the catalog, those of `columns` whose names are free in it."""
    added = {
        name: Column(columns.schema[name], f"Column {name!r} of the item catalog", nullable=True)
        for name in published_columns(columns.columns)
    }
    return replace(tables.ITEMS, columns={**tables.ITEMS.columns, **added})
