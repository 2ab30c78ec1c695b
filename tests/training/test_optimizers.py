"""Optimizers: rows that are looked up end where torch's sparse additions end."""

import torch
from torch import nn

from pipeline.training.optimizers import SparseAdam


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
