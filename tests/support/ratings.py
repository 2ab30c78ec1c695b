"""Ratings with a planted low-rank structure."""

import torch

from pipeline.models.pmf import Pmf
from pipeline.training.interactions import Interactions


def planted(n_users: int = 60, n_items: int = 40) -> tuple[Interactions, torch.Tensor]:
    """70 % of the ratings of a rank-1 world with biases, and all of them (U, I)."""
    rng = torch.Generator().manual_seed(0)
    tastes = torch.randn(n_users, 1, generator=rng) * torch.randn(1, n_items, generator=rng)
    biases = 0.5 * torch.randn(n_users, 1, generator=rng) + 0.5 * torch.randn(1, n_items, generator=rng)
    truth = 10 + tastes + biases  # (U, I)
    users, items = (torch.rand(n_users, n_items, generator=rng) < 0.7).nonzero(as_tuple=True)  # (N,) each
    return Interactions(users, items, n_users, n_items, truth[users, items]), truth


def error(model: Pmf, truth: torch.Tensor) -> float:
    users, items = torch.ones_like(truth).nonzero(as_tuple=True)
    with torch.no_grad():
        return (model.predict(users, items) - truth.flatten()).square().mean().sqrt().item()
