"""MovieLens 100K as tensors, for the tests of quality of single families; skips where it is absent."""

from collections.abc import Callable

import polars as pl
import torch
from torch import Tensor

from pipeline.core.seeding import generator
from pipeline.models import Recommender
from pipeline.training.interactions import Interactions
from tests.support.data_sets import data_set


def ratings(file: str = "u.data") -> Interactions:
    """Rows of one of its files, ordered by user, time and a seeded number; ids less 1 are the indices."""
    rows = pl.read_csv(
        data_set("ml-100k") / file,
        separator="\t",
        has_header=False,
        new_columns=["user", "item", "rating", "time"],
    )
    tie = generator(0, "ties").random(rows.height)
    rows = rows.with_columns(pl.Series("tie", tie)).sort("user", "time", "tie")
    columns = {
        name: torch.from_numpy(rows[name].to_numpy(writable=True)) for name in ("user", "item", "rating", "time")
    }
    return Interactions(
        columns["user"] - 1,
        columns["item"] - 1,
        943,
        1682,
        columns["rating"].float(),
        columns["time"] * 1_000_000,
    )


def leave_last_out() -> tuple[Interactions, Tensor, Tensor]:
    """Train, and each user's last item: users (U,) and items (U,)."""
    rows = ratings()
    last = torch.cat([rows.users.diff() > 0, torch.tensor([True])])  # (N,)
    return rows.select(~last), rows.users[last], rows.items[last]


def ten_a_user_out() -> tuple[Interactions, Callable[[Tensor], float]]:
    """Train of the published split `ua`, and a function of scores (U, I): the share of its test rows among the best 10."""
    train, test = ratings("ua.base"), ratings("ua.test")
    known = train.history().dense()  # (U, I)

    def recall(scores: Tensor) -> float:
        listed = scores.masked_fill(known > 0, -torch.inf).topk(10).indices  # (U, 10)
        return float((listed[test.users] == test.items[:, None]).any(1).double().mean())

    return train, recall


def hit_rate(model: Recommender, train: Interactions, users: Tensor, items: Tensor, k: int = 10) -> float:
    """Share of users whose item is among the k best of those they don't have in train."""
    history = train.history()[users]
    with torch.no_grad():
        scores = model.score(users, history).masked_fill(history.dense() > 0, -torch.inf)  # (U, I)
    own = scores.gather(1, items[:, None])  # (U, 1)
    return ((scores > own).sum(1) < k).float().mean().item()
