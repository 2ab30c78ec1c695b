"""Negatives are unknown to their user, without exception, and as frequent as their weight says."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.training import negative_sampling
from pipeline.training.interactions import Interactions
from pipeline.training.negative_sampling import CELLS_PER_PAIR, NegativeSampler, PairFilter, SharedNegatives


def known(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> Interactions:
    table = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)  # (N, 2)
    return Interactions(table[:, 0], table[:, 1], n_users, n_items)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=[False, True], ids=["search", "filter"])
def filtered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to draw: that of few pairs, and that of many."""
    monkeypatch.setattr(negative_sampling, "FILTER_FROM", 1 if request.param else 1 << 62)
    return request.param


def frequencies(sampler: NegativeSampler, user: int, n: int = 60_000) -> torch.Tensor:
    items, real = sampler.draw(torch.tensor([user]), n, generator())
    assert real.all()
    return torch.bincount(items[0], minlength=sampler.n_items) / n


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), alpha=st.sampled_from([0.0, 0.5, 1.0]))
def test_never_a_known_item_and_every_unknown_one_can_come(filtered: bool, data: st.DataObject, alpha: float):
    n_users, n_items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    pairs = data.draw(st.lists(pair, max_size=40))  # repeated pairs, too
    users, sampler = torch.arange(n_users), NegativeSampler(known(pairs, n_users, n_items), alpha)
    assert (sampler.filter is not None) == (filtered and bool(pairs))
    items, real = sampler.draw(users, 400, generator())
    assert items.shape == (n_users, 400) and items.min() >= 0 and items.max() < n_items
    for user in range(n_users):
        unknown = set(range(n_items)) - {i for u, i in pairs if u == user}
        assert real[user].item() == bool(unknown)
        if unknown:  # at 400 draws, one of at most 8 items is missed with a probability below 1e-15 (alpha = 0)
            drawn = set(items[user].tolist())
            assert drawn == unknown if alpha == 0 else drawn <= unknown


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n_users=st.integers(1, 9), n_items=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_table_of_ranks_finds_what_a_search_finds(data: st.DataObject, n_users: int, n_items: int, seed: int):
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    log = known(data.draw(st.lists(pair, min_size=1, max_size=60)), n_users, n_items)
    looked_up, searched = NegativeSampler(log), NegativeSampler(log)
    assert looked_up.ranks is not None or n_users * (n_items + 1) > CELLS_PER_PAIR * len(searched.keys)
    searched.ranks = None
    users = torch.randint(n_users, (50,), generator=generator(seed))
    for one, other in zip(*(each.draw(users, 7, generator(seed)) for each in (looked_up, searched)), strict=True):
        assert torch.equal(one, other)


