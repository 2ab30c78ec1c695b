"""The closed form of shared negatives: value and gradients are those of autograd on the formula itself."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.ops.shared_loss import LossName, Objective, SharedBatch, shared_loss


def plain(users: Tensor, items: Tensor, batch: SharedBatch, objective: Objective) -> Tensor:
    """The loss, row by row and negative by negative."""
    size, (groups, n) = len(batch.users), batch.negatives.shape
    known, losses = set(batch.known.tolist()), []
    for row in range(size):
        user = users[batch.users[row]]

        def score(item: Tensor, user: Tensor = user) -> Tensor:
            vector = items[item]
            return user @ vector[:-1] + vector[-1] if objective.bias else user @ vector

        own = score(batch.items[row])
        drawn = batch.negatives[row // (size // groups)]
        others = [score(item) for cell, item in enumerate(drawn) if row * n + cell not in known]
        scores = torch.stack(others) if others else torch.zeros(0)
        count = max(len(others), 1)
        match objective.loss:
            case "softmax":
                loss = torch.logsumexp(torch.cat([own[None], scores]), 0) - own
            case "bpr":
                loss = F.softplus(scores - own).sum() / count
            case "logistic":
                loss = F.softplus(-own) + objective.negative_weight * F.softplus(scores).sum() / count
            case _:
                loss = (own - 1) ** 2 + objective.negative_weight * scores.square().sum() / count
        losses.append(loss if batch.weights is None else loss * batch.weights[row])
    norms = users[batch.users].square().sum() + items[batch.items].square().sum()
    norms = norms / size + items[batch.negatives].square().sum() / (groups * n)
    return torch.stack(losses).mean() + objective.l2 * norms


@pytest.mark.parametrize("loss", ["bpr", "logistic", "softmax", "mse"])
@pytest.mark.parametrize(("bias", "weighted"), [(True, False), (False, True)])
def test_the_loss_and_its_gradients_are_those_of_the_formula(loss: LossName, bias: bool, weighted: bool):
    random = torch.Generator().manual_seed(0)
    users = torch.randn(5, 3, generator=random, requires_grad=True)
    items = torch.randn(6, 3 + bias, generator=random, requires_grad=True)
    batch = SharedBatch(
        users=torch.randint(5, (8,), generator=random),  # users and items repeat
        items=torch.randint(6, (8,), generator=random),
        negatives=torch.randint(6, (2, 3), generator=random),
        known=torch.tensor([1, 5, 9, 10, 11, 23]),  # all of row 3
        weights=torch.rand(8, generator=random) if weighted else None,
    )
    objective = Objective(loss, negative_weight=0.7, l2=0.1, bias=bias)
    expected = plain(users, items, batch, objective)
    wanted = torch.autograd.grad(2 * expected, [users, items])
    got = shared_loss(users, items, batch, objective)
    torch.testing.assert_close(got, expected)
    (2 * got).backward()
    for table, gradient in zip((users, items), wanted, strict=True):
        assert table.grad is not None and table.grad.is_sparse
        torch.testing.assert_close(table.grad.to_dense(), gradient)
