"""Histories: what is sorted is not sorted again, and repeats are found, as by definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.training.interactions import History, stable_order

LISTS = st.lists(st.lists(st.integers(0, 6), max_size=8), min_size=1, max_size=8)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_pairs_by_user_keep_their_order(pairs: list[tuple[int, int]], ordered: bool):
    pairs = sorted(pairs, key=lambda pair: pair[0]) if ordered else pairs
    users, items = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)
    history = History.of(users, items, 6, 7)
    expected = History.of_lists([[item for user, item in pairs if user == row] for row in range(6)], 7)
    assert torch.equal(history.offsets, expected.offsets) and torch.equal(history.items, expected.items)
    assert (stable_order(users) is None) == (pairs == sorted(pairs, key=lambda pair: pair[0]))


@given(LISTS)
@settings(max_examples=60, deadline=None)
def test_distinct_transposed_and_repeats(lists: list[list[int]]):
    history = History.of_lists(lists, 7)
    once = History.of_lists([sorted(set(row)) for row in lists], 7)
    for got in (history.distinct(), history.distinct().distinct()):
        assert torch.equal(got.offsets, once.offsets) and torch.equal(got.items, once.items)
    turned = History.of_lists(
        [[row for row, items in enumerate(lists) for i in items if i == item] for item in range(7)], len(lists)
    )
    got = history.transposed()
    assert torch.equal(got.offsets, turned.offsets) and torch.equal(got.items, turned.items)
    expected = [item in row[:place] for row in lists for place, item in enumerate(row)]
    found = history.repeats()
    assert (found is None) == (not any(expected))
    assert found is None or found.tolist() == expected
