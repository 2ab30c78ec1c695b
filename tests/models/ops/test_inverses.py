"""Inverses that overwrite their matrix."""

import pytest
import torch
from torch import Tensor

from pipeline.models.ops import inverses
from pipeline.models.ops.inverses import inverse_by_blocks, inverse_by_products, inverse_in_place


@pytest.mark.parametrize(("n", "block"), [(50, 7), (64, 16), (10, 50), (1, 4)])
def test_an_inverse_by_blocks(n: int, block: int):
    half = torch.randn(n, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(n)
    got = inverse_by_blocks(matrix.clone(), block)
    torch.testing.assert_close(got, torch.linalg.inv(matrix))
    torch.testing.assert_close(got, got.T)


def test_an_inverse_in_place():
    half = torch.randn(50, 80, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(50)
    expected = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    got = inverse_in_place(matrix)
    assert torch.equal(got, expected) and got.data_ptr() == matrix.data_ptr()
    with pytest.raises(torch.linalg.LinAlgError):
        inverse_in_place(-torch.eye(3))


@pytest.mark.parametrize(("n", "block", "wide"), [(50, 7, 7), (64, 16, 32), (10, 50, 50), (1, 4, 8), (49, 16, 20)])
def test_an_inverse_by_products(n: int, block: int, wide: int):
    half = torch.randn(n, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(n)
    expected = torch.linalg.inv(matrix)
    got = inverse_by_products(matrix, block, wide)
    torch.testing.assert_close(got, expected)
    assert got.data_ptr() == matrix.data_ptr() and torch.equal(got, got.T)


def gram(kind: str, n: int) -> Tensor:
    """XᵀX of drawn rows with popular and rare items, (n, n), plus a penalty, or of dense numbers."""
    generator = torch.Generator().manual_seed(1)
    if kind == "dense":
        x = torch.randn(n + 60, n, generator=generator)
        return x.T @ x
    popularity = torch.rand(n, generator=generator) ** 4 * 0.3 + 0.002
    x = (torch.rand(5000, n, generator=generator) < popularity).float()
    matrix = x.T @ x
    matrix.diagonal().add_(float(kind))
    return matrix


@pytest.mark.parametrize("kind", ["250", "1", "0.01", "dense"])
def test_an_inverse_by_products_is_as_exact_as_that_of_lapack(kind: str):
    matrix = gram(kind, 600)
    expected = torch.linalg.inv(matrix.double())

    def errors(got: Tensor) -> tuple[float, float]:
        of_cells = got - expected
        return float(of_cells.norm() / expected.norm()), float(of_cells.abs().max() / expected.abs().max())

    ours, theirs = errors(inverse_by_products(matrix.clone(), 128, 128)), errors(inverse_in_place(matrix))
    assert ours[0] < 1.25 * theirs[0] and ours[1] < 2 * theirs[1]


@pytest.mark.parametrize("order", [1, 9, 30])
def test_what_is_not_definite_is_refused_in_the_words_of_lapack(order: int, monkeypatch: pytest.MonkeyPatch):
    matrix = gram("1", 30)
    matrix[order - 1, order - 1] = -1
    with pytest.raises(torch.linalg.LinAlgError) as theirs:
        inverse_in_place(matrix.clone())
    monkeypatch.setattr(inverses, "LARGE", 30)
    monkeypatch.setattr(inverses, "BLOCK", 8)
    with pytest.raises(torch.linalg.LinAlgError) as ours:
        inverse_in_place(matrix)
    assert str(ours.value) == str(theirs.value) and f"order {order} " in str(ours.value)