def test_a_table_of_ranks_is_bounded_and_made_in_pieces(monkeypatch: pytest.MonkeyPatch):
    users = torch.arange(3000).repeat_interleave(20)
    log = Interactions(users, (users * 7 + torch.arange(60_000) % 20 * 31) % 999, 3000, 999)
    sampler = NegativeSampler(log)  # 3 million cells
    assert sampler.ranks is not None and sampler.ranks.dtype == torch.int16
    points = torch.randint(3000 * 1000, (5000,), generator=generator())
    known_before = torch.searchsorted(sampler.keys, points // 1000 * 1000)
    assert torch.equal(
        sampler.ranks[points].long(), torch.searchsorted(sampler.keys, points, right=True) - known_before
    )
    monkeypatch.setattr(negative_sampling, "RANK_CELLS", 2_999_999)
    assert NegativeSampler(log).ranks is None


def test_uniform_over_the_unknown_items(filtered: bool):
    sampler = NegativeSampler(known([(0, 1), (0, 2), (0, 7), (1, 0)], 2, 8), 0.0)
    expected = torch.tensor([1, 0, 0, 1, 1, 1, 1, 0]) / 5
    torch.testing.assert_close(frequencies(sampler, 0), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_by_a_power_of_popularity_over_the_unknown_items(filtered: bool, alpha: float):
    counts = [16, 9, 4, 1]
    pairs = [(1 + row, item) for item, count in enumerate(counts) for row in range(count)]
    sampler = NegativeSampler(known([*pairs, (0, 1)], 20, 4), alpha)  # user 0 knows item 1 only
    weights = torch.tensor([16.0, 0.0, 4.0, 1.0]) ** alpha * torch.tensor([1, 0, 1, 1])
    torch.testing.assert_close(frequencies(sampler, 0), weights / weights.sum(), atol=0.01, rtol=0)


def test_a_user_who_knows_all_has_no_negatives(filtered: bool):
    sampler = NegativeSampler(known([(0, 0), (0, 1), (0, 2), (1, 1)], 2, 3))
    items, real = sampler.draw(torch.tensor([0, 1, 0]), 50, generator())
    assert real.tolist() == [False, True, False]
    assert set(items[1].tolist()) == {0, 2} and items[0].max() < 3
    assert not sampler.all_real and NegativeSampler(known([(0, 0), (1, 2)], 2, 3)).all_real


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_a_user_who_knows_all_popular_items_gets_the_others(filtered: bool, alpha: float):
    pairs = [(user, item) for user in range(50) for item in range(3)]
    items, real = NegativeSampler(known(pairs, 50, 5), alpha).draw(torch.tensor([7]), 200, generator())
    assert real.all() and set(items[0].tolist()) == {3, 4}


def test_no_row_at_all():
    items, real = NegativeSampler(known([], 3, 4), 0.5).draw(torch.tensor([0, 2]), 100, generator())
    assert real.all() and set(items.flatten().tolist()) == {0, 1, 2, 3}


def test_fresh_with_every_call_repeatable_by_seed(filtered: bool):
    sampler, users = NegativeSampler(known([(0, 0)], 1, 1000)), torch.zeros(4, dtype=torch.long)
    one = generator(5)
    first, second = sampler.draw(users, 8, one)[0], sampler.draw(users, 8, one)[0]
    assert not torch.equal(first, second)
    assert torch.equal(first, sampler.draw(users, 8, generator(5))[0])


@pytest.mark.long
def test_large_catalogs_keep_their_keys_apart(filtered: bool):
    n_users, n_items = 3_000_000, 2_000_000
    pairs = [(0, 5), (n_users - 2, n_items - 1), (n_users - 1, 0), (n_users - 1, n_items - 1)]
    for alpha in (0.0, 0.75):
        sampler = NegativeSampler(known(pairs, n_users, n_items), alpha)
        assert sampler.keys.dtype == torch.int64 and (sampler.keys.diff() >= 0).all() and sampler.keys.min() >= 0
        items, real = sampler.draw(torch.tensor([n_users - 1, 0]), 1000, generator())
        assert real.all() and items.min() > 0 - 1 and items.max() < n_items
        assert not {0, n_items - 1} & set(items[0].tolist()) and 5 not in items[1].tolist()


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n_users=st.integers(1, 40), n_items=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_filter_finds_the_known_pairs_and_no_others(data: st.DataObject, n_users: int, n_items: int, seed: int):
    pairs = data.draw(st.sets(st.integers(0, n_users * n_items - 1), min_size=1, max_size=300))
    has = torch.tensor(sorted(pairs))
    users = torch.randint(n_users, (30, 4, 1), generator=generator(seed))
    items = torch.randint(n_items, (30, 1, 5), generator=generator(seed + 1))
    found = PairFilter(has, n_users, n_items).cells_of_known(users, items)
    expected = torch.isin((users * n_items + items).reshape(-1), has)  # (30 * 4 * 5,)
    assert torch.equal(found, expected.nonzero().squeeze(1))


def test_the_filter_lets_few_unknown_pairs_pass():
    n_users, n_items = 2000, 3000
    pairs = torch.randint(n_users * n_items, (100_000,), generator=generator()).unique()
    found = PairFilter(pairs, n_users, n_items)
    users, items = torch.arange(n_users).unsqueeze(1), torch.arange(n_items).unsqueeze(0)
    passed = (found.table[found._places(users, items).long()] & found.bits == found.bits).float().mean()
    known = len(pairs) / (n_users * n_items)
    assert known <= passed < known + 0.05 and len(found.table) <= 4 * len(pairs)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), alpha=st.sampled_from([0.0, 0.75]))
def test_shared_negatives_name_what_each_user_knows(data: st.DataObject, alpha: float):
    n_users, n_items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    pair = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1))
    pairs = data.draw(st.lists(pair, min_size=1, max_size=40))
    users = torch.arange(n_users).repeat(6).view(3, -1)  # (S, R)
    sampler = SharedNegatives(known(pairs, n_users, n_items), alpha)
    items, cells = sampler.draw(users, 50, generator())
    assert items.shape == (3, 50) and items.min() >= 0 and items.max() < n_items
    grid = [
        (u, i) in pairs for row, drawn in zip(users.tolist(), items.tolist(), strict=True) for u in row for i in drawn
    ]
    assert cells.tolist() == [cell for cell, is_known in enumerate(grid) if is_known]


def test_shared_negatives_come_by_their_weights():
    rows = [(user, item) for item in range(4) for user in range(4**item)]
    for alpha, shares in ((0.0, [0.25] * 4), (0.5, [1 / 15, 2 / 15, 4 / 15, 8 / 15])):
        items, _ = SharedNegatives(known(rows, 64, 4), alpha).draw(
            torch.zeros(400, 1, dtype=torch.long), 100, generator()
        )
        torch.testing.assert_close(torch.bincount(items.view(-1)) / 40_000, torch.tensor(shares), atol=0.02, rtol=0)


def test_static_negatives_are_drawn_once_and_fresh_ones_every_time():
    known = Interactions(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), 2, 50)
    sampler, batch = NegativeSampler(known), torch.tensor([2, 0])
    for kind, same in (("static", True), ("fresh", False)):
        draw = sampler.for_rows(known.users, 8, kind, seed=3)
        generator = torch.Generator().manual_seed(0)
        (first, real), (second, _) = draw(batch, generator), draw(batch, generator)
        assert torch.equal(first, second) is same and real.all()
        assert (
            not torch.isin(first[0], torch.tensor([2])).any() and not torch.isin(first[1], torch.tensor([0, 1])).any()
        )
