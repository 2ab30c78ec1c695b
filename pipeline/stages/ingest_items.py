"""Reads the item catalog, always line by line; a broken line costs an item its title, never a night."""

import json
from pathlib import Path

import polars as pl

from pipeline import sources, tables
from pipeline.contracts import Reason, UnreadableInput
from pipeline.layout import read_layout
from pipeline.reading import records
from pipeline.settings import Items
from pipeline.values import Rejected, check_id


def read_items(folder: Path, names: list[str], items: Items, scratch: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """The catalog, and how many items, repeated ids (the last one counts) and skipped lines there were."""
    found: dict[str, tuple[str | None, str | None]] = {}
    repeated = skipped = 0
    for name in names:
        if name.endswith(".parquet"):
            raise UnreadableInput(f"{name}: an item catalog is a text file (csv, tsv, dat, txt)")
        plain = sources.unpack(folder / name, scratch / "items.plain")
        wanted = {"items.id": items.id, **{f"items.attributes.{a}": a for a in items.attributes}}
        wanted |= {"items.title": items.title} if items.title else {}
        layout = read_layout(plain, name, items, wanted)
        for _, _, fields in records(plain, layout) if layout else ():
            if isinstance(fields, Reason):
                skipped += 1
                continue
            values = {column: fields[layout.positions[key]] for key, column in wanted.items()} if layout else {}
            item = values[items.id]
            try:
                check_id(item, Reason.EMPTY_ITEM, items.id)
            except Rejected:
                skipped += 1
                continue
            repeated += item in found
            found[item] = (values[items.title] or None) if items.title else None, _attributes(values, items)
    frame = pl.DataFrame([(i, *v) for i, v in found.items()], schema=tables.CATALOG.schema, orient="row")
    return tables.CATALOG.check(frame), {"items": len(found), "repeated": repeated, "skipped": skipped}


def _attributes(values: dict[str, str], items: Items) -> str | None:
    """`{"genres": ["Drama", "War"]}`; a column without a separator has one value."""
    lists = {
        name: [part.strip() for part in (values[name].split(by) if by else [values[name]]) if part.strip()]
        for name, by in items.attributes.items()
    }
    return json.dumps(lists, ensure_ascii=False) if lists else None
