"""Similar items by the users that items share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.publishing import similar_items
from pipeline.training.interactions import History

HISTORIES = st.lists(st.sets(st.integers(0, 11), max_size=8), min_size=1, max_size=9)


def cosines(lists: list[list[int]]) -> torch.Tensor:
    """Of all pairs of 12 items, by definition, (12, 12)."""
    users_of = [{user for user, items in enumerate(lists) if item in items} for item in range(12)]
    return torch.tensor(
        [
            [len(a & b) / max(len(a) * len(b), 1) ** 0.5 if a and b else 0.0 for b in users_of]
            for a in users_of
        ]
    )  # fmt: skip


@pytest.mark.parametrize("counted_from", [0, 1 << 62])
@settings(max_examples=30, deadline=None)
@given(HISTORIES)
def test_both_ways_give_the_cosine_of_the_sets_of_users(counted_from: int, lists: list[set[int]]):
    histories = [sorted(items) for items in lists]
    by_user = History.of_lists(histories, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similar_items, "COUNTED_FROM", counted_from - 1)
        cosine = similar_items.cooccurrence(by_user)
        found = torch.cat([cosine(torch.arange(0, 5)), cosine(torch.arange(5, 12))])  # (12, 12)
    assert torch.allclose(found, cosines(histories), atol=1e-6)
