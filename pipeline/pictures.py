"""The pictures of a night, from its folders in the lake."""

import json
from pathlib import Path

import polars as pl

from pipeline import catalog, data_plots, item_plots, lake
from pipeline.models.saving import load


def of_data(profile: Path, to: Path) -> list[Path]:
    """Of the data set, from the folder of stage `profile`."""
    return data_plots.of_data(json.loads((profile / "profile.json").read_text()), to)


def of_model(folder: Path, encoded: Path, to: Path) -> list[Path]:
    """`item_biases.png` and `embedding_map.png` of the model in `folder`, as far as its family has them."""
    model, label = load(folder), lake.info(folder)["label"]
    title = f"{label} ({lake.info(folder)['fit']})"
    biases, vectors = model.item_biases(), model.item_vectors()
    items = items_of(encoded) if biases is not None or vectors is not None else pl.DataFrame()
    made = []
    if biases is not None and items.height > 1:
        ranked = items.with_columns(bias=pl.Series(biases.double().cpu().numpy()))
        made.append(item_plots.item_biases(ranked, title, to / "item_biases.png"))
    if vectors is not None and items.height > 1:
        made.append(item_plots.embedding_map(items, vectors.float().cpu().numpy(), title, to / "embedding_map.png"))
    return made


def items_of(encoded: Path) -> pl.DataFrame:
    """title and n_interactions (rows that take part) of every item, by index."""
    clean = Path(lake.read_manifest(encoded)["parents"][0])
    raw = clean.parent.parent.joinpath(*Path(lake.read_manifest(clean)["parents"][0]).parts[-2:])
    rows = pl.scan_parquet(encoded / "interactions.parquet").group_by("item_idx").len("n_interactions").collect()
    items = pl.read_parquet(encoded / "items.parquet").join(rows, on="item_idx", how="left", maintain_order="left")
    titled = items.join(catalog.read_catalog(raw), on="item_id", how="left", maintain_order="left")
    return titled.select("title", pl.col("n_interactions").fill_null(0))
