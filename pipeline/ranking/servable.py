"""Which items a model may list: without an event only those that it places by their attributes."""

from pathlib import Path

import polars as pl
from torch import Tensor

from pipeline.models.base import Recommender
from pipeline.sources import model_attributes
from pipeline.training.attributes import ItemAttributes, NewItems
from pipeline.training.interactions import Interactions


def read_attributes(folder: Path, n_items: int, device: object = "cpu") -> ItemAttributes | None:
    """Attributes of items in the folder of the encoded rows or of a split; None: they are not used."""
    path = folder / model_attributes.ITEM_VALUES
    return ItemAttributes.of_frame(pl.read_parquet(path), n_items, str(device)) if path.exists() else None


def servable(model: Recommender, known: Interactions, encoded: Path) -> Tensor | None:
    """Items that a model fitted on `known`, all rows of `encoded`, may list, (I,) bool on the CPU; None: all."""
    attributes = read_attributes(encoded, known.n_items)
    return None if attributes is None else NewItems.of(known.to("cpu"), attributes).servable(model.reads_attributes)


def both(some: Tensor | None, others: Tensor | None) -> Tensor | None:
    """Items (I,) bool that are in both; None: all."""
    return others if some is None else some if others is None else some & others
