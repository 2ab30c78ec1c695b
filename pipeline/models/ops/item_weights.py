"""Entries of item-to-item matrices for many pairs at once: from an event of a history to an item of its list."""

import torch
from torch import Tensor

from pipeline.training.interactions import History


def entries(weights: Tensor, history: History, items: Tensor) -> Tensor:
    """weights[event, item] of a dense (I, I) matrix, times the weights of the E events: for (B, K) items, (E, K)."""
    return _times_events(weights[history.items[:, None], items[history.rows]], history)


class WeightTable:
    """A sparse item-to-item matrix that is looked up by pairs. Each pair occurs at most once."""

    def __init__(self, targets: Tensor, sources: Tensor, weights: Tensor, n_items: int):
        """(N,) each, in any order."""
        self.n_items = n_items
        self.keys, order = torch.sort(targets * n_items + sources)  # (N,)
        self.weights = weights[order]

    def entries(self, history: History, items: Tensor) -> Tensor:
        """Weights from E events to (B, K) items of their rows, times those of the events, (E, K); 0 where none is."""
        wanted = items[history.rows] * self.n_items + history.items[:, None]  # (E, K)
        if not len(self.keys):
            return torch.zeros(wanted.shape, device=wanted.device)
        at = torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)
        return _times_events(torch.where(self.keys[at] == wanted, self.weights[at], 0.0), history)


def _times_events(values: Tensor, history: History) -> Tensor:
    return values if history.weights is None else values * history.weights[:, None]
