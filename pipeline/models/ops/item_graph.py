"""A sparse item-to-item graph: storage, scoring, and construction in tiles from products over users."""

from collections.abc import Iterator

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from pipeline.models.base import Explainer, Recommender, pick
from pipeline.models.ops.item_weights import WeightTable
from pipeline.models.ops.topk import largest
from pipeline.training.event_weights import WeightsConfig
from pipeline.training.interactions import History

TILE = 1 << 24  # numbers in one temporary matrix: 64 MB


class ItemGraphConfig(WeightsConfig):
    """Hyperparameters of all families that are an item graph."""

    neighbors: PositiveInt = 100
    """Number of edges to keep per item: those with the largest weights."""


class ItemGraph(Recommender):
    """score(u, j) = sum of the weights of j's edges to items of the history; repeated items count once,
    or by their weights.

    Item j has K = min(neighbors, I) edges, to `neighbors[j]` with `weights[j]`; an unused one weighs 0.
    """

    reads_history = True

    def __init__(self, config: ItemGraphConfig, n_users: int, n_items: int):
        super().__init__(config, n_users, n_items)
        edges = min(config.neighbors, n_items)
        self.neighbors: Tensor
        self.weights: Tensor
        self.register_buffer("neighbors", torch.zeros(n_items, edges, dtype=torch.long))
        self.register_buffer("weights", torch.zeros(n_items, edges))

    def score(self, users: Tensor, history: History, items: Tensor | None = None) -> Tensor:
        """(B, I) or (B, C)."""
        if not len(users):
            return self.weights.new_zeros(0, self.n_items if items is None else items.shape[1])
        known = self.weighed(history).transposed().dense()  # (I, B)
        summed = nn.functional.embedding_bag(self.neighbors, known, mode="sum", per_sample_weights=self.weights)
        return pick(summed.T, items)  # (I, B) -> (B, I)

    def contributions(self, user: int, history: History, item: int) -> Tensor:
        """Weights of the item's edges to the history, (E,)."""
        edges = self.weights.new_zeros(self.n_items)
        parts = edges.index_add_(0, self.neighbors[item], self.weights[item])[history.items]
        return parts if history.weights is None else parts * history.weights

    def explainer(self) -> Explainer:
        """Weights of the items' edges to the events."""
        kept = self.weights != 0  # (I, K)
        targets = torch.arange(self.n_items, device=kept.device)[:, None].expand_as(kept)[kept]
        table = WeightTable(targets, self.neighbors[kept], self.weights[kept], self.n_items)
        return lambda users, history, items: table.entries(history, items)

    def similar(self, items: Tensor) -> Tensor:
        """What one item in the history adds to every score, (B, I)."""
        return self.score(torch.full_like(items, -1), History.of_single_items(items, self.n_items))


def products(by_item: History, left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles of L Rᵀ: items (T,), rows (T, I). L and R (I, U) have values (E,) at the entries of `by_item`.

    The diagonal is set to 0. One tile of L is dense at a time, so the cost is E times I multiplications.
    """
    n_items, n_users = len(by_item), by_item.n_items
    tile = max(16, TILE // max(n_users, n_items))
    for items in torch.arange(n_items, device=right.device).split(tile):
        part = by_item[items]
        dense = right.new_zeros(n_users, len(items))  # (U, T)
        dense[part.items, part.rows] = left[by_item.offsets[items[0]] : by_item.offsets[items[-1] + 1]]
        starts = by_item.offsets[:-1]
        product = nn.functional.embedding_bag(by_item.items, dense, starts, mode="sum", per_sample_weights=right)
        product[items, items - items[0]] = 0  # (I, T)
        yield items, product.T.contiguous()


def heaviest(tiles: Iterator[tuple[Tensor, Tensor]], n_items: int, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row (T, I), ties by item: neighbors (I, k) and weights (I, k)."""
    parts = [largest(rows, min(k, n_items))[:2] for _, rows in tiles]
    return torch.cat([items for _, items in parts]), torch.cat([weights for weights, _ in parts])


def reversed_edges(neighbors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The graph from the other ends of its edges, (I, K) each; of those to one item the K heaviest."""
    n_items, k = neighbors.shape
    flat, order = torch.sort(weights.flatten(), descending=True, stable=True)  # (I * K,)
    ends, by_end = torch.sort(neighbors.flatten()[order], stable=True)  # (I * K,), heaviest first within an end
    counts = torch.bincount(ends, minlength=n_items)  # (I,)
    place = torch.arange(len(ends), device=ends.device) - (torch.cumsum(counts, 0) - counts)[ends]
    kept = place < k
    to, weight = torch.zeros_like(neighbors), torch.zeros_like(weights)
    at = ends[kept], place[kept]
    to[at] = order[by_end][kept] // k
    weight[at] = flat[by_end][kept]
    return to, weight
