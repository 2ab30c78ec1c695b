"""Candidates of the sampled protocol: for every holdout user, random items without an interaction."""

import numpy as np
import torch
from torch import Tensor

from pipeline.core.seeding import generator
from pipeline.training.interactions import History

N_NEGATIVES = 99


def sampled_99(known: History, seed: int, split: str, n: int = N_NEGATIVES) -> Tensor:
    """Distinct items (N, n), drawn uniformly without replacement outside of `known`; -1 where fewer are left.

    Row b of `known` holds all interactions of a user: train, valid and test. The same arguments give the same items.

    Floyd's algorithm (Bentley and Floyd, "A sample of brilliance", CACM 30(9), 1987) draws ranks among the unknown
    items of each user, for all users at once; `_unknown` turns ranks into items.
    """
    pairs = torch.unique(known.rows * known.n_items + known.items).cpu().numpy()  # (E,) by row, then item
    rows, items = np.divmod(pairs, max(known.n_items, 1))  # (E,) each
    counts = np.bincount(rows, minlength=len(known))  # (N,)
    room = known.n_items - counts  # (N,) number of unknown items
    rng = generator(seed, "candidates", split)
    drawn = np.full((len(known), n), -1)  # (N, n) ranks
    for step in range(n):
        top = room - n + step  # (N,) draw among ranks 0 .. top; all earlier ranks are below top
        rank = rng.integers(0, np.maximum(top, 0) + 1)  # (N,)
        again = (drawn[:, :step] == rank[:, None]).any(1)  # (N,)
        drawn[:, step] = np.where(again, top, rank)
    few = room < n
    drawn[few] = np.where(np.arange(n) < room[few, None], np.arange(n), -1)  # all unknown items
    return torch.from_numpy(_unknown(drawn, rows, items, counts, known.n_items)).to(known.items.device)


def _unknown(ranks: np.ndarray, rows: np.ndarray, items: np.ndarray, counts: np.ndarray, n_items: int) -> np.ndarray:
    """The r-th unknown item of every row, for ranks (N, n); -1 stays -1.

    items[j] - j unknown items precede the j-th known item of a row. The r-th unknown item is preceded by all known
    items for which that number is <= r. Keys start with the row, so one search serves all rows.
    """
    first = np.cumsum(counts) - counts  # (N,) first pair of each row
    unknown_before = items - (np.arange(len(items)) - first[rows])  # (E,)
    keys = rows * (n_items + 1) + unknown_before  # (E,) sorted
    wanted = np.arange(len(ranks))[:, None] * (n_items + 1) + ranks  # (N, n)
    known_before = np.searchsorted(keys, wanted.ravel(), side="right").reshape(ranks.shape) - first[:, None]
    return np.where(ranks < 0, -1, ranks + known_before)
