"""Ranks of several splits from the same scores, where a model reads the same history for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.base import Recommender
from pipeline.ranking.ranks import USERS, Ranks, ranks_in
from pipeline.ranking.recommend import ListMaker, Lists, ServeInputs, bulk_size, in_tiles
from pipeline.training.interactions import History


@dataclass(frozen=True)
class SplitTask:
    """Whom and what one split ranks; rows of `mask` and `holdout` belong to `users`, which ascend."""

    users: Tensor
    """(N,)"""
    mask: History
    holdout: History


@dataclass(frozen=True)
class JointRanking:
    """A model, and what is the same for all tasks."""

    model: Recommender
    history: History
    """(U rows) what the model may read, by user."""
    depth: int
    allowed: Tensor | None = None
    fallback: Tensor | None = None

    def maker(self, task: SplitTask, tile: int | None) -> ListMaker:
        """Makes the lists of a task."""
        users = task.users
        inputs = ServeInputs(users, _wide(self.history[users]), task.mask, self.fallback)
        return ListMaker(inputs, self.depth, self.allowed, tile, task.holdout)


@torch.no_grad()
def joint_ranks(ranking: JointRanking, tasks: Sequence[SplitTask], tile: int | None = None) -> list[Ranks]:
    """`ranks.holdout_ranks` of every task, each user scored once; the caller has called `refuse_leak`.

    `tile`: users scored at once. ScoreError: a score is NaN or +inf.
    """
    of_users = [task.users for task in tasks]
    parts: list[list[tuple[Lists, Tensor]]] = [[] for _ in tasks]
    for users in torch.unique(torch.cat(of_users)).split(USERS):
        some = [_between(task, users) for task in tasks]
        for own, lists_and_ranks in zip(parts, _lists_and_ranks(ranking, some, tile), strict=True):
            own.append(lists_and_ranks)
    joint = []
    for task, own in zip(tasks, parts, strict=True):
        ranks = torch.cat([ranks for _, ranks in own])  # (E,)
        warm = ranking.history.lengths[task.users] > 0  # (N,)
        lists = Lists.joined([lists for lists, _ in own])
        joint.append(Ranks(task.holdout.offsets, ranks, ranking.depth, warm, lists))
    return joint


def _lists_and_ranks(ranking: JointRanking, tasks: Sequence[SplitTask], tile: int | None) -> list[tuple[Lists, Tensor]]:
    """Lists of the users of each task, and ranks of its holdout events."""
    model, history = ranking.model, ranking.history
    makers = [ranking.maker(task, tile) for task in tasks]
    left = [maker.start(model).nonzero().squeeze(1) for maker in makers]  # (R,) rows of each
    asked = torch.unique(torch.cat([task.users[rows] for task, rows in zip(tasks, left, strict=True)]))  # (S,)
    size = tile or bulk_size(model, history.n_items, asked.device)
    for at in in_tiles(torch.ones_like(asked, dtype=torch.bool), size):
        users = asked[at]  # (B,)
        scores = model.score(users, _wide(history[users]))  # (B, I)
        for task, maker, rows in zip(tasks, makers, left, strict=True):
            of_rows = task.users[rows]  # (R,)
            own = rows[(of_rows >= users[0]) & (of_rows <= users[-1])]
            for some in own.split(maker.size):
                place = torch.searchsorted(users, task.users[some])
                maker.take(some, scores if len(some) == len(users) else scores[place])
    found = []
    for task, maker in zip(tasks, makers, strict=True):
        lists, equals = maker.end()
        found.append((lists, ranks_in(lists, equals, task.holdout, ranking.depth)))
    return found


def _between(task: SplitTask, users: Tensor) -> SplitTask:
    """The part of a task for the users between the first and the last one, both included."""
    rows = ((task.users >= users[0]) & (task.users <= users[-1])).nonzero().squeeze(1)
    if len(rows) == len(task.users):
        return task
    return SplitTask(task.users[rows], task.mask[rows], task.holdout[rows])


def _wide(history: History) -> History:
    """The same with ids and places of 64 bits, as models read them."""
    return History(history.offsets.long(), history.items.long(), history.n_items, history.facts, history.weights)
