"""Item-based nearest neighbours (Sarwar et al., "Item-Based Collaborative Filtering …", WWW 2001)."""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from pipeline.models.base import FitContext
from pipeline.models.ops.item_graph import ItemGraph, ItemGraphConfig, heaviest, products
from pipeline.training.event_weights import history_of
from pipeline.training.interactions import History, Interactions


class ItemKnnConfig(ItemGraphConfig):
    """Hyperparameters of `ItemKnn`."""

    shrink: NonNegativeFloat = 10.0
    """Added to the denominator of the similarity, so that pairs with few common users count less."""
    similarity: Literal["cosine", "asymmetric_cosine", "jaccard"] = "cosine"
    """Similarity of item vectors x, y over users: xy / |x||y|, xy / (|x|²)^a (|y|²)^(1-a), xy / (|x|² + |y|² - xy)."""
    asymmetry: Annotated[float, Field(ge=0, le=1)] = 0.5
    """a of the asymmetric cosine (Aiolli, RecSys 2013), where x is the item in the history; 0.5 is the cosine."""
    weighting: Literal["none", "tf_idf", "bm25"] = "none"
    """Weight of a user in the item vectors: with tf_idf and bm25, users with long histories count less."""
    bm25_k1: NonNegativeFloat = 1.2
    """bm25: at 0 item popularity does not matter; the larger, the less each user of a popular item counts."""
    bm25_b: Annotated[float, Field(ge=0, le=1)] = 0.75
    """bm25: how strongly the number of users of an item, relative to the mean, counts."""


class ItemKnn(ItemGraph):
    """score(u, j) = sum of s(i, j) over the items i of the history that are nearest neighbours of j."""

    family = "item_knn"
    Config = ItemKnnConfig
    config: ItemKnnConfig

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Compute similarities, by tiles of items."""
        self.to(context.device)
        by_item = history_of(train, self.config).unrepeated().transposed()
        x = self._vectors(by_item)  # (E,)
        x = x if by_item.weights is None else x * by_item.weights
        squares = torch.zeros(self.n_items, device=x.device).index_add_(0, by_item.rows, x.square())  # (I,)
        tiles = (
            (items, self._similarity(dots, squares[items, None], squares)) for items, dots in products(by_item, x, x)
        )
        tiles = context.in_time(tiles, self.n_items, lambda tile: len(tile[0]))
        self.neighbors, self.weights = heaviest(tiles, self.n_items, self.config.neighbors)

    def _vectors(self, by_item: History) -> Tensor:
        """Value of every entry, (E,)."""
        if self.config.weighting == "none":
            return torch.ones(len(by_item.items), device=by_item.items.device)
        lengths = torch.bincount(by_item.items, minlength=self.n_users).float()  # (U,)
        rarity = torch.log((1 + self.n_items) / (1 + lengths))[by_item.items]  # (E,), of a user, as idf of a term
        if self.config.weighting == "tf_idf":
            return rarity
        k1, b = self.config.bm25_k1, self.config.bm25_b
        size = by_item.lengths / by_item.lengths.float().mean()  # (I,)
        return rarity * ((k1 + 1) / (1 + k1 * (1 - b + b * size)))[by_item.rows]

    def _similarity(self, dots: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Of targets to all, (T, I); squared norms (T, 1) of the targets and (I,) of all."""
        match self.config.similarity:
            case "cosine":
                size = (x * y).sqrt()
            case "asymmetric_cosine":
                size = x**self.config.asymmetry * y ** (1 - self.config.asymmetry)
            case _:
                size = x + y - dots
        return dots / (size + self.config.shrink).clamp_min(1e-12)
