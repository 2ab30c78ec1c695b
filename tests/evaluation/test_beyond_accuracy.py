"""Beyond accuracy: by hand, and at the ends of every scale."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.evaluation import beyond_accuracy
from pipeline.training.interactions import History

POPULAR = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


def test_gini_of_equal_and_of_single_exposure():
    equal = torch.tensor([[0, 1], [2, 3]])
    assert beyond_accuracy.gini(equal, POPULAR) == pytest.approx(0)
    single = torch.tensor([[0], [0], [0]])
    assert beyond_accuracy.gini(single, POPULAR) == pytest.approx(3 / 4)  # 1 - 1/n for n = 4 catalog items
    assert beyond_accuracy.gini(torch.full((2, 2), -1), POPULAR) == 0


def test_novelty_is_the_mean_of_bits():
    got = beyond_accuracy.novelty(torch.tensor([[0, 3], [2, -1], [-1, -1]]), POPULAR, 8, [1, 2])
    assert got[0].tolist() == pytest.approx([0, (0 + 3) / 2]) and got[1].tolist() == pytest.approx([2, 2])
    assert got[2].isnan().all()


def test_an_item_that_nobody_has_is_as_novel_as_one_users():
    got = beyond_accuracy.novelty(torch.tensor([[4], [3]]), POPULAR, 8, [1])
    assert got[0] == got[1] == pytest.approx(3)


def test_diversity_by_hand():
    vectors = torch.eye(3)
    got = beyond_accuracy.diversity(torch.tensor([[0, 1, 2], [0, 0, -1], [1, -1, -1]]), vectors, [1, 3])
    assert got[:2, 1].tolist() == pytest.approx([1, 0]) and math.isnan(got[2, 1]) and got[:, 0].isnan().all()


def test_diversity_is_the_mean_over_pairs():
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 8, generator=random)  # of any length, as sketches are
    lists = torch.randint(-1, 30, (50, 6), generator=random)
    lists = torch.where(lists.sort(1, descending=True).values < 0, -1, lists.sort(1, descending=True).values)
    for k, column in zip((2, 4, 6), beyond_accuracy.diversity(lists, vectors, [2, 4, 6]).T, strict=True):
        for row, got in zip(lists[:, :k], column, strict=True):
            of = vectors[row[row >= 0]].double()
            pairs = [float(of[i] @ of[j]) for i in range(len(of)) for j in range(i)]
            assert got == pytest.approx(1 - sum(pairs) / len(pairs), abs=1e-6) if pairs else math.isnan(got)


def test_signatures_have_the_cosines_of_user_sets():
    torch.manual_seed(0)
    lists = [[0, 1] if u < 60 else [0, 2] if u < 80 else [3] for u in range(100)]
    history = History.of_lists(lists, 4)
    draws = [beyond_accuracy.signatures(history, torch.Generator().manual_seed(seed)) for seed in range(40)]
    mean = torch.stack([s @ s.T for s in draws]).mean(0)
    x = history.dense()
    exact = torch.nn.functional.normalize(x, dim=0).T @ torch.nn.functional.normalize(x, dim=0)
    torch.testing.assert_close(mean, exact, atol=0.03, rtol=0)


def test_deciles_hold_a_tenth_of_the_rows_each():
    popular = torch.ones(100)
    deciles = beyond_accuracy.popularity_deciles(popular)
    assert torch.bincount(deciles).tolist() == [0] + [10] * 10
    skewed = beyond_accuracy.popularity_deciles(POPULAR)
    assert skewed.tolist()[0] == 1 and skewed.tolist()[4] == 0
    assert (skewed[:4].diff() >= 0).all()


def test_exposure_by_decile_sums_to_one_and_sees_bias():
    popular = torch.arange(100, 0, -1).float()
    top = beyond_accuracy.exposure_by_decile(torch.tensor([[0, 1], [0, 1]]), popular)
    assert top[0] == 1 and sum(top) == pytest.approx(1)
    spread = beyond_accuracy.exposure_by_decile(torch.arange(100).view(10, 10), popular)
    assert spread[-1] > spread[0]


def test_rare_items_weigh_more():
    weights = beyond_accuracy.debiased_weights(torch.tensor([0, 3, 4]), POPULAR)
    assert weights[1] > weights[0] and weights[1] == weights[2]
    assert weights[0] == pytest.approx(8**-beyond_accuracy.DEBIAS_POWER)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_signatures_have_the_same_bits_in_blocks_of_users(monkeypatch: pytest.MonkeyPatch, kind: torch.dtype):
    random = torch.Generator().manual_seed(1)
    users, items = torch.randint(0, 40, (600,), generator=random), torch.randint(0, 30, (600,), generator=random)
    history = History.of(users, items, 41, 31)  # a user and an item without rows
    by_item = history.distinct().transposed()
    plane = (
        torch.randn(41, beyond_accuracy.SKETCH_DIM, generator=torch.Generator().manual_seed(7))
        / beyond_accuracy.SKETCH_DIM**0.5
    )
    sums = torch.nn.functional.embedding_bag(
        by_item.items, plane, by_item.offsets, mode="sum", include_last_offset=True
    )
    whole = sums / by_item.lengths.clamp(min=1).sqrt().unsqueeze(1)
    given = replace(history, items=history.items.to(kind))
    for size in (41, 7, 1):
        monkeypatch.setattr(beyond_accuracy, "SKETCH_USERS", size)
        assert torch.equal(beyond_accuracy.signatures(given, torch.Generator().manual_seed(7)), whole)
