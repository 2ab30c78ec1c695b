"""Gibbs sampling of factorizations: draws of the right distribution, planted ratings found, nothing to tune."""

import numpy as np
import pytest
import torch

from pipeline.models.bpmf import Bpmf, BpmfConfig, Side, wishart
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions
from tests.support import models
from tests.support.ratings import error, planted


def fitted(train: Interactions, **keys) -> Bpmf:
    keys = {"embedding_dim": 4, "epochs": 60, "burn_in": 20, "samples": 20, **keys}
    return models.fitted(Bpmf, train, **keys)


def test_wishart_draws_have_their_mean():
    scale = np.array([[2.0, 0.5], [0.5, 1.0]])
    rng = np.random.default_rng(0)
    draws = np.stack([wishart(scale, 9, rng) for _ in range(4000)])
    assert np.allclose(draws.mean(0), 9 * scale, rtol=0.05)
    assert np.allclose(draws[:, 0, 0].var(), 2 * 9 * scale[0, 0] ** 2, rtol=0.1)  # of a chi-square


def test_a_draw_of_a_row_with_many_ratings_is_the_least_squares_solution():
    rng = torch.Generator().manual_seed(0)
    other = Side(torch.arange(500), torch.zeros(500).long(), torch.zeros(500), 500, 1, 2)
    other.rows = torch.randn(500, 3, generator=rng)
    truth = torch.tensor([1.5, -0.5, 0.25])  # two factors and the bias
    ratings = other.rows[:, :2] @ truth[:2] + truth[2] + other.rows[:, 2]
    side = Side(torch.zeros(500).long(), torch.arange(500), ratings, 1, 500, 2)
    side.draw(other, 1e6, rng, np.random.default_rng(0))
    torch.testing.assert_close(side.rows[0], truth, atol=0.01, rtol=0)


def test_finds_the_ratings_that_it_has_not_seen():
    train, truth = planted()
    assert error(fitted(train), truth) < 0.35


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_the_unit_of_ratings_is_all_the_same(unit):
    train, truth = planted()
    scaled = Interactions(train.users, train.items, 60, 40, train.ratings * unit)
    assert error(fitted(scaled), truth * unit) / unit == pytest.approx(error(fitted(train), truth), rel=0.02)


def test_averaging_samples_beats_one_of_them():
    train, truth = planted()
    assert error(fitted(train), truth) < error(fitted(train, samples=1), truth)


def test_the_number_of_sweeps_is_kept_for_the_refit():
    train, truth = planted()
    for epochs in (5, 31):  # within burn-in, and beyond
        model = Bpmf(BpmfConfig(embedding_dim=4, epochs=60, burn_in=20, samples=10), 60, 40)
        model.fit(train, FitContext(epochs=epochs))
        assert model.best_epoch == epochs and 1 <= model.kept <= 10
        assert error(model, truth) < truth.std()


def test_predictions_stay_within_the_ratings_and_scores_are_the_factors():
    train, _ = planted()
    model = fitted(train)
    users, items = torch.arange(40), torch.arange(40)
    assert model.predict(users, items).max() <= train.ratings.max()
    vectors, others, bias = model.factors()
    torch.testing.assert_close(vectors @ others.T + bias, model.score(torch.arange(60), train.history()))
    assert model.predict(users[:0], items[:0]).shape == (0,)


def test_needs_ratings_and_memory():
    train, _ = planted()
    with pytest.raises(NotServable, match="ratings"):
        fitted(Interactions(train.users, train.items, 60, 40))
    with pytest.raises(NotServable, match="bytes"):
        Bpmf(BpmfConfig(), 60, 40).fit(train, FitContext(memory=1000))
    with pytest.raises(NotServable, match="ratings"):
        Bpmf(BpmfConfig(), 1, 1).fit(
            Interactions(torch.tensor([0]), torch.tensor([0]), 1, 1, torch.tensor([torch.nan])), FitContext()
        )


def test_a_user_without_ratings_is_drawn_from_the_others():
    train, _ = planted()
    absent = train.select(train.users != 7)
    model = fitted(absent)
    scores = model.score(torch.tensor([7]), History.of_lists([[]], 40))
    assert scores.isfinite().all() and model.users[7].abs().max() > 0
