"""Optimizers: rows that are looked up end where torch's sparse additions end."""

import torch
from torch import nn

from pipeline.training.optimizers import RowAdagrad, SparseAdam, summed


def test_sparse_adam_is_that_of_torch():
    random = torch.Generator().manual_seed(0)
    start = torch.randn(30, 5, generator=random)
    tables = [nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=True) for _ in range(2)]
    ours, theirs = SparseAdam([tables[0].weight], lr=0.05), torch.optim.SparseAdam([tables[1].weight], lr=0.05)
    target = torch.randn(5, generator=random)
    for step in range(12):
        rows = torch.randint(30, (9,), generator=random) if step != 4 else torch.zeros(0, dtype=torch.long)
        for table, optimizer in zip(tables, (ours, theirs), strict=True):
            optimizer.zero_grad()
            (table(rows) - target).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(tables[0].weight, start, atol=0.1)
    mine, other = (optimizer.state_dict()["state"][0] for optimizer in (ours, theirs))
    assert mine.keys() == other.keys() and mine["step"] == other["step"] == 12
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(mine[name], other[name], rtol=1e-6, atol=1e-8)
    theirs.load_state_dict(ours.state_dict())  # checkpoints of one are those of the other


def test_row_adagrad_is_the_formula_with_dense_and_with_sparse_gradients():
    random = torch.Generator().manual_seed(0)
    start, target = torch.randn(12, 5, generator=random), torch.randn(5, generator=random)
    tables = [nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=sparse) for sparse in (False, True)]
    optimizers = [RowAdagrad([table.weight], lr=0.1) for table in tables]
    expected, sums = start.clone(), torch.zeros(12)
    for step in range(6):
        rows = torch.randint(12, (9,), generator=random) if step != 4 else torch.zeros(0, dtype=torch.long)
        counts = torch.bincount(rows, minlength=12).unsqueeze(1)  # (12, 1)
        gradient = 2 * counts * (expected - target)  # (12, 5)
        sums += gradient.square().mean(1)
        expected -= 0.1 * gradient / (sums.sqrt() + 1e-10).unsqueeze(1)
        for table, optimizer in zip(tables, optimizers, strict=True):
            optimizer.zero_grad()
            (table(rows) - target).square().sum().backward()
            optimizer.step()
            torch.testing.assert_close(table.weight, expected)
            torch.testing.assert_close(optimizer.state[table.weight]["sum"], sums)
    optimizers[0].load_state_dict(optimizers[1].state_dict())


def test_row_adagrad_takes_parameters_of_any_shape():
    parameters = [nn.Parameter(torch.ones(shape)) for shape in ((3,), (2, 3, 4), ())]
    sum(parameter.square().sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    RowAdagrad(parameters, lr=0.5).step()
    for parameter in parameters:
        torch.testing.assert_close(parameter.detach(), torch.full(parameter.shape, 0.5))


def test_sums_of_repeated_rows_are_those_of_coalesce():
    random = torch.Generator().manual_seed(0)
    for n in (0, 1, 40):
        rows, values = torch.randint(9, (1, n), generator=random), torch.randn(n, 3, generator=random)
        gradient = torch.sparse_coo_tensor(rows, values, (9, 3), check_invariants=False)
        found, sums = summed(gradient)
        assert torch.equal(found, gradient.coalesce().indices()[0])
        torch.testing.assert_close(sums, gradient.coalesce().values())
