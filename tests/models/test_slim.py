"""SLIM by ADMM: its optimum by conditions and by a slow reference, what is left out, deadlines and memory."""

import time

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.models import slim
from pipeline.models.ease import Ease, EaseConfig
from pipeline.models.slim import Slim, SlimConfig
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from tests.support.interactions import random_interactions
from tests.support.models import fitted
from tests.support.real_data import ten_a_user_out

TIGHT = {"tolerance": 1e-6, "iterations": 5000, "rho": 10.0}


def weights(model: Slim) -> Tensor:
    """B, (I, I)."""
    return model.similar(torch.arange(model.n_items))


def by_coordinates(gram: Tensor, l1: float, l2: float, nonnegative: bool) -> Tensor:
    """B by cyclic coordinate descent in float64, one weight of one item at a time (Friedman et al. 2010), (I, I)."""
    n, solved = len(gram), torch.zeros_like(gram)
    for _ in range(300):
        for i in range(n):
            rest = gram[i] - gram[i] @ solved + gram[i, i] * solved[i]  # (I,) what weight i has to explain, by target
            soft = (rest - l1).clamp(min=0)
            soft = soft if nonnegative else soft - (-rest - l1).clamp(min=0)
            solved[i] = soft / (gram[i, i] + l2)
            solved[i, i] = 0
    return solved


@pytest.mark.long
@pytest.mark.parametrize(
    "l1, l2, nonnegative", [(2.0, 5.0, True), (1.0, 0.5, True), (0.3, 1.0, False), (0.0, 1.0, True)]
)
def test_the_optimum_is_that_of_coordinate_descent(l1: float, l2: float, nonnegative: bool):
    train = random_interactions()
    x = train.history().dense().double()  # (U, I)
    expected = by_coordinates(x.T @ x, l1, l2, nonnegative)
    got = weights(fitted(Slim, train, l1=l1, l2=l2, nonnegative=nonnegative, **TIGHT)).double()
    assert (expected > 0.01).sum() > 50 and (nonnegative or (expected < -0.001).any())
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)


def test_the_reference_is_an_optimum_itself():
    """Conditions of Karush, Kuhn and Tucker for B >= 0: the slope is 0 where B > 0, and not negative where it is 0."""
    x = random_interactions().history().dense().double()
    gram, l1, l2 = x.T @ x, 2.0, 5.0
    solved = by_coordinates(gram, l1, l2, True)
    slope = gram @ solved - gram + l2 * solved + l1  # (I, I)
    slope.fill_diagonal_(0)
    assert slope[solved > 0].abs().max() < 1e-6 and slope[solved == 0].min() > -1e-6


@pytest.mark.long
def test_scikit_learn_finds_the_same_optimum():
    linear = pytest.importorskip("sklearn.linear_model")
    train, l1, l2 = random_interactions(), 1.0, 5.0
    got, x = (
        weights(fitted(Slim, train, l1=l1, l2=l2, **TIGHT)),
        train.history().dense().double().numpy(),
    )  # (I, I), (U, I)
    for target in range(0, 39, 5):
        others = x.copy()
        others[:, target] = 0  # it may not explain itself
        net = linear.ElasticNet(  # (l1 + l2) / U and l1 / (l1 + l2): its terms are means over the users
            alpha=(l1 + l2) / len(x),
            l1_ratio=l1 / (l1 + l2),
            fit_intercept=False,
            positive=True,
            tol=1e-10,
            max_iter=9999,
        )
        expected = torch.from_numpy(net.fit(others, x[:, target]).coef_).float()  # (I,)
        torch.testing.assert_close(got[:, target], expected, rtol=0, atol=2e-4)


