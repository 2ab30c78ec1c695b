"""Products with histories: by entries and dense tiles they are the same, with empty rows, repeats and weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.ops import history_products
from pipeline.models.ops.history_products import gram_of, times
from pipeline.training.interactions import History

N_ITEMS = 9
LISTS = st.lists(st.lists(st.integers(0, N_ITEMS - 2), max_size=9), min_size=1, max_size=12)  # the last item has no row


@pytest.fixture(autouse=True)
def by_entries(monkeypatch: pytest.MonkeyPatch):
    """Small products are sums of entries too, in several tiles of users, columns and blocks."""
    for name, value in {
        "DENSE_GRAM": 0,
        "DENSE_ITEMS": 0,
        "DENSEST": 9.0,
        "USERS": 5,
        "COLUMNS": 80,
        "MIRROR": 4,
    }.items():
        monkeypatch.setattr(history_products, name, value)


def dense(history: History, scale: torch.Tensor, values: torch.Tensor | None) -> torch.Tensor:
    """X with the last of repeated values, (U, I) float64."""
    x = torch.zeros(len(history), history.n_items, dtype=torch.float64)
    given = torch.ones(len(history.items)) if values is None else values
    for row, item, value in zip(history.rows.tolist(), history.items.tolist(), given.tolist(), strict=True):
        x[row, item] = value * scale[row]
    return x


@given(LISTS, st.sampled_from(["ones", "scaled", "valued"]), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_a_gram_matrix_by_entries(lists: list[list[int]], kind: str, threads: int):
    history = History.of_lists(lists, N_ITEMS)
    random = torch.Generator().manual_seed(len(history.items))
    scale = torch.ones(len(history)) if kind == "ones" else torch.rand(len(history), generator=random) + 0.1
    values = torch.rand(len(history.items), generator=random) * 3 if kind == "valued" else None
    x = dense(history, scale, values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        got = gram_of(history, scale, values)
    assert torch.equal(got, got.T)
    if kind == "ones":
        assert torch.equal(got, (x.T @ x).float())
    else:
        torch.testing.assert_close(got.double(), x.T @ x, rtol=1e-5, atol=1e-6)


@given(LISTS)
@settings(max_examples=40, deadline=None)
def test_a_product_by_entries(lists: list[list[int]]):
    history = History.of_lists(lists, N_ITEMS)
    random = torch.Generator().manual_seed(len(history.items))
    matrix = torch.randn(N_ITEMS, 40, generator=random)
    got = times(history, matrix)  # (B, 40)
    torch.testing.assert_close(got, history.dense() @ matrix)
    for width in (2, 20):  # looked up cell by cell, and picked
        columns = torch.randint(40, (len(lists), width), generator=random)
        assert torch.equal(times(history, matrix, columns), got.gather(1, columns))
    alone = [times(history[torch.tensor([row])], matrix)[0] for row in range(len(lists))]
    assert torch.equal(torch.stack(alone), got)


@given(LISTS, st.booleans())
@settings(max_examples=40, deadline=None)
def test_columns_at_a_time_give_the_same_bits(lists: list[list[int]], weighted: bool):
    history = History.of_lists([list(dict.fromkeys(row)) for row in lists] if weighted else lists, N_ITEMS)
    random = torch.Generator().manual_seed(len(history.items))
    weights = torch.rand(len(history.items), generator=random) if weighted else None
    history, matrix = replace(history, weights=weights), torch.randn(N_ITEMS, 40, generator=random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_products, "COPIED_FROM", 1e9)
        at_once = times(history, matrix)
        patch.setattr(history_products, "COPIED_FROM", 0)
        patch.setattr(history_products, "AT_A_TIME", 16)
        assert torch.equal(times(history, matrix), at_once)


def test_which_way_is_taken(monkeypatch: pytest.MonkeyPatch):
    tiles = []
    monkeypatch.setattr(history_products, "gram_by_tiles", lambda *args: tiles.append(args))
    history, ones = History.of_lists([[0, 1], [2]], N_ITEMS), torch.ones(2)
    gram_of(history, ones)
    assert not tiles
    monkeypatch.setattr(history_products, "DENSEST", 0.1)  # 3 of 18 cells have an entry
    gram_of(history, ones)
    assert len(tiles) == 1
    monkeypatch.setattr(history_products, "DENSEST", 0.5)
    monkeypatch.setattr(history_products, "DENSE_GRAM", 2 * N_ITEMS**2)
    gram_of(history, ones)
    assert len(tiles) == 2
