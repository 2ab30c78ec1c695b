"""The order of rows by chunks of users: every row once, chunks of other users in every epoch."""

import pytest
import torch

from pipeline.training.row_order import ChunkedOrder


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_every_row_comes_once_and_users_come_in_chunks(ordered: bool, size: int):
    random = torch.Generator().manual_seed(3)
    users = torch.randint(50, (400,), generator=random)  # some users may have no row
    users = users.sort().values if ordered else users
    order = ChunkedOrder(users, n_users=60, size=size)
    epochs = [order(random) for _ in range(2)]
    for rows in epochs:
        assert torch.equal(rows.sort().values, torch.arange(400))
        seen = users[rows].tolist()
        last = {user: place for place, user in enumerate(seen)}
        open_at_once = max(
            len({user for user in seen[: place + 1] if last[user] > place}) for place in range(0, 400, 10)
        )
        assert open_at_once <= size
    assert not torch.equal(*epochs)


def test_chunks_are_of_other_users_in_every_epoch_and_rows_of_a_chunk_are_mixed():
    users = torch.arange(100).repeat_interleave(5)
    order, random = ChunkedOrder(users, 100, size=10), torch.Generator().manual_seed(1)
    first, second = ({*users[order(random)[:50]].tolist()} for _ in range(2))
    assert len(first) == len(second) == 10 and first != second
    chunk = users[order(random)[:50]]
    assert (chunk[1:] != chunk[:-1]).float().mean() > 0.5
