"""RP3beta: the walk by hand and by matrices."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.models.ops.topk import largest
from pipeline.models.rp3beta import Rp3Beta, Rp3BetaConfig
from pipeline.training.interactions import History, Interactions
from tests.support.interactions import random_interactions
from tests.support.models import fitted
from tests.support.real_data import ten_a_user_out


def similarity(model: Rp3Beta) -> Tensor:
    """From item i (row) to item j (column), (I, I)."""
    return model.similar(torch.arange(model.n_items))


def walks(train: Interactions, alpha: float, beta: float) -> Tensor:
    """P_iu^α P_ui^α / n_j^β without its diagonal, from dense matrices, (I, I)."""
    x = train.history().dense()  # (U, I)
    n_users, n_items = x.sum(0).clamp_min(1), x.sum(1, keepdim=True).clamp_min(1)  # of an item, of a user
    walk = (x / n_users).T ** alpha @ (x / n_items) ** alpha
    return (walk / n_users**beta).fill_diagonal_(0)


def test_by_hand():
    """Items 0 and 1 meet in user 0 (2 items); item 0 has 2 users, item 1 one: 0 to 1 is ½·½, 1 to 0 is 1·½/2^β."""
    train = Interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 2, 3)
    got = similarity(fitted(Rp3Beta, train, alpha=1.0, beta=1.0, normalize=False))
    torch.testing.assert_close(got, torch.tensor([[0, 0.25, 0], [0.25, 0, 0], [0, 0, 0]]))
    got = similarity(fitted(Rp3Beta, train, alpha=2.0, beta=0.0, normalize=False))
    torch.testing.assert_close(got, torch.tensor([[0, 0.0625, 0], [0.25, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("alpha, beta", [(1.0, 0.0), (1.4, 0.3), (0.5, 1.0)])
def test_all_edges_are_the_walk(alpha: float, beta: float):
    train = random_interactions()
    expected = walks(train, alpha, beta)
    torch.testing.assert_close(
        similarity(fitted(Rp3Beta, train, neighbors=40, alpha=alpha, beta=beta, normalize=False)), expected
    )
    sums = expected.sum(1, keepdim=True).clamp_min(1e-30)
    torch.testing.assert_close(
        similarity(fitted(Rp3Beta, train, neighbors=40, alpha=alpha, beta=beta)), expected / sums
    )


def test_heaviest_edges_from_an_item_then_to_an_item():
    train = random_interactions()
    walk = similarity(fitted(Rp3Beta, train, neighbors=40, normalize=False))
    values, ends, _ = largest(walk, 4)
    kept = torch.zeros_like(walk).scatter(1, ends, values / values.sum(1, keepdim=True).clamp_min(1e-30))
    values, starts, _ = largest(kept.T, 4)
    expected = torch.zeros_like(kept).scatter(0, starts.T, values.T)
    got = similarity(fitted(Rp3Beta, train, neighbors=4))
    torch.testing.assert_close(got, expected)
    assert ((got > 0).sum(0) <= 4).all() and (got > 0).sum() < (kept > 0).sum(), "some edges were dropped"


def test_beta_holds_popular_items_back():
    train = random_interactions()
    popular = train.item_counts().argsort(descending=True)[:8]
    share = [similarity(fitted(Rp3Beta, train, beta=beta))[:, popular].sum().item() for beta in (0.0, 0.5, 1.0)]
    assert share[0] > share[1] > share[2]


def test_new_users_and_empty_histories():
    model = fitted(Rp3Beta, random_interactions())
    lists = [[0, 2, 4], [], [39]]  # 39 is an item without a row
    got = model.score(torch.full((3,), -1), History.of_lists(lists, 40))
    assert got.shape == (3, 40) and torch.isfinite(got).all()
    assert got[0, 6::2].mean() > got[0, 7::2].mean() and not got[1:].any()


@pytest.mark.parametrize("wrong", [{"alpha": -1}, {"beta": -0.1}, {"neighbors": 0}, {"shrink": 1}])
def test_config_refuses(wrong: dict):
    with pytest.raises(ValidationError):
        Rp3BetaConfig(**wrong)


def test_movielens_100k_beats_popularity():
    train, recall = ten_a_user_out()
    model = fitted(Rp3Beta, train)
    popularity = recall(train.item_counts().expand(943, -1))
    assert recall(model.score(torch.arange(943), train.history())) > 1.5 * popularity
