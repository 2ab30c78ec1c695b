from collections import Counter
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ranking.sampled_candidates import sampled_99
from pipeline.training.interactions import History


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_candidates_are_distinct_unknown_items(n_items, n, data):
    lists = data.draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=60), max_size=6))
    drawn = sampled_99(History.of_lists(lists, n_items), 1, "test", n)
    assert drawn.shape == (len(lists), n)
    for known, row in zip(lists, drawn.tolist(), strict=True):
        items = [item for item in row if item >= 0]
        unknown = set(range(n_items)) - set(known)
        assert len(items) == min(n, len(unknown)) == len(set(items))
        assert set(items) <= unknown and row[len(items) :] == [-1] * (n - len(items))


def test_the_seed_and_the_split_name_the_draw():
    known = History.of_lists([[1, 2, 3]] * 50, 1000)
    again = sampled_99(known, 7, "test")
    assert again.shape == (50, 99) and torch.equal(again, sampled_99(known, 7, "test"))
    assert not torch.equal(again, sampled_99(known, 7, "valid")) and not torch.equal(
        again, sampled_99(known, 8, "test")
    )


@pytest.mark.parametrize("n", [1, 3, 6])
def test_every_set_of_unknown_items_is_equally_likely(n):
    n_users, unknown = 30_000, [0, 2, 3, 5, 7, 8, 9]
    drawn = sampled_99(History.of_lists([[1, 4, 6]] * n_users, 10), 3, "test", n)
    sets = Counter(frozenset(row) for row in drawn.tolist())
    assert set().union(*sets) == set(unknown) and len(sets) == comb(7, n)
    p = 1 / comb(7, n)
    shares = np.array(list(sets.values())) / n_users
    assert np.abs(shares - p).max() < 5 * np.sqrt(p * (1 - p) / n_users)  # five standard errors
