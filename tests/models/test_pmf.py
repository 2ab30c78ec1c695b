"""Probabilistic matrix factorization: ratings in their unit, priors, biases, starts, and its error."""

import pytest
import torch
from pydantic import ValidationError

from pipeline.core.seeding import seed_of
from pipeline.models.ops.squared_error import Pairs
from pipeline.models.pmf import Pmf, PmfConfig
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from tests.support import models
from tests.support.ratings import error, planted
from tests.support.real_data import ratings


def fitted(train: Interactions, **keys) -> Pmf:
    keys = {"embedding_dim": 4, "epochs": 60, "batch_size": 256, "learning_rate": 0.02, "l2": 0.005, **keys}
    return models.fitted(Pmf, train, **keys)


@pytest.mark.long
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"init": "uniform", "init_range": (-0.2, 0.2)},
        {"optimizer": "sgd", "learning_rate": 3.0, "momentum": 0.9, "dampening": 0.9, "epochs": 150},
        {"batch_size": 0, "epochs": 500},
    ],
    ids=str,
)
def test_finds_the_ratings_that_it_has_not_seen(keys: dict):
    train, truth = planted()
    assert truth.std() > 1.0
    assert error(fitted(train, **keys), truth) < 0.35


@pytest.mark.long
def test_biases_can_be_left_out():
    train, _ = planted()
    bare = fitted(train, user_bias=False, item_bias=False, global_bias=False, clip=False)
    assert bare.user_biases() is None and bare.item_biases() is None and bare.mean is None
    assert bare.item_vectors().shape == (40, 4) and bare.user_vectors().shape == (60, 4)
    pair = torch.tensor([3]), torch.tensor([5])
    assert bare.predict(*pair).item() == pytest.approx(
        (bare.user_vectors()[3] @ bare.item_vectors()[5]).item(), rel=1e-5
    )
    full = fitted(train)
    assert full.mean is not None and full.mean.item() == pytest.approx(10, abs=1)
    assert full.user_biases().shape == (60,) and full.item_biases().shape == (40,)


def test_a_strong_prior_leaves_the_mean():
    train, _ = planted()
    model = fitted(train, l2=1e4, epochs=120)
    everyone = torch.arange(60)
    with torch.no_grad():
        predicted = model.predict(everyone, torch.zeros_like(everyone))
    assert predicted.std() < 0.01 and predicted.mean().item() == pytest.approx(train.ratings.mean().item(), abs=0.3)


def rows_of_counts(*counts: int) -> Interactions:
    """User u has counts[u] ratings of 3, of items of their own; everybody else's mean is far away."""
    users = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ratings = torch.where(users == len(counts) - 1, 0.0, 3.0)
    return Interactions(users, torch.arange(len(users)), len(counts), len(users), ratings)


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [0, 64])
def test_a_prior_a_row_holds_those_with_few_ratings_back_most(batch_size: int):
    """As in the paper: least squares under l2 a user gives Σ r / (n + l2); under l2 a rating, r / (1 + l2)."""
    train = rows_of_counts(2, 40, 200)
    keys = {"item_bias": False, "global_bias": False, "embedding_dim": 1, "init_std": 1e-9, "clip": False}
    keys |= {"batch_size": batch_size, "epochs": 200, "learning_rate": 0.1, "schedule": "cosine", "l2_bias": 2.0}
    row, rating = (fitted(train, l2=1e3, l2_per=per, **keys).user_biases() for per in ("row", "rating"))
    assert row is not None and rating is not None
    assert row[:2].tolist() == pytest.approx([3 * 2 / 4, 3 * 40 / 42], abs=0.05)
    assert rating[:2].tolist() == pytest.approx([1, 1], abs=0.05)


def test_predictions_stay_within_the_ratings_but_scores_do_not_tie():
    train, _ = planted()
    model = fitted(train)
    assert model.mean is not None and train.ratings is not None
    with torch.no_grad():
        model.mean += 100
        users, items = torch.arange(40), torch.arange(40)
        assert torch.equal(model.predict(users, items), train.ratings.max().expand(40))
        scores = model.score(torch.tensor([0]), History.of_lists([[]], 40))  # (1, I)
    assert scores.unique().numel() == 40


def test_rows_without_a_rating_are_left_out_and_not_positive_ones_kept():
    train, _ = planted()
    assert train.ratings is not None
    odd = torch.arange(len(train)) % 2 == 1
    holes = Interactions(train.users, train.items, 60, 40, train.ratings.masked_fill(odd, torch.nan))
    half = train.select(~odd)
    unliked = Interactions(
        half.users, half.items, 60, 40, half.ratings, positive=torch.zeros(len(half), dtype=torch.bool)
    )
    expected = fitted(half, epochs=3).state_dict()
    for other in (holes, unliked):
        for name, tensor in fitted(other, epochs=3).state_dict().items():
            assert torch.equal(tensor, expected[name]), name


def test_needs_ratings():
    pair = torch.tensor([0])
    for ratings_ in (None, torch.tensor([torch.nan])):
        with pytest.raises(NotServable, match="ratings"):
            fitted(Interactions(pair, pair, 1, 1, ratings_))


