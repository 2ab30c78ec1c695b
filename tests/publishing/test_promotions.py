"""Promotions and boosts: the place is kept, nothing else changes its order, and no list gets an item twice."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.publishing.boosts import boosted
from pipeline.publishing.promotions import Promotion, promote
from pipeline.ranking.recommend import Lists

N_ITEMS = 7


def best(scores: Tensor, k: int, allowed: Tensor | None) -> Lists:
    """The best k of scores (N, I), of which -inf are masked."""
    left = scores if allowed is None else torch.where(allowed, scores, -torch.inf)
    top, items = left.sort(dim=1, descending=True, stable=True)
    items = torch.where(top[:, :k] > -torch.inf, items[:, :k], -1)
    return Lists(items, top[:, :k], torch.zeros(len(scores), dtype=torch.bool))


def promoted(scores: list[list[float]], k: int, places: dict[int, list[int]], allowed: Tensor | None = None):
    """Items of each list, and which are promoted, as lists."""
    table = torch.tensor(scores)

    def make(depth: int, among: Tensor | None) -> Lists:
        return best(table, depth, among)

    among = {place: torch.isin(torch.arange(table.shape[1]), torch.tensor(items)) for place, items in places.items()}
    chosen = [Promotion(place, items) for place, items in among.items()]
    lists, marks, _ = promote(make(k, allowed), chosen, make, allowed)
    assert torch.equal(
        lists.scores, torch.where(lists.items >= 0, table.gather(1, lists.items.clamp(min=0)), -torch.inf)
    )
    return lists.items.tolist(), marks.int().tolist()


def test_the_best_item_of_a_promotion_goes_to_its_place_and_the_rest_moves_down():
    assert promoted([[5.0, 4, 3, 2, 1]], 3, {1: [3, 4]}) == ([[3, 0, 1]], [[1, 0, 0]])
    assert promoted([[5.0, 4, 3, 2, 1]], 3, {3: [4]}) == ([[0, 1, 4]], [[0, 0, 1]])


def test_an_item_that_is_there_or_above_stays():
    assert promoted([[5.0, 4, 3, 2, 1]], 4, {2: [1, 4]}) == ([[0, 1, 2, 3]], [[0, 0, 0, 0]])
    assert promoted([[5.0, 4, 3, 2, 1]], 4, {3: [0, 4]}) == ([[0, 1, 2, 3]], [[0, 0, 0, 0]])


def test_each_place_has_an_item_of_its_own():
    assert promoted([[5.0, 4, 3, 2, 1]], 4, {2: [3, 4], 1: [3, 4]}) == ([[3, 4, 0, 1]], [[1, 1, 0, 0]])


def test_what_the_user_has_or_a_rule_excludes_is_not_promoted():
    gone = -torch.inf
    assert promoted([[5.0, 4, 3, gone, 1]], 2, {1: [3]}) == ([[0, 1]], [[0, 0]])
    allowed = torch.tensor([True, True, True, True, False])
    assert promoted([[5.0, 4, 3, 2, 1]], 2, {1: [4]}, allowed) == ([[0, 1]], [[0, 0]])


def test_a_short_list_gets_the_item_at_its_end():
    gone = -torch.inf
    assert promoted([[5.0, 4, 3, gone]], 4, {4: [0]}) == ([[0, 1, 2, -1]], [[0, 0, 0, 0]])
    allowed = torch.tensor([True, True, True, True])
    assert promoted([[gone, gone, 3, 2]], 3, {3: [3]}, allowed) == ([[2, 3, -1]], [[0, 0, 0]])


scores_of = st.lists(
    st.lists(st.one_of(st.just(float("-inf")), st.integers(0, 5).map(float)), min_size=N_ITEMS, max_size=N_ITEMS),
    min_size=1, max_size=4,
)  # fmt: skip
places_of = st.dictionaries(st.integers(1, 5), st.lists(st.integers(0, N_ITEMS - 1), max_size=4), max_size=3)


@pytest.mark.long
@settings(deadline=None)
@given(scores_of, places_of, st.integers(1, 6), st.lists(st.booleans(), min_size=N_ITEMS, max_size=N_ITEMS))
def test_lists_keep_their_length_and_order(scores, places, k, listable):
    allowed = torch.tensor(listable)
    before = best(torch.tensor(scores), k, allowed).items.tolist()
    after, marks = promoted(scores, k, {place: items for place, items in places.items() if place <= k}, allowed)
    for old, new, mark, score in zip(before, after, marks, scores, strict=True):
        filled = [item for item in new if item >= 0]
        assert len(set(filled)) == len(filled) == sum(item >= 0 for item in old)
        assert all(listable[item] and score[item] > float("-inf") for item in filled)
        rest = [item for item, is_promoted in zip(new, mark, strict=True) if item >= 0 and not is_promoted]
        assert rest == [item for item in old if item in rest], "the others keep their order"
        for at, item in enumerate(new):
            if mark[at]:
                rightful = [place for place, items in places.items() if item in items and place <= k]
                assert any(place == at + 1 or (place > at + 1 and at + 1 == len(filled)) for place in rightful)


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=2, max_size=6), st.floats(0.01, 1000))
def test_a_factor_above_1_never_lowers_a_score_whatever_its_sign(values, factor):
    scores = torch.tensor([values])
    changed = boosted(scores, torch.full((len(values),), factor))
    assert changed.isfinite().all() and (changed * scores >= 0).all()
    assert ((changed >= scores) if factor >= 1 else (changed <= scores)).all()
    order = scores[0].argsort(stable=True)
    assert (changed[0][order].diff() >= 0).all(), "one factor for all keeps the order"


def test_scores_that_are_not_finite_are_left_to_the_check_of_scores():
    scores = torch.tensor([[torch.inf, torch.nan, -2.0, 3.0, 0.0]])
    changed = boosted(scores, torch.tensor([2.0, 2, 2, 2, 2]))
    assert changed[0, 0] == torch.inf and changed[0, 1].isnan() and changed[0, 2:].tolist() == [-1.0, 6.0, 0.0]
