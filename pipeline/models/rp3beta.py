"""RP3beta: random walks of three steps between users and items (Paudel et al., ACM TiiS 7(1), 2017)."""

from collections.abc import Iterator

from pydantic import NonNegativeFloat
from torch import Tensor

from pipeline.models.base import FitContext
from pipeline.models.ops.item_graph import ItemGraph, ItemGraphConfig, heaviest, products, reversed_edges
from pipeline.training.event_weights import history_of
from pipeline.training.interactions import Interactions


class Rp3BetaConfig(ItemGraphConfig):
    """Hyperparameters of `Rp3Beta`."""

    alpha: NonNegativeFloat = 1.0
    """Exponent of the step probabilities, item to user and user to item."""
    beta: NonNegativeFloat = 0.6
    """Exponent of an item's popularity, by which its score is divided."""
    normalize: bool = True
    """Scale the edges of an item to sum 1, so that all items of a history count equally."""


class Rp3Beta(ItemGraph):
    """score(u, j) = sum over i of the history, v of the users of i, of (1/n_i)^α (1/n_v)^α / n_j^β.

    n counts interactions, or adds up their weights w, and the steps are then (w/n)^α. The first step, from the
    user, is equal for all items and left out. The heaviest edges from every item i are kept, and of these the
    heaviest to every item j.
    """

    family = "rp3beta"
    Config = Rp3BetaConfig
    config: Rp3BetaConfig

    def fit(self, train: Interactions, context: FitContext) -> None:
        """Compute the walks, by tiles of items."""
        self.to(context.device)
        history = history_of(train, self.config).unrepeated()
        by_item = history.transposed()
        of_item, of_user = by_item.mass, history.mass  # (I,), (U,)
        to_user = of_item[by_item.rows] ** -self.config.alpha  # (E,)
        to_item = of_user[by_item.items] ** -self.config.alpha  # (E,)
        if by_item.weights is not None:  # a step is as likely as its weight
            to_user, to_item = (step * by_item.weights**self.config.alpha for step in (to_user, to_item))
        smallest = 1 if by_item.weights is None else 1e-6
        damping = of_item.clamp_min(smallest) ** -self.config.beta  # (I,)

        def walks() -> Iterator[tuple[Tensor, Tensor]]:
            for items, rows in products(by_item, to_user, to_item):
                yield items, rows * damping  # (T, I)

        tiles = context.in_time(walks(), self.n_items, lambda tile: len(tile[0]))
        to, weights = heaviest(tiles, self.n_items, self.config.neighbors)  # (I, K) each, by source
        if self.config.normalize:
            weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
        self.neighbors, self.weights = reversed_edges(to, weights)
