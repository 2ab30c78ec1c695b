"""Inverses that overwrite their matrix."""

import pytest
import torch

from pipeline.models.ops import inverses
from pipeline.models.ops.inverses import inverse_by_blocks, inverse_in_place


@pytest.mark.parametrize(("n", "block"), [(50, 7), (64, 16), (10, 50), (1, 4)])
def test_an_inverse_by_blocks(n: int, block: int):
    half = torch.randn(n, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(n)
    got = inverse_by_blocks(matrix.clone(), block)
    torch.testing.assert_close(got, torch.linalg.inv(matrix))
    torch.testing.assert_close(got, got.T)


def test_an_inverse_by_scipy(monkeypatch: pytest.MonkeyPatch):
    half = torch.randn(50, 80, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(50)
    expected = inverse_in_place(matrix.clone())
    monkeypatch.setattr(inverses, "LARGE", 3)
    monkeypatch.setattr(inverses, "BLOCK", 7)
    calls = []
    monkeypatch.setattr(torch, "cholesky_inverse", lambda *args, **kwargs: calls.append(args))
    got = inverse_in_place(matrix)
    assert not calls and got.data_ptr() == matrix.data_ptr()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(got, got.T)
    with pytest.raises(torch.linalg.LinAlgError, match="leading minor of order 1"):
        inverse_in_place(-torch.eye(3))


def test_an_inverse_in_place():
    half = torch.randn(50, 80, generator=torch.Generator().manual_seed(0))
    matrix = half @ half.T + torch.eye(50)
    expected = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    got = inverse_in_place(matrix)
    assert torch.equal(got, expected) and got.data_ptr() == matrix.data_ptr()
    with pytest.raises(torch.linalg.LinAlgError):
        inverse_in_place(-torch.eye(3))
