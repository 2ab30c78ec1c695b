"""Scores of chosen pairs and their gradients, against looked-up rows."""

import pytest
import torch
from torch import nn

from pipeline.models.ops.pair_scores import pair_scores


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_scores_and_gradients_are_those_of_rows(sparse: bool, large: bool):
    random = torch.Generator().manual_seed(1)
    vectors = torch.randn(6, 7, generator=random, requires_grad=True)
    table = nn.Embedding(11, 7, sparse=sparse)
    items = torch.randint(9, (6, 5), generator=random)  # with repeats in rows, two items are in none
    upstream = torch.randn(6, 5, generator=random)
    expected = torch.einsum("bd,bcd->bc", vectors, table.weight[items])
    of_vectors, of_table = torch.autograd.grad((expected * upstream).sum(), [vectors, table.weight])
    got = pair_scores(vectors, table, items, large)
    torch.testing.assert_close(got, expected)
    (got * upstream).sum().backward()
    assert vectors.grad is not None and table.weight.grad is not None and table.weight.grad.is_sparse == sparse
    torch.testing.assert_close(vectors.grad, of_vectors)
    torch.testing.assert_close(table.weight.grad.to_dense() if sparse else table.weight.grad, of_table)
    if sparse:
        assert table.weight.grad.coalesce().indices()[0].tolist() == items.unique().tolist()
