"""The plots of a night: lists them from its folders in the lake. `worker` draws them."""

import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from pipeline.models.serialization import load
from pipeline.publishing import item_tables
from pipeline.reporting.plots import data, figure, search
from pipeline.reporting.plots.items import dots_of, embedding_map, item_biases
from pipeline.storage import lake


class Picture(NamedTuple):
    """One plot. `draw(**shown, path=…)` draws it, in any process: `shown` has frames and values that JSON can hold."""

    name: str
    draw: Callable[..., Path]
    shown: dict[str, Any]


Source = tuple[str | None, Callable[[], list[Picture]]]
"""A model's label, None for the night, and a function that lists its plots."""


def of_night(record: dict[str, Any], valid: str) -> Iterator[Source]:
    """All plots of a night, from its record in the journal; `valid`: the metric that fits are validated by."""
    made = record["made"]
    items = cache(partial(items_of, Path(made["encoded"])))  # read once, and only where a model needs them
    if profile := record.get("profile"):
        yield None, partial(of_data, Path(profile))
    yield None, partial(of_model, Path(made["refit"]), items)
    for folder in map(Path, made["fitted"]):
        label = lake.info(folder)["label"]
        yield label, partial(of_fit, folder, valid)
        yield label, partial(of_model, folder, items)
    for folder in map(Path, made.get("searched", [])):
        yield lake.info(folder)["label"], partial(of_search, folder)


def of_data(profile: Path) -> list[Picture]:
    """Plots of the data set, from the folder of stage `profile`; of ratings where there are any."""
    described = json.loads((profile / "profile.json").read_text())
    shown = {"data_shape.png": data.shape, "data_activity.png": data.activity}
    if described["ratings"]["raw"]:
        shown["data_ratings.png"] = data.ratings
    return [Picture(name, draw, {"described": described}) for name, draw in shown.items()]


def of_fit(folder: Path, valid: str) -> list[Picture]:
    """Plots of the fit in `folder`: its training curve, and the sweep of its learning-rate finder."""
    info, made = lake.info(folder), []
    if info["history"]:
        made.append(Picture("training.png", figure.training_curve, {"info": info, "valid": valid}))
    if info.get("finder", {}).get("rates"):
        made.append(Picture("learning_rate_finder.png", search.rate_sweep, {"info": info}))
    return made


def of_search(folder: Path) -> list[Picture]:
    """The plot of all trials of a search, from its folder."""
    shown = {"info": lake.info(folder), "trials": pl.read_parquet(folder / "trials.parquet")}
    return [Picture("search.png", search.search, shown)]


def of_model(folder: Path, items_of_night: Callable[[], pl.DataFrame]) -> list[Picture]:
    """Plots of item biases and embeddings, where the family of the model in `folder` has them."""
    model, info = load(folder), lake.info(folder)
    title, made = f"{info['label']} ({info['fit']})", []
    biases, vectors = model.item_biases(), model.item_vectors()
    items = items_of_night() if biases is not None or vectors is not None else pl.DataFrame()
    if biases is not None and items.height > 1:
        ranked = items.with_columns(bias=pl.Series(biases.double().cpu().numpy()))
        made.append(Picture("item_biases.png", item_biases, {"items": ranked, "label": title}))
    if vectors is not None and items.height > 1:
        dots, explained = dots_of(items, vectors.float().cpu().numpy())
        shown = {"dots": dots, "explained": explained, "label": title}
        made.append(Picture("embedding_map.png", embedding_map, shown))
    return made


def items_of(encoded: Path) -> pl.DataFrame:
    """title and n_interactions (rows in the fit) of every item, by index."""
    clean = Path(lake.read_manifest(encoded)["parents"][0])
    raw = clean.parent.parent.joinpath(*Path(lake.read_manifest(clean)["parents"][0]).parts[-2:])
    rows = pl.scan_parquet(encoded / "interactions.parquet").group_by("item_idx").len("n_interactions").collect()
    items = pl.read_parquet(encoded / "items.parquet").join(rows, on="item_idx", how="left", maintain_order="left")
    titled = items.join(item_tables.read_catalog(raw), on="item_id", how="left", maintain_order="left")
    return titled.select("title", pl.col("n_interactions").fill_null(0))
