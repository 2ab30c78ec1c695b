"""Probabilistic matrix factorization: ratings in their unit, priors, biases, starts, and its error."""

import pytest
import torch
from pydantic import ValidationError
from real_data import ratings

from pipeline.context import FitContext, NotServable
from pipeline.interactions import History, Interactions
from pipeline.models.pmf import Pmf, PmfConfig


def planted(n_users: int = 60, n_items: int = 40) -> tuple[Interactions, torch.Tensor]:
    """70 % of the ratings of a rank-1 world with biases, and all of them (U, I)."""
    rng = torch.Generator().manual_seed(0)
    tastes = torch.randn(n_users, 1, generator=rng) * torch.randn(1, n_items, generator=rng)
    biases = 0.5 * torch.randn(n_users, 1, generator=rng) + 0.5 * torch.randn(1, n_items, generator=rng)
    truth = 10 + tastes + biases  # (U, I)
    users, items = (torch.rand(n_users, n_items, generator=rng) < 0.7).nonzero(as_tuple=True)  # (N,) each
    return Interactions(users, items, n_users, n_items, truth[users, items]), truth


def fitted(train: Interactions, **keys) -> Pmf:
    keys = {"embedding_dim": 4, "epochs": 60, "batch_size": 256, "learning_rate": 0.02, "l2": 0.005, **keys}
    model = Pmf(PmfConfig(**keys), train.n_users, train.n_items)
    model.fit(train, FitContext())
    return model


def error(model: Pmf, truth: torch.Tensor) -> float:
    users, items = torch.ones_like(truth).nonzero(as_tuple=True)
    with torch.no_grad():
        return (model.predict(users, items) - truth.flatten()).square().mean().sqrt().item()


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
    model = fitted(train, l2=1e4, epochs=300)
    everyone = torch.arange(60)
    with torch.no_grad():
        predicted = model.predict(everyone, torch.zeros_like(everyone))
    assert predicted.std() < 0.01 and predicted.mean().item() == pytest.approx(train.ratings.mean().item(), abs=0.3)


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


def test_beats_the_mean_by_far_on_the_published_fold():
    train, test = ratings("u1.base"), ratings("u1.test")
    model = Pmf(PmfConfig(), train.n_users, train.n_items)
    model.fit(train, FitContext())
    with torch.no_grad():
        rmse = (model.predict(test.users, test.items) - test.ratings).square().mean().sqrt().item()
    assert rmse < 0.95  # the mean of train: 1.154
