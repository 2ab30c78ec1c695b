"""Replaces source ids by dense indices and sorts the rows into the order that every later stage relies on."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation.encode_shards import encode_shards
from pipeline.preparation.encoding import encode_file
from pipeline.preparation.ids import ENCODED_PARQUET
from pipeline.preparation.shards import RowsWriter, Shards
from pipeline.schemas import tables
from pipeline.sources import model_attributes
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.storage import journal, lake

VERSION = 1


def encode_ids(run: Run, clean: Path, raw: Path | None = None) -> Path:
    """Write interactions.parquet (contract `encoded`), users.parquet and items.parquet (dense index, id).

    Where `clean` was cut into shards, so are interactions and users, and the folder's info has the rows and users of
    each as `shards`. With `[attributes]`, items.parquet ends with the items of the catalog of `raw` that have no row,
    and there are item_values.parquet and attribute_values.parquet (see model_attributes.py).
    """
    wanted = run.settings.attributes

    def write(folder: Path) -> lake.StageResult:
        info: dict[str, Any] = dict(lake.info(clean))
        if cut := info.pop("shards", None):
            items, in_all, of_shards = _in_shards(run, Shards(clean / INTERACTIONS, cut), folder)
            info |= {"n_users": sum(of_shards["users"]), "shards": of_shards}
        else:
            with RowsWriter(folder / INTERACTIONS, **ENCODED_PARQUET) as to_rows:

                def add(rows: pl.DataFrame) -> None:  # the codes are one to one, and `clean` is unique
                    to_rows.add(tables.encoded(rows).check(rows, unique=False))

                users, items = encode_file(clean / INTERACTIONS, run.settings.seed, _kinds(run), add)
            users.write_parquet(folder / "users.parquet")
            in_all = sum(to_rows.rows)
            info["n_users"] = users.height
        if wanted.used:
            assert raw is not None  # the line passes it
            items, info["new_items"], info["attributes"] = _describe(run, raw, items, folder)
        items.write_parquet(folder / "items.parquet")
        info["n_items"] = items.height
        return lake.StageResult(rows_in=in_all, rows_out=in_all, ledger={"kept": in_all}, info=info)

    folder = lake.build(run, spec(run, clean), write)
    if wanted.used:
        journal.note(run, lake.info(folder)["attributes"])
    return folder


def _in_shards(run: Run, cleaned: Shards, folder: Path) -> tuple[pl.DataFrame, int, dict[str, list[int]]]:
    """The same for one range of users after another; returns items, rows in all, and rows and users of each shard."""
    with (
        lake.scratch(folder) as scratch,
        RowsWriter(folder / INTERACTIONS, **ENCODED_PARQUET) as to_rows,
        RowsWriter(folder / "users.parquet", "zstd") as to_users,
    ):

        def write(rows: pl.DataFrame, users: pl.DataFrame) -> None:
            to_rows.add(tables.encoded(rows).check(rows, unique=False))
            to_users.add(users)

        items = encode_shards(cleaned, run.settings.seed, _kinds(run), scratch, write)
    return items, sum(to_rows.rows), {"rows": to_rows.rows, "users": to_users.rows}


def _describe(run: Run, raw: Path, items: pl.DataFrame, folder: Path) -> tuple[pl.DataFrame, int, str]:
    """Write the attributes of items; returns items with the new ones, their number, and what was read."""
    everything = model_attributes.with_new_items(items, raw)
    entries, values = model_attributes.read(raw, everything, run.settings.attributes)
    entries.write_parquet(folder / model_attributes.ITEM_VALUES)
    values.write_parquet(folder / model_attributes.VALUES)
    numbers = model_attributes.read_numbers(raw, everything, run.settings.attributes)
    numbers.write_parquet(folder / model_attributes.NUMBERS)
    described = entries.filter(pl.col("item_idx") >= items.height)["item_idx"].n_unique()
    new = everything.height - items.height
    return everything, new, model_attributes.report(values, new, new - described)


def spec(run: Run, clean: Path, raw: Path | None = None) -> lake.Spec:
    """Key of `encode_ids`."""
    kinds = _kinds(run)
    settings = {"seed": run.settings.seed, **({"events": kinds} if kinds else {})}
    if run.settings.attributes.used:  # the catalog is in the key of `raw`, from which that of `clean` follows
        settings["attributes"] = run.settings.attributes.model_dump(exclude={"new_days"})
    return lake.Spec(StageCall(StageName.ENCODE), "3_encoded", VERSION, settings, parents=(clean,))


def _kinds(run: Run) -> list[str]:
    events = run.settings.dataset.events
    return events.kinds if events else []
