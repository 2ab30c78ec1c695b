"""The published table `items` of a data set whose catalog has more columns than id and title."""

from dataclasses import replace

import polars as pl

from pipeline.schemas import tables
from pipeline.schemas.table import Column, Table


def table_with(columns: pl.DataFrame) -> Table:
    """The table `items` with the typed columns of the catalog, those of `columns` whose names are free in it."""
    taken, added = {name.lower() for name in tables.ITEMS.columns}, dict[str, Column]()
    for name, dtype in columns.schema.items():
        if name.lower() not in taken:
            taken.add(name.lower())
            added[name] = Column(dtype, f"Column {name!r} of the item catalog", nullable=True)
    return replace(tables.ITEMS, columns={**tables.ITEMS.columns, **added})
