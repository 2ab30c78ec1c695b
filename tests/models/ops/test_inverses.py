"""Inverses that overwrite their matrix."""

import pytest
import torch

from pipeline.models.ops.inverses import inverse_by_blocks, inverse_in_place


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
