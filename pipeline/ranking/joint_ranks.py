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
class Question:
    """What one split asks; rows of `mask` and `holdout` belong to `users`, which ascend."""

    users: Tensor
    """(N,)"""
    mask: History
    holdout: History


@dataclass(frozen=True)
class Answerer:
    """A model, and what is the same for all questions."""

    model: Recommender
    history: History
    """(U rows) what the model may read, by user."""
    depth: int
    allowed: Tensor | None = None
    fallback: Tensor | None = None

    def maker(self, question: Question, tile: int | None) -> ListMaker:
        """Makes the lists of a question."""
        users = question.users
        inputs = ServeInputs(users, _wide(self.history[users]), question.mask, self.fallback)
        return ListMaker(inputs, self.depth, self.allowed, tile, question.holdout)


@torch.no_grad()
def joint_ranks(answerer: Answerer, questions: Sequence[Question], tile: int | None = None) -> list[Ranks]:
    """`ranks.holdout_ranks` of every question, each user scored once; the caller has called `refuse_leak`.

    `tile`: users scored at once. ScoreError: a score is NaN or +inf.
    """
    of_users = [question.users for question in questions]
    parts: list[list[tuple[Lists, Tensor]]] = [[] for _ in questions]
    for users in torch.unique(torch.cat(of_users)).split(USERS):
        some = [_between(question, users) for question in questions]
        for own, lists_and_ranks in zip(parts, _answer(answerer, some, tile), strict=True):
            own.append(lists_and_ranks)
    joint = []
    for question, own in zip(questions, parts, strict=True):
        ranks = torch.cat([ranks for _, ranks in own])  # (E,)
        warm = answerer.history.lengths[question.users] > 0  # (N,)
        lists = Lists.joined([lists for lists, _ in own])
        joint.append(Ranks(question.holdout.offsets, ranks, answerer.depth, warm, lists))
    return joint


def _answer(answerer: Answerer, questions: Sequence[Question], tile: int | None) -> list[tuple[Lists, Tensor]]:
    """Lists of the users of each question, and ranks of its holdout events."""
    model, history = answerer.model, answerer.history
    makers = [answerer.maker(question, tile) for question in questions]
    left = [maker.start(model).nonzero().squeeze(1) for maker in makers]  # (R,) rows of each
    asked = torch.unique(torch.cat([q.users[rows] for q, rows in zip(questions, left, strict=True)]))  # (S,)
    size = tile or bulk_size(model, history.n_items, asked.device)
    for at in in_tiles(torch.ones_like(asked, dtype=torch.bool), size):
        users = asked[at]  # (B,)
        scores = model.score(users, _wide(history[users]))  # (B, I)
        for question, maker, rows in zip(questions, makers, left, strict=True):
            of_rows = question.users[rows]  # (R,)
            own = rows[(of_rows >= users[0]) & (of_rows <= users[-1])]
            for some in own.split(maker.size):
                place = torch.searchsorted(users, question.users[some])
                maker.take(some, scores if len(some) == len(users) else scores[place])
    found = []
    for question, maker in zip(questions, makers, strict=True):
        lists, equals = maker.end()
        found.append((lists, ranks_in(lists, equals, question.holdout, answerer.depth)))
    return found


def _between(question: Question, users: Tensor) -> Question:
    """The part of a question for the users between the first and the last one, both included."""
    rows = ((question.users >= users[0]) & (question.users <= users[-1])).nonzero().squeeze(1)
    if len(rows) == len(question.users):
        return question
    return Question(question.users[rows], question.mask[rows], question.holdout[rows])


def _wide(history: History) -> History:
    """The same with ids and places of 64 bits, as models read them."""
    return History(history.offsets.long(), history.items.long(), history.n_items, history.facts, history.weights)