def test_impossible_keys_are_refused():
    for keys in ({"l2": -1}, {"init": "xavier"}, {"init_range": [0.1]}):
        with pytest.raises(ValidationError):
            PmfConfig(**keys)


@pytest.mark.long
def test_beats_the_mean_by_far_on_the_published_fold():
    train, test = ratings("u1.base"), ratings("u1.test")
    model = Pmf(PmfConfig(), train.n_users, train.n_items)
    model.fit(train, FitContext())
    with torch.no_grad():
        rmse = (model.predict(test.users, test.items) - test.ratings).square().mean().sqrt().item()
    assert rmse < 0.95  # the mean of train: 1.154


AS_WRITTEN = {
    "embedding_dim": 3, "batch_size": 0, "optimizer": "sgd", "momentum": 0.9, "dampening": 0.9, "schedule": "constant",
    "weight_decay": 0.0004, "l2": 0.0, "init": "uniform", "init_range": (0.0, 11 / 3), "clip": False,
    "user_bias": False, "item_bias": False, "global_bias": False, "learning_rate": 0.5,
}  # fmt: skip


def by_hand(model: Pmf, train: Interactions, iterations: int) -> tuple[torch.Tensor, torch.Tensor]:
    """v = 0.9 v + 0.1 g from v = 0, g of the mean squared error plus λ (|P|² + |Q|²), over a dense matrix."""
    p, q = model.user.weight.detach().double(), model.item.weight.detach().double()
    dense = torch.zeros(train.n_users, train.n_items, dtype=torch.float64)
    known = dense.clone()
    dense[train.users, train.items] = train.ratings.double()
    known[train.users, train.items] = 1.0
    v_p, v_q = torch.zeros_like(p), torch.zeros_like(q)
    for _ in range(iterations):
        delta = (dense - p @ q.T) * known  # (U, I)
        g_p = -2 / len(train) * delta @ q + 0.0004 * p
        g_q = -2 / len(train) * delta.T @ p + 0.0004 * q
        v_p, v_q = 0.9 * v_p + 0.1 * g_p, 0.9 * v_q + 0.1 * g_q
        p, q = p - 0.5 * v_p, q - 0.5 * v_q
    return p, q


def test_gradient_descent_with_momentum_is_that_of_the_formula():
    train, _ = planted()
    start = fitted(train, **AS_WRITTEN, epochs=1)
    with torch.no_grad():  # the first values, before any step
        start._start(train.ratings, seed_of(42, "init"), torch.device("cpu"))
    expected = by_hand(start, train, 40)
    model = fitted(train, **AS_WRITTEN, epochs=40)
    torch.testing.assert_close(model.user.weight.double(), expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.item.weight.double(), expected[1], rtol=1e-4, atol=1e-4)


def test_uniform_start_fills_its_range():
    train, _ = planted(400, 300)
    model = Pmf(PmfConfig(**AS_WRITTEN), 400, 300)
    model._start(train.ratings, 1, torch.device("cpu"))
    for table in (model.user.weight, model.item.weight):
        assert 0 <= table.min() < 0.05 and 11 / 3 - 0.05 < table.max() < 11 / 3
        assert table.mean().item() == pytest.approx(11 / 6, abs=0.1)


@pytest.mark.parametrize("keys", [{}, {"l2_per": "row", "l2_bias": 0.5}, {"user_bias": False}, {"global_bias": False}])
def test_all_ratings_at_once_have_the_loss_and_the_gradient_of_one_batch_of_them(keys):
    train, _ = planted()
    model = fitted(train, epochs=2, l2=0.3, **keys)
    priors = model._priors(train)
    everything = torch.arange(len(train))
    error = train.ratings - model._raw(train.users, train.items)  # (N,)
    loss = error.square()
    for table, of_user, l2 in priors:
        index = (train.users if of_user else train.items)[everything]
        loss = loss + l2[index] * table(index).square().sum(1)
    expected = torch.autograd.grad(loss.mean(), list(model.parameters()))
    at_once = model._loss_of_all(Pairs(train.users, train.items, 60, 40), train.ratings, priors)
    torch.testing.assert_close(at_once, loss.mean())
    torch.testing.assert_close(torch.autograd.grad(at_once, list(model.parameters())), expected, rtol=1e-4, atol=1e-6)


def test_factors_give_the_scores():
    train, _ = planted()
    for keys in ({}, {"user_bias": False, "global_bias": False}, {"item_bias": False}):
        model = fitted(train, epochs=2, **keys)
        users, items, bias = model.factors()
        expected = model.score(torch.arange(60), train.history())
        torch.testing.assert_close(users @ items.T + (0 if bias is None else bias), expected)


def test_the_log_has_the_error_on_train_whenever_valid_is_measured():
    train, _ = planted()
    logged = {}
    model = Pmf(PmfConfig(epochs=6, validate_every=2, l2=0.5), 60, 40)
    model.fit(train, FitContext(validate=lambda m: -len(logged), log=logged.__setitem__))
    assert [epoch for epoch, values in logged.items() if "train_mse" in values] == [2, 4, 6]
    assert all(values["train_mse"] < values["loss"] for values in logged.values() if "train_mse" in values)