def test_without_l1_and_signs_it_is_ease():
    train = random_interactions()
    ease = Ease(EaseConfig(l2=20.0), train.n_users, train.n_items)
    ease.fit(train, FitContext())
    users = torch.arange(train.n_users)
    got = fitted(Slim, train, l1=0.0, l2=20.0, nonnegative=False, **TIGHT).score(users, train.history())
    torch.testing.assert_close(got, ease.score(users, train.history()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("changed", [{"rho": 40.0}, {"tile": 3}])
def test_neither_rho_nor_tiles_move_the_optimum(changed: dict, monkeypatch):
    expected = weights(fitted(Slim, random_interactions(), l1=1.0, l2=5.0, **TIGHT))
    monkeypatch.setattr(slim, "TILE", changed.pop("tile", slim.TILE))
    got = weights(fitted(Slim, random_interactions(), l1=1.0, l2=5.0, **{**TIGHT, **changed}))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_few_weights_none_negative_none_to_itself():
    few, many = (weights(fitted(Slim, random_interactions(), l1=l1, l2=5.0)) for l1 in (5.0, 0.5))
    assert 0 < (few != 0).sum() < 0.5 * (many != 0).sum()
    assert many.min() == 0 and not many.diagonal().any()


def test_items_of_few_users_are_not_solved_for():
    """Item 2 has as many users as l1 is worth: no weight from it or to it can pay."""
    lists = [[0, 1, 2], [0, 1, 2], [0, 1], [0, 1], [3]]
    users = torch.tensor([u for u, items in enumerate(lists) for _ in items])
    train = Interactions(users, torch.tensor([i for items in lists for i in items]), 5, 5)
    model = fitted(Slim, train, l1=2.0, l2=1.0, max_side=2, **TIGHT)
    got = weights(model)
    assert got[0, 1] > 0.1 and not got[2:].any() and not got[:, 2:].any()
    with pytest.raises(NotServable, match="would solve for 4 items; max_side = 2"):
        fitted(Slim, train, l1=2.0, l2=1.0, nonnegative=False, max_side=2)


def test_contributions_sum_to_the_score():
    train = random_interactions()
    model, history = fitted(Slim, train, l1=0.5, l2=5.0), train.history()[torch.tensor([3])]
    scores = model.score(torch.tensor([3]), history)[0]  # (I,)
    parts = torch.stack([model.contributions(3, history, item) for item in range(40)])  # (I, E)
    torch.testing.assert_close(parts.sum(1), scores)
    assert scores.max() > 0


def test_an_empty_model_scores_nothing():
    model = fitted(Slim, random_interactions(), l1=1e6)
    assert not model.score(torch.tensor([0]), History.of_lists([[1, 2]], 40)).any()


def test_the_deadline_cuts_iterations_off_or_refuses(monkeypatch):
    monkeypatch.setattr(slim, "TILE", 4)
    now = [0.0]
    monkeypatch.setattr(slim.time, "monotonic", lambda: now[0])
    solve = Slim._solve
    asked = []

    def slow(self, inverse, targets, most):
        asked.append(most)
        columns, iterations = solve(self, inverse, targets, most)
        now[0] += iterations  # a second each
        return columns, iterations

    monkeypatch.setattr(Slim, "_solve", slow)
    config = {"l1": 0.5, "l2": 5.0, "iterations": 40, "tolerance": 1e-9, "nonnegative": False}
    context = FitContext(deadline=40.0 + 9 * 8)  # ten tiles; after the first, eight seconds for each of the others
    fitted(Slim, random_interactions(), context, **config)
    assert context.cut_short and asked[:2] == [40, 8] and now[0] <= context.deadline
    now[0], context = 0.0, FitContext(deadline=1000.0)
    fitted(Slim, random_interactions(), context, **config)
    assert not context.cut_short
    now[0] = 0.0
    with pytest.raises(NotServable, match="would not end in time: an iteration of all items takes 10"):
        fitted(Slim, random_interactions(), FitContext(deadline=41.0), **config)


def test_memory_is_asked_for_before_it_is_taken():
    with pytest.raises(NotServable, match="matrices"):
        fitted(Slim, random_interactions(), FitContext(memory=4 * 3 * 30**2))
    with pytest.raises(NotServable, match="too many weights"):
        fitted(Slim, random_interactions(), FitContext(memory=4 * 3 * 40**2), l1=0.0, l2=1.0, nonnegative=False)


@pytest.mark.parametrize("wrong", [{"l1": -1}, {"rho": 0}, {"l2": -0.1}, {"iterations": 0}, {"lambda": 1}])
def test_config_refuses(wrong: dict):
    with pytest.raises(ValidationError):
        SlimConfig(**wrong)


@pytest.mark.timing
def test_movielens_100k_beats_popularity_in_seconds():
    train, recall = ten_a_user_out()
    started = time.monotonic()
    model = fitted(Slim, train)
    assert time.monotonic() - started < 60
    popularity = recall(train.item_counts().expand(943, -1))
    assert recall(model.score(torch.arange(943), train.history())) > 1.5 * popularity
