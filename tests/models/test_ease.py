"""EASE: both closed forms give the same scores, for users of the fit and for others."""

from dataclasses import replace

import pytest
import torch

from pipeline.models.base import FitSize
from pipeline.models.ease import Ease, EaseConfig
from pipeline.training.attributes import ItemAttributes
from pipeline.training.context import FitContext, NotServable
from pipeline.training.interactions import History, Interactions

N_USERS, N_ITEMS, L2 = 30, 70, 20.0


@pytest.fixture(scope="module")
def train() -> Interactions:
    taken = torch.rand(N_USERS, N_ITEMS, generator=torch.Generator().manual_seed(0)) < 0.1
    taken[3] = False  # somebody without history
    users, items = taken.nonzero(as_tuple=True)
    return Interactions(users, items, N_USERS, N_ITEMS)


@pytest.fixture(scope="module")
def dual(train: Interactions) -> Ease:
    model = Ease(EaseConfig(l2=L2), N_USERS, N_ITEMS)
    model.fit(train, FitContext())
    assert model.dual
    return model


@pytest.fixture(scope="module")
def weights(train: Interactions) -> torch.Tensor:
    """B of eq. 8, (I, I), by its definition in float64."""
    x = train.history().dense().double()  # (U, I)
    p = torch.linalg.inv(x.T @ x + L2 * torch.eye(N_ITEMS, dtype=torch.float64))
    b = -p / p.diagonal()
    return b.fill_diagonal_(0)


def test_users_of_the_fit_score_by_the_definition(train, dual, weights):
    history = train.history()
    expected = history.dense().double() @ weights
    assert torch.allclose(dual.score(torch.arange(N_USERS), history).double(), expected, atol=1e-6)


def test_another_history_than_that_of_the_fit_is_folded_in(train, dual, weights):
    history = train.history()
    backwards = torch.arange(N_USERS - 1, -1, -1)
    other = history[backwards]
    longer = History.of_lists([[*range(0, N_ITEMS, 7)]] * N_USERS, N_ITEMS)
    for given in (other, longer):
        for users in (torch.arange(N_USERS), torch.full((N_USERS,), -1)):
            expected = given.dense().double() @ weights
            assert torch.allclose(dual.score(users, given).double(), expected, atol=1e-6)


def test_similar_items_are_rows_of_the_weights(train, dual, weights):
    items = torch.tensor([5, 0, 69, 5])
    assert torch.allclose(dual.similar(items).double(), weights[items], atol=1e-6)
    primal = Ease(EaseConfig(l2=L2), N_ITEMS, N_ITEMS)
    primal.fit(Interactions(train.users, train.items, N_ITEMS, N_ITEMS), FitContext())
    assert not primal.dual
    assert torch.allclose(primal.similar(items).double(), weights[items], atol=1e-6)


@pytest.mark.parametrize(("n_users", "n_items"), [(N_USERS, N_ITEMS), (N_ITEMS, N_ITEMS)])
def test_what_would_not_fit_is_refused_before_it_is_held(train, n_users, n_items):
    model = Ease(EaseConfig(), n_users, n_items)
    rows = Interactions(train.users, train.items, n_users, n_items)
    needed = Ease.memory_needed(EaseConfig(), FitSize(n_users, n_items, len(rows)))
    assert needed >= 4 * 2 * min(n_users, n_items) ** 2
    with pytest.raises(NotServable, match="raise memory_limit"):
        model.fit(rows, FitContext(memory=needed - 1))
    model.fit(rows, FitContext(memory=needed))
    with pytest.raises(NotServable, match="max_side = 10"):
        Ease(EaseConfig(max_side=10), n_users, n_items).fit(rows, FitContext())


