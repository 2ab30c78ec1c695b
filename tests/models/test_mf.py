"""Matrix factorization: its product without copies, its losses, and its quality on real data."""

import time
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.models import mf as module
from pipeline.models.conformance import checkerboard, scores
from pipeline.models.mf import LARGE, MatrixFactorization, MatrixFactorizationConfig
from pipeline.models.ops.pair_scores import pair_scores, weighted_norms
from pipeline.training.context import FitContext
from pipeline.training.interactions import Interactions
from pipeline.training.row_order import ChunkedOrder
from tests.support import models
from tests.support.real_data import hit_rate, leave_last_out


@pytest.mark.parametrize("sparse", [False, True])
def test_pair_scores_and_gradients_are_those_of_the_plain_product(sparse: bool):
    torch.manual_seed(0)
    table = nn.Embedding(7, 5, sparse=sparse)
    vectors = torch.randn(4, 5, requires_grad=True)
    items, upstream = torch.randint(7, (4, 3)), torch.randn(4, 3)
    got = pair_scores(vectors, table, items)  # (B, C)
    got.backward(upstream)
    plain_vectors, plain = vectors.detach().requires_grad_(), table.weight.detach().requires_grad_()
    expected = (plain[items] * plain_vectors[:, None]).sum(2)
    expected.backward(upstream)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(vectors.grad, plain_vectors.grad)
    assert table.weight.grad is not None and table.weight.grad.is_sparse == sparse
    torch.testing.assert_close(table.weight.grad.to_dense(), plain.grad)


def test_weighted_norms_and_gradients_are_those_of_squares():
    torch.manual_seed(0)
    table, plain = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    plain.data.copy_(table.data)
    shares = torch.rand(6)
    (3 * weighted_norms(table, shares)).backward()
    (3 * (plain.square().sum(1) @ shares)).backward()
    torch.testing.assert_close(weighted_norms(table, shares), plain.square().sum(1) @ shares)
    torch.testing.assert_close(table.grad, plain.grad)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_pair_scores_of_nothing(shape: tuple[int, int]):
    table = nn.Embedding(7, 5)
    assert pair_scores(torch.randn(shape[0], 5), table, torch.zeros(shape, dtype=torch.long)).shape == shape


def fitted(**keys) -> MatrixFactorization:
    usual = {"epochs": 30, "batch_size": 128, "learning_rate": 0.02}
    return models.fitted(MatrixFactorization, checkerboard(), **{**usual, **keys})


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": "bpr", "n_negatives": 1},
        {"loss": "logistic"},
        {"loss": "mse"},
        {"loss": "softmax", "alpha": 0.5},
        {"sparse": True},
        {"sparse": True, "optimizer": "adagrad", "learning_rate": 0.2},
        {"item_bias": False},
        {"shared_negatives": 16, "optimizer": "row_adagrad", "learning_rate": 0.2},
        {"shared_negatives": 5, "n_negatives": 3, "loss": "bpr"},  # groups that do not divide a batch
        {"shared_negatives": 500, "loss": "logistic", "alpha": 0.5, "item_bias": False},  # more than a batch
        {"optimizer": "sgd", "learning_rate": 2.0, "momentum": 0.5},
    ],
    ids=str,
)
def test_every_loss_and_optimizer_separates_the_blocks(keys: dict):
    model, train = fitted(**keys), checkerboard()
    got = scores(model, train, torch.arange(40))  # (U, I)
    liked = torch.arange(40)[:, None] % 2 == torch.arange(20) % 2  # (U, I)
    assert got[liked].mean() > got[~liked].mean() + 0.3
    assert (got[liked] > got[~liked].mean()).float().mean() > 0.95
    assert (model.item_biases() is None) == (keys.get("item_bias") is False)


def test_sparse_gradients_are_chosen_for_large_tables_and_give_the_same_loss():
    small, large = MatrixFactorizationConfig(embedding_dim=8), MatrixFactorizationConfig(embedding_dim=64)
    assert not MatrixFactorization(small, 10, 20).item.sparse
    made = MatrixFactorization(large, 70_000, 20)
    assert made.user.sparse and not made.item.sparse  # table by table
    made = MatrixFactorization(MatrixFactorizationConfig(embedding_dim=64, sparse=False), 70_000, 20)
    assert not made.user.sparse
    users, items, real = (
        torch.tensor([0, 1]),
        torch.tensor([[3, 1, 1], [2, 0, 4]]),
        torch.tensor([True, False]),
    )
    losses = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = MatrixFactorization(MatrixFactorizationConfig(l2=0.5, sparse=sparse), 2, 5)
        losses.append(model._loss(users, items, real))
    torch.testing.assert_close(losses[0], losses[1])
    user, item = model.user.weight[:2], model.item.weight[items]  # (B, D), (B, 1 + n, D + 1)
    norms = user.square().sum(1) + item[:, 0].square().sum(1) + item[:, 1:].square().sum(2).mean(1) * real
    plain = MatrixFactorization(MatrixFactorizationConfig(l2=0.0), 2, 5)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(losses[0], plain._loss(users, items, real) + 0.5 * norms.mean())


