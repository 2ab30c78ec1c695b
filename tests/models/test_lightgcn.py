"""LightGCN: propagation and its gradient against dense matrices, losses by hand, what is kept."""

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.conformance import checkerboard
from pipeline.models.lightgcn import LightGcn, LightGcnConfig, _graph
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import Interactions

N_USERS, N_ITEMS = 5, 7


@pytest.fixture
def train() -> Interactions:
    """User 4 and item 6 have no row; one pair comes twice."""
    users = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
    items = torch.tensor([0, 1, 1, 1, 2, 5, 3, 4])
    return Interactions(users, items, N_USERS, N_ITEMS)


def dense_graph(train: Interactions) -> torch.Tensor:
    """D^-½ A D^-½ by its definition, (U + I, U + I)."""
    x = train.history().dense()  # (U, I): 1 for a pair, however often
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS)
    a[:N_USERS, N_USERS:], a[N_USERS:, :N_USERS] = x, x.T
    scale = a.sum(1).clamp(min=1).rsqrt()
    return scale[:, None] * a * scale


def model_of(**config) -> LightGcn:
    model = LightGcn(LightGcnConfig(embedding_dim=4, **config), N_USERS, N_ITEMS)
    torch.nn.init.normal_(model.table.weight, generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_smoothing_and_its_gradient_are_those_of_dense_matrices(train, layers):
    model, graph = model_of(layers=layers), dense_graph(train)
    powers = [torch.linalg.matrix_power(graph, layer) for layer in range(layers + 1)]
    mean = torch.stack(powers).mean(0)
    smooth = model._smooth(_graph(train))
    torch.testing.assert_close(smooth, mean @ model.table.weight)
    weights = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    (smooth * weights).sum().backward()
    torch.testing.assert_close(model.table.weight.grad, mean.T @ weights)


def test_bpr_by_hand(train):
    model = model_of(loss="bpr", l2=0.1)
    smooth = model._smooth(_graph(train)).detach()
    users, items, negatives = torch.tensor([0, 2]), torch.tensor([1, 5]), torch.tensor([[3, 4], [0, 6]])
    expected = 0.0
    for user, item, others in zip([0, 2], [1, 5], negatives.tolist(), strict=True):
        score = smooth[user] @ smooth[N_USERS:].T
        expected += sum(math.log1p(math.exp(score[other] - score[item])) for other in others) / 2 / 2
        own = model.table.weight[[user, N_USERS + item, N_USERS + others[0]]].square().sum().item()
        expected += 0.1 * own / 4
    got = model._loss(smooth, users, items, negatives, torch.tensor([True, True])).item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_softmax_by_hand_and_users_who_know_everything(train):
    model = model_of(l2=0.0, temperature=0.5)
    smooth = model._smooth(_graph(train)).detach()
    unit = F.normalize(smooth, dim=1)
    score = (unit[:N_USERS] @ unit[N_USERS:].T / 0.5).tolist()
    users, items, negatives = torch.tensor([0, 2]), torch.tensor([1, 5]), torch.tensor([[3, 4], [0, 6]])
    first = math.log(sum(math.exp(score[0][item]) for item in (1, 3, 4))) - score[0][1]
    second = math.log(sum(math.exp(score[2][item]) for item in (5, 0, 6))) - score[2][5]
    both = model._loss(smooth, users, items, negatives, torch.tensor([True, True])).item()
    assert both == pytest.approx((first + second) / 2, rel=1e-5)
    one = model._loss(smooth, users, items, negatives, torch.tensor([True, False])).item()
    assert one == pytest.approx(first / 2, rel=1e-5), "without negatives a positive costs nothing"


def test_what_is_served_is_what_was_validated():
    """The best epoch's smoothed vectors, unit ones under softmax."""
    train, seen = checkerboard(), []

    def validate(model: LightGcn) -> float:
        seen.append(model.smoothed.clone())
        return [1.0, 3.0, 2.0][len(seen) - 1]

    config = LightGcnConfig(embedding_dim=8, epochs=3, batch_size=100)
    model = LightGcn(config, train.n_users, train.n_items)
    model.fit(train, FitContext(validate=validate))
    assert model.best_epoch == 2
    torch.testing.assert_close(model.smoothed, seen[1])
    torch.testing.assert_close(model.smoothed.norm(dim=1), torch.ones(train.n_users + train.n_items))
    again = LightGcn(config, train.n_users, train.n_items)
    again.fit(train, FitContext(epochs=2))
    torch.testing.assert_close(again.smoothed, seen[1]), "a refit repeats the epochs"


def test_no_positive_row():
    train = Interactions(torch.tensor([0]), torch.tensor([0]), 1, 2, positive=torch.tensor([False]))
    with pytest.raises(NotServable, match="positive rows"):
        LightGcn(LightGcnConfig(), 1, 2).fit(train, FitContext())