@pytest.mark.parametrize("n_items", [70, 12], ids=["dual", "primal"])
def test_held_popular_items_and_light_users(n_items):
    """B of a weighted problem by its definition in float64; users of the fit, others, and parts of the score."""
    taken = torch.rand(N_USERS, n_items, generator=torch.Generator().manual_seed(1)) < 0.2
    taken[3] = False
    users, items = taken.nonzero(as_tuple=True)
    train = Interactions(users, items, N_USERS, n_items)
    model = Ease(EaseConfig(l2=L2, dropout=0.4, user_exponent=0.5), N_USERS, n_items)
    model.fit(train, FitContext())
    assert model.dual == (n_items == 70)

    x = taken.double()  # (U, I)
    weight = x.sum(1).clamp(min=1) ** -0.5  # (U,)
    weight *= x.sum() / (weight @ x).sum()
    gram = (x.T * weight) @ x
    p = torch.linalg.inv(gram + torch.diag(L2 + 0.4 / 0.6 * gram.diagonal()))
    b = (-p / p.diagonal()).fill_diagonal_(0).float()
    everyone = train.history()
    with torch.no_grad():
        of_fit = model.score(torch.arange(N_USERS), everyone)
        torch.testing.assert_close(of_fit, x.float() @ b, rtol=1e-4, atol=1e-5)
        unknown = model.score(torch.tensor([-1]), everyone[torch.tensor([5])])
        torch.testing.assert_close(unknown[0], of_fit[5], rtol=1e-4, atol=1e-5)
        parts = model.contributions(5, everyone[torch.tensor([5])], 2)
        torch.testing.assert_close(parts, b[everyone[torch.tensor([5])].items, 2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.similar(torch.tensor([0, 9])), b[[0, 9]], rtol=1e-4, atol=1e-5)


def test_ratings_and_popularity_count_as_configured():
    taken = torch.rand(N_USERS, 12, generator=torch.Generator().manual_seed(2)) < 0.4
    users, items = taken.nonzero(as_tuple=True)
    ratings = torch.arange(len(users)).remainder(5) + 1.0
    backwards = torch.arange(len(users)).flip(0)  # rows in another order than the history's
    train = Interactions(users[backwards], items[backwards], N_USERS, 12, ratings=ratings[backwards])
    model = Ease(EaseConfig(l2=L2, dropout=0.2, rating_exponent=0.5, item_exponent=0.3), N_USERS, 12)
    model.fit(train, FitContext())

    x = torch.zeros(N_USERS, 12, dtype=torch.float64)
    x[users, items] = (ratings / ratings.mean()).double() ** 0.5
    gram = x.T @ x
    p = torch.linalg.inv(gram + torch.diag(L2 + 0.25 * gram.diagonal()))
    weights = (-p / p.diagonal()).fill_diagonal_(0) / taken.sum(0).double() ** 0.3
    history = train.history()
    assert torch.allclose(
        model.score(torch.arange(N_USERS), history).double(), history.dense().double() @ weights, atol=1e-5
    )
    assert torch.allclose(model.similar(torch.arange(12)).double(), weights, atol=1e-5)
    own = history[torch.tensor([4])]
    assert torch.allclose(model.contributions(4, own, 2).double(), weights[own.items, 2], atol=1e-5)


def test_the_exponent_of_items_is_the_same_in_both_forms(train):
    config = EaseConfig(l2=L2, item_exponent=0.4)
    dual, primal = Ease(config, N_USERS, N_ITEMS), Ease(config, N_USERS + N_ITEMS, N_ITEMS)
    for model in (dual, primal):
        model.fit(Interactions(train.users, train.items, model.n_users, N_ITEMS), FitContext())
    assert dual.dual and not primal.dual
    history, users = train.history(), torch.arange(N_USERS)
    assert torch.allclose(dual.score(users, history), primal.score(users, history), atol=1e-5)
    assert torch.allclose(dual.similar(users), primal.similar(users), atol=1e-5)


def test_ratings_are_needed_where_they_count(train):
    with pytest.raises(NotServable, match="needs ratings"):
        Ease(EaseConfig(rating_exponent=1), N_USERS, N_ITEMS).fit(train, FitContext())


@pytest.mark.parametrize("weighs", [False, True])
def test_attributes_are_rows_of_the_matrix(train, weighs):
    values = History.of_lists([[item % 3, 3] if item % 5 else [] for item in range(N_ITEMS)], 4)
    config = EaseConfig(l2=L2, attribute_weight=2.5, rating_exponent=float(weighs))
    rated = replace(train, ratings=torch.full((len(train),), 3.0)) if weighs else train
    model = Ease(config, N_USERS, N_ITEMS)
    model.fit(rated, FitContext(attributes=ItemAttributes(values)))
    x = torch.cat([train.history().dense(), 2.5**0.5 * values.dense().T]).double()  # (U + A, I)
    p = torch.linalg.inv(x.T @ x + L2 * torch.eye(N_ITEMS, dtype=torch.float64))
    expected = (-p / p.diagonal()).fill_diagonal_(0)
    assert model.reads_attributes and not model.dual
    assert torch.allclose(model.weights.double(), expected, atol=1e-6)


def test_a_new_item_goes_to_those_who_have_items_like_it():
    pairs = torch.tensor([(user, item) for user in range(20) for item in range(user % 2, 12, 2) if (user + item) % 5])
    train = Interactions(pairs[:, 0], pairs[:, 1], 20, 14)  # nobody has items 12 and 13
    model = Ease(EaseConfig(l2=2.0, attribute_weight=1.0), 20, 14)
    values = History.of_lists([[item % 2] for item in range(14)], 2)
    model.fit(train, FitContext(attributes=ItemAttributes(values)))
    new = model.score(torch.arange(20), train.history())[:, 12:]  # (U, 2)
    assert (new.argmax(1) == torch.arange(20) % 2).all()


def test_attributes_that_are_not_there_are_a_reason_and_enter_a_key_only_where_set(train):
    with pytest.raises(NotServable, match=r"attributes\.items"):
        Ease(EaseConfig(attribute_weight=1.0), N_USERS, N_ITEMS).fit(train, FitContext())
    assert "attribute_weight" not in EaseConfig().model_dump()
    assert EaseConfig(attribute_weight=1.0).model_dump()["attribute_weight"] == 1.0