def test_large_fits_share_negatives_unless_the_recipe_says_otherwise():
    def at(rows: int = LARGE, given: tuple[str, ...] = (), **keys: Any) -> dict[str, Any]:
        config = MatrixFactorizationConfig(**keys)
        found = MatrixFactorization.config_at(config, rows, {*keys, *given}).model_dump()
        return {name: value for name, value in found.items() if config.model_dump().get(name) != value}

    rate = {"optimizer": "row_adagrad", "learning_rate": 0.1}
    stop = {"patience": 2, "min_improvement": 0.002}
    assert at() == {"shared_negatives": 16, **rate, "batch_size": 16_384, **stop}
    assert at(batch_size=512) == at(given=("batch_size",)) == {"shared_negatives": 16, **rate, **stop}
    assert at(LARGE - 1) == at(shared_negatives=0) == at(sparse=False) == at(negatives="static") == {}
    assert at(learning_rate=0.02) == at(given=("learning_rate",)) == {"shared_negatives": 16, **stop}
    assert at(patience=9, optimizer="adam") == {"shared_negatives": 16}
    assert "shared_negatives" not in MatrixFactorizationConfig().model_dump(), "keys of smaller fits are as before"
    for other in ({"negatives": "static"}, {"sparse": False}):
        with pytest.raises(ValidationError, match="shared_negatives"):
            MatrixFactorizationConfig(shared_negatives=4, **other)


def test_large_fits_take_chunks_of_users_and_learn_as_well(monkeypatch: pytest.MonkeyPatch):
    made: list[ChunkedOrder] = []

    def chunked(users: torch.Tensor, n_users: int) -> ChunkedOrder:
        made.append(ChunkedOrder(users, n_users, size=8))
        return made[-1]

    keys = {"shared_negatives": 8, "epochs": 6, "optimizer": "row_adagrad", "learning_rate": 0.2, "batch_size": 32}
    monkeypatch.setattr(module, "ChunkedOrder", chunked)
    plain = fitted(**keys)
    assert not made, "few users are one chunk"
    monkeypatch.setattr(module, "CHUNK", 8)
    fitted(**keys)
    assert not made, "few rows are in any order, as before"
    monkeypatch.setattr(module, "LARGE", 1)
    of_chunks, again = fitted(**keys), fitted(**keys)
    assert len(made) == 2 and torch.equal(of_chunks.item.weight, again.item.weight)
    assert not torch.equal(of_chunks.item.weight, plain.item.weight)
    fitted(**keys | {"shared_negatives": 0})
    assert len(made) == 2, "rows with negatives of their own are in any order, as before"


def test_fits_with_shared_negatives_repeat_and_never_draw_what_a_user_knows():
    keys = {"shared_negatives": 8, "epochs": 2, "optimizer": "row_adagrad"}
    first, again, other = fitted(**keys), fitted(**keys), fitted(**keys, embedding_dim=8)
    assert torch.equal(first.item.weight, again.item.weight) and other.item.weight.shape != first.item.weight.shape
    everything = Interactions(torch.arange(6) // 3, torch.arange(6) % 3, 2, 3)  # nobody has a negative
    model = models.fitted(MatrixFactorization, everything, l2=0.0, epochs=3, **{"shared_negatives": 2})
    start = models.fitted(MatrixFactorization, everything, l2=0.0, epochs=1, **{"shared_negatives": 2})
    assert torch.equal(model.user.weight, start.user.weight), "there was nothing to learn"


@pytest.mark.parametrize("loss", ["bpr", "logistic", "softmax", "mse"])
def test_negatives_of_a_user_who_knows_all_do_not_count(loss: str):
    model = MatrixFactorization(MatrixFactorizationConfig(loss=loss, l2=0.1), 2, 5)
    users, real = torch.tensor([0]), torch.tensor([False])
    one = model._loss(users, torch.tensor([[3, 0, 0]]), real)
    other = model._loss(users, torch.tensor([[3, 4, 2]]), real)
    assert torch.isfinite(one) and torch.equal(one, other)
    one.backward()
    assert model.item.weight.grad is not None and not model.item.weight.grad[[0, 1, 2, 4]].any()


@pytest.mark.slow
def test_ml_100k_is_well_above_popularity():
    train, users, items = leave_last_out()
    model = MatrixFactorization(MatrixFactorizationConfig(), train.n_users, train.n_items)
    started = time.process_time()
    model.fit(train, FitContext())
    assert time.process_time() - started < 60
    assert hit_rate(model, train, users, items) > 0.12  # popularity: 0.076
