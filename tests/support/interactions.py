"""Random interactions for the tests of model families."""

import polars as pl
import torch
from torch import Tensor

from pipeline.training.interactions import Interactions


def random_interactions(n_users: int = 60, n_items: int = 40, share: float = 0.2) -> Interactions:
    """Two groups of users who mostly keep to their half of the items; the last user and item have no row."""
    likes = torch.arange(n_users)[:, None] % 2 == torch.arange(n_items) % 2  # (U, I)
    odds = torch.where(likes, share * 1.8, share * 0.2)
    odds[-1], odds[:, -1] = 0, 0
    users, items = (torch.rand(odds.shape, generator=torch.Generator().manual_seed(1)) < odds).nonzero().unbind(1)
    return Interactions(users, items, n_users, n_items)


def frame(path, **options) -> Tensor:
    table = pl.read_csv(path, separator="\t", has_header=False, **options)
    return torch.from_numpy(table.to_numpy().astype("int64"))
