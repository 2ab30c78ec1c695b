"""Item-based nearest neighbours: similarities by hand, and the sparse graph they are kept in."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.models.item_knn import ItemKnn, ItemKnnConfig
from pipeline.models.ops import item_graph
from pipeline.models.ops.item_graph import heaviest, products, reversed_edges
from pipeline.training.interactions import History, Interactions
from tests.support.data_sets import data_set
from tests.support.interactions import frame, random_interactions
from tests.support.models import fitted

# users 0 … 3; item 0 has users 0, 1, 2; item 1 has 0, 1; item 2 has 3 alone; item 3 has none
TINY = Interactions(torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 0, 1, 0, 2]), 4, 4)


def similarity(model: ItemKnn) -> Tensor:
    """What item i (row) in a history adds to the score of item j (column), (I, I)."""
    return model.similar(torch.arange(model.n_items))


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"shrink": 0}, 2 / math.sqrt(6)),
        ({"shrink": 4}, 2 / (math.sqrt(6) + 4)),
        ({"shrink": 0, "similarity": "jaccard"}, 2 / 3),
        ({"shrink": 1, "similarity": "jaccard"}, 2 / 4),
        ({"shrink": 0, "similarity": "asymmetric_cosine"}, 2 / math.sqrt(6)),
    ],
)
def test_similarity_by_hand(config: dict, expected: float):
    model = fitted(ItemKnn, TINY, **config)
    want = torch.zeros(4, 4)
    want[0, 1] = want[1, 0] = expected
    torch.testing.assert_close(similarity(model), want)


def test_asymmetric_cosine_knows_which_item_is_in_the_history():
    got = similarity(fitted(ItemKnn, TINY, shrink=0, similarity="asymmetric_cosine", asymmetry=1.0))
    assert got[0, 1].item() == pytest.approx(2 / 3) and got[1, 0].item() == pytest.approx(2 / 2)


@pytest.mark.parametrize("weighting", ["tf_idf", "bm25"])
def test_weighted_cosine_by_hand(weighting: str):
    idf = [
        math.log(5 / 3),
        math.log(5 / 3),
        math.log(5 / 2),
    ]  # of users 0, 1, 2: 4 items, 2, 2 and 1 of them theirs
    x, y = torch.tensor(idf), torch.tensor([idf[0], idf[1], 0])
    got = similarity(fitted(ItemKnn, TINY, shrink=0, weighting=weighting))[0, 1]
    torch.testing.assert_close(got, x @ y / (x.norm() * y.norm()))  # a cosine doesn't see the lengths of items
    if weighting == "bm25":
        mean = 6 / 4
        scale = [2.2 / (1 + 1.2 * (0.25 + 0.75 * n / mean)) for n in (3, 2)]
        x, y = x * scale[0], y * scale[1]
        got = similarity(fitted(ItemKnn, TINY, shrink=1, weighting=weighting))[0, 1]
        torch.testing.assert_close(got, x @ y / (x.norm() * y.norm() + 1))


def test_scores_add_up_the_neighbours_of_the_target():
    train = random_interactions()
    model = fitted(ItemKnn, train, neighbors=3, shrink=2)
    x = train.history().dense()  # (U, I)
    dots = x.T @ x
    norms = dots.diagonal()
    dense = (dots / ((norms[:, None] * norms).sqrt() + 2)).fill_diagonal_(0)  # (I, I)
    kept = torch.zeros_like(dense).scatter(0, dense.topk(3, dim=0).indices, 1.0)  # by column: the target's nearest
    exact = dense.clone()
    ties = (dense >= dense.topk(4, dim=0).values[3]).sum(0) > 4  # columns where the third is not unique
    ties |= dense.topk(4, dim=0).values[2] == dense.topk(4, dim=0).values[3]
    got = model.score(torch.arange(60), train.history())
    torch.testing.assert_close(got[:, ~ties], (x @ (exact * kept))[:, ~ties])
    assert (~ties).sum() > 10, "most columns are compared"
    assert model.neighbors.shape == model.weights.shape == (40, 3)


def test_batch_is_single_and_repeats_count_once():
    model = fitted(ItemKnn, random_interactions())
    lists = [[1, 5, 9, 13], [], [0], [5, 1, 1, 13, 9, 9]]
    together = model.score(torch.full((4,), -1), History.of_lists(lists, 40))
    assert not together[1].any() and torch.isfinite(together).all()
    torch.testing.assert_close(together[0], together[3])
    for row, items in enumerate(lists):
        alone = model.score(torch.tensor([-1]), History.of_lists([items], 40))
        torch.testing.assert_close(alone[0], together[row])
    chosen = torch.tensor([[3, 3], [0, 1], [39, 2], [7, 8]])
    got = model.score(torch.full((4,), -1), History.of_lists(lists, 40), chosen)
    torch.testing.assert_close(got, together.gather(1, chosen))


def test_more_neighbours_than_items():
    model = fitted(ItemKnn, TINY, neighbors=1000)
    again = ItemKnn(model.config, 4, 4)
    again.load_state_dict(model.state_dict())  # the shapes are known before the fit
    torch.testing.assert_close(similarity(again), similarity(model))


def test_repeated_rows_count_once():
    train = random_interactions()
    twice = train.select(torch.arange(len(train)).repeat(2))
    torch.testing.assert_close(similarity(fitted(ItemKnn, twice)), similarity(fitted(ItemKnn, train)))


def test_products_of_tiles_are_those_of_matrices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(item_graph, "TILE", 1)  # the least: 16 items a tile
    by_item = random_interactions().history().transposed()
    left, right = torch.rand(2, len(by_item.items)).unbind()
    l_matrix, r_matrix = torch.zeros(2, 40, 60).unbind()
    l_matrix[by_item.rows, by_item.items], r_matrix[by_item.rows, by_item.items] = left, right
    tiles = list(products(by_item, left, right))
    assert [len(items) for items, _ in tiles] == [16, 16, 8]
    expected = (l_matrix @ r_matrix.T).fill_diagonal_(0)
    torch.testing.assert_close(torch.cat([rows for _, rows in tiles]), expected)
    neighbors, weights = heaviest(iter(tiles), 40, 5)
    torch.testing.assert_close(weights, expected.topk(5).values)
    torch.testing.assert_close(expected.gather(1, neighbors), weights)


def test_reversed_edges_keep_the_heaviest_that_meet():
    neighbors = torch.tensor([[1, 2], [0, 2], [1, 0]])
    weights = torch.tensor([[0.5, 0.1], [0.4, 0.9], [0.7, 0.2]])
    to, weight = reversed_edges(neighbors, weights)
    assert to.tolist() == [[1, 2], [2, 0], [1, 0]]
    torch.testing.assert_close(weight, torch.tensor([[0.4, 0.2], [0.7, 0.5], [0.9, 0.1]]))
    crowded = reversed_edges(torch.tensor([[1], [0], [1]]), torch.tensor([[0.3], [0.2], [0.8]]))
    assert crowded[0].tolist() == [[1], [2], [0]]
    torch.testing.assert_close(crowded[1], torch.tensor([[0.2], [0.8], [0.0]]))  # nothing leads to item 2


@pytest.mark.parametrize("wrong", [{"neighbors": 0}, {"shrink": -1}, {"similarity": "pearson"}, {"asymmetry": 2}])
def test_config_refuses(wrong: dict):
    with pytest.raises(ValidationError):
        ItemKnnConfig(**wrong)


def test_movielens_100k_neighbours_share_users():
    rows = frame(data_set("ml-100k") / "u.data")
    train = Interactions(rows[:, 0] - 1, rows[:, 1] - 1, 943, 1682)
    near = similarity(fitted(ItemKnn, train))[49].topk(3).indices  # of Star Wars (1977)
    assert set((near + 1).tolist()) == {172, 174, 181}, "its sequels, and Raiders of the Lost Ark"
