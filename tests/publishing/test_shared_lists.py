"""Lists that are cut out of deeper ones are those that a pass of their own gives."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.publishing.shared_lists import SharedLists
from pipeline.ranking.recommend import Lists

N_ITEMS = 12


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(-1, 4), min_size=N_ITEMS, max_size=N_ITEMS), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 8), st.none() | st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS))),
    st.integers(1, 3),
)
def test_shared_lists_are_exact(values, wanted, longest):
    """-1 is masked; equal scores stand in the order of the items."""
    scores = torch.tensor(values).float()
    scores[scores < 0] = -torch.inf

    def make(rows: Tensor | None, k: int, allowed: Tensor | None) -> Lists:
        own = scores if rows is None else scores[rows]
        left = own if allowed is None else torch.where(allowed, own, -torch.inf)
        top, items = left.sort(dim=1, descending=True, stable=True)
        items = torch.where(top > -torch.inf, items, -1)
        return Lists(items[:, :k], top[:, :k], torch.arange(len(own)) % 2 == 0)

    shared = SharedLists(make, longest, N_ITEMS)
    for k, flags in wanted:
        allowed = None if flags is None else torch.tensor(flags)
        found, alone = shared(k, allowed), make(None, k, allowed)
        assert torch.equal(found.items, alone.items) and torch.equal(found.scores, alone.scores)
        assert torch.equal(found.from_fallback, alone.from_fallback)
    if all(sum(v >= 0 for v in row) < shared.depth for row in values):
        assert shared.again == 0, "who has no item left is not scored again"
