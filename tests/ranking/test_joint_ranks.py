"""Splits that are ranked together have the ranks and lists that each has alone, and every user is scored once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.ranking import joint_ranks as joint
from pipeline.ranking import ranks as ranking
from pipeline.ranking.joint_ranks import JointRanking, SplitTask, joint_ranks
from pipeline.ranking.ranks import ScoreError
from pipeline.training.interactions import History
from tests.support import models

N, N_ITEMS, DEPTH = 30, 40, 7


class Reader(models.Fixed):
    reads_history = True


def asked(rng: np.random.Generator, fitted: History, share: float) -> SplitTask:
    """Some of the users, each with the fitted items and a few more masked, and other ones held out."""
    users = torch.from_numpy(np.flatnonzero(rng.random(N) < share))
    masked, held = [], []
    for user in users.tolist():
        known = fitted.items[fitted.offsets[user] : fitted.offsets[user + 1]].tolist()
        others = [item for item in rng.permutation(N_ITEMS).tolist() if item not in known]
        masked.append(known + others[:3])
        held.append(others[3 : 3 + rng.integers(1, 4)])
    return SplitTask(users, History.of_lists(masked, N_ITEMS), History.of_lists(held, N_ITEMS))


@pytest.mark.parametrize(("share", "levels", "tile"), [(0.6, 4, 3), (1.0, 1000, None), (0.1, 2, 1), (0.0, 2, 4)])
def test_ranked_together_as_alone(monkeypatch: pytest.MonkeyPatch, share: float, levels: int, tile: int | None):
    monkeypatch.setattr(joint, "USERS", 8)
    rng = np.random.default_rng(levels)
    lists = [rng.permutation(N_ITEMS)[: rng.integers(0, 6)].tolist() for _ in range(N)]  # some users have none
    fitted = History.of_lists(lists, N_ITEMS).narrow()
    table = torch.randint(levels, (N, N_ITEMS), generator=torch.Generator().manual_seed(0)).float()
    popular, allowed = torch.arange(float(N_ITEMS)), torch.from_numpy(rng.random(N_ITEMS) < 0.8)
    tasks = [asked(rng, fitted, share), asked(rng, fitted, 0.7)]
    model = Reader(table)
    together = joint_ranks(JointRanking(model, fitted, DEPTH, allowed, popular), tasks, tile)
    warm = fitted.lengths > 0
    assert model.asked == int(warm[torch.unique(torch.cat([q.users for q in tasks]))].sum())
    for task, got in zip(tasks, together, strict=True):
        rows = (task.users, fitted[task.users], task.mask, task.holdout)
        alone = ranking.holdout_ranks(Reader(table), *rows, DEPTH, allowed=allowed, fallback=popular)
        assert torch.equal(got.ranks, alone.ranks) and torch.equal(got.offsets, alone.offsets)
        assert torch.equal(got.warm, alone.warm)
        assert got.lists is not None and alone.lists is not None
        assert torch.equal(got.lists.items, alone.lists.items) and torch.equal(got.lists.scores, alone.lists.scores)
        assert torch.equal(got.lists.from_fallback, alone.lists.from_fallback)


def test_scores_that_are_no_numbers_raise():
    table: Tensor = torch.zeros(N, N_ITEMS)
    table[3, 2] = torch.nan
    fitted = History.of_lists([[0]] * N, N_ITEMS)
    task = SplitTask(torch.arange(N), fitted, History.of_lists([[1]] * N, N_ITEMS))
    with pytest.raises(ScoreError, match="user 3"):
        joint_ranks(JointRanking(Reader(table), fitted, DEPTH), [task, task])
