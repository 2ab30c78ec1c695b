"""Graph filtering: the sparse recurrences are the spectral definition, and both forms of serving agree."""

import math

import numpy as np
import pytest
import torch

from pipeline.models import graph_filter
from pipeline.models.base import FitContext, NotServable
from pipeline.models.graph_filter import GraphFilter, GraphFilterConfig, coefficients
from pipeline.training.interactions import History, Interactions

USERS, ITEMS = 23, 17


def interactions(seed: int = 0) -> Interactions:
    """Random pairs; the last user and the last item have none."""
    drawn = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(seed)) < 0.3
    drawn[-1], drawn[:, -1] = False, False
    users, items = drawn.nonzero().unbind(1)
    return Interactions(users, items, USERS, ITEMS)


def fitted(**options) -> GraphFilter:
    model = GraphFilter(GraphFilterConfig(**options), USERS, ITEMS)
    model.fit(interactions(), FitContext())
    return model.eval()


def reference(history: np.ndarray, order: int, flatness: float, components: int, low_pass: float, power: float):
    """By an eigendecomposition of the item graph in float64."""
    r = interactions().history().dense().numpy().astype(float)  # (USERS, ITEMS)
    by_user, by_item = r.sum(1).clip(1) ** -0.5, r.sum(0).clip(1) ** -0.5
    normed = by_user[:, None] * r * by_item
    eigenvalues, vectors = np.linalg.eigh(np.eye(ITEMS) - normed.T @ normed)
    response = sum(
        c * np.cos(k * np.arccos((2 * eigenvalues - 1).clip(-1, 1)))
        for k, c in enumerate(coefficients(order, flatness))
    )
    right = vectors[:, :components]  # lowest frequencies
    weight = r.sum(0).clip(1) ** power
    passed = vectors @ (response[:, None] * vectors.T) + low_pass * right @ right.T
    return (history / weight) @ passed * weight


@pytest.mark.parametrize("dense_items", [1, 1000])
@pytest.mark.parametrize(
    ("order", "flatness", "components", "low_pass", "power"),
    [(1, 1.0, 4, 0.0, 0.0), (8, 1.5, 6, 0.2, 0.4), (5, 10.0, 0, 0.3, 1.0), (2, 0.5, 500, 1.0, 0.0)],
)
def test_scores_are_those_of_the_spectral_definition(dense_items, order, flatness, components, low_pass, power):
    model = fitted(
        order=order, flatness=flatness, components=components, low_pass_weight=low_pass, popularity_exponent=power,
        dense_items=dense_items,
    )  # fmt: skip
    history = interactions(1).history()
    expected = reference(history.dense().numpy(), order, flatness, components, low_pass, power)
    scores = model.score(torch.full((USERS,), -1), history)
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dense_items", [1, 1000])
def test_contributions_sum_to_the_score(dense_items):
    model, history = fitted(dense_items=dense_items, components=5), interactions(2).history()
    scores = model.score(torch.full((USERS,), -1), history)
    for row in (0, 3):
        one = history[torch.tensor([row])]
        for item in (0, 5, ITEMS - 1):
            assert model.contributions(-1, one, item).sum().item() == pytest.approx(scores[row, item].item(), abs=1e-5)


def test_tiles_do_not_change_scores(monkeypatch):
    whole = fitted(dense_items=1, components=5)
    monkeypatch.setattr(graph_filter, "TILE", 3 * (USERS + 5 * ITEMS))
    tiled, history = fitted(dense_items=1, components=5), interactions(3).history()
    assert tiled.graph is not None and tiled.graph.tile == 3
    users = torch.arange(USERS)
    torch.testing.assert_close(tiled.score(users, history), whole.score(users, history), atol=1e-5, rtol=1e-4)
    none = History.of_lists([], ITEMS)
    assert tiled.score(torch.empty(0, dtype=torch.long), none).shape == (0, ITEMS)


@pytest.mark.parametrize("order", [1, 3, 8, 15])
@pytest.mark.parametrize("flatness", [0.5, 1.0, 1.5, 10.0])
def test_the_polynomial_meets_the_transfer_function_at_its_nodes(order, flatness):
    nodes = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))
    found = np.polynomial.chebyshev.chebval(nodes, coefficients(order, flatness))
    np.testing.assert_allclose(found, 0.5 - 0.5 * np.sign(nodes) * np.abs(nodes) ** flatness, atol=1e-12)


def test_order_one_and_flatness_one_is_the_linear_filter():
    assert coefficients(1, 1.0) == pytest.approx([0.5, -0.5])
    assert math.isclose(sum(coefficients(8, 1.5)), 0, abs_tol=0.01), "the highest frequency is stopped"


def test_a_fit_beyond_the_memory_limit_is_refused():
    model = GraphFilter(GraphFilterConfig(), USERS, ITEMS)
    with pytest.raises(NotServable, match="raise memory_limit"):
        model.fit(interactions(), FitContext(memory=1000))
