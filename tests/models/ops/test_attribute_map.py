"""The map from attributes to learnt rows: it is ridge regression, and finds what was planted."""

import torch

from pipeline.models.ops import attribute_map
from pipeline.training.interactions import History


def some_values(n_items: int, n_values: int, seed: int = 0) -> History:
    random = torch.Generator().manual_seed(seed)
    rows = [
        torch.randperm(n_values, generator=random)[: 1 + item % 4].sort().values.tolist() for item in range(n_items)
    ]
    return History.of_lists(rows, n_values)


def test_the_solution_is_that_of_the_normal_equations():
    values, random = some_values(60, 9), torch.Generator().manual_seed(1)
    targets = torch.randn(60, 3, generator=random, dtype=torch.float64)
    weights = torch.rand(60, generator=random, dtype=torch.float64) + 0.1
    found = attribute_map._solved(values, targets, weights, 2.0)
    x, w = values.dense().double(), weights.diag()
    mean = (weights @ targets) / weights.sum()
    expected = torch.linalg.solve(x.T @ w @ x + 2 * torch.eye(9), x.T @ w @ (targets - mean))
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.weights, expected, rtol=1e-3, atol=1e-4)


def test_rows_that_depend_on_attributes_are_predicted_and_noise_is_not():
    values, random = some_values(400, 12), torch.Generator().manual_seed(2)
    weights, noise = torch.ones(400, dtype=torch.float64), torch.randn(400, 4, generator=random, dtype=torch.float64)
    planted = values.dense().double() @ torch.randn(12, 4, generator=random, dtype=torch.float64)
    unknown = some_values(50, 12, seed=9)
    found = attribute_map.fit_map(values, planted + 0.1 * noise, weights, 0)
    assert found.l2 == min(attribute_map.PENALTIES)
    of_noise = attribute_map.fit_map(values, noise, weights, 0)
    assert of_noise.l2 == max(attribute_map.PENALTIES) and of_noise(unknown).std() < 0.3 * noise.std()
    assert found(unknown).std() > 0.8 * planted.std()


def test_few_items_and_items_without_values_are_no_problem():
    found = attribute_map.fit_map(History.of_lists([[0], []], 1), torch.ones(2, 3).double(), torch.ones(2).double(), 0)
    torch.testing.assert_close(found(History.of_lists([[0], []], 1)), torch.ones(2, 3).double())
