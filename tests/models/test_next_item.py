"""Next items: pairs, recency and scores by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.models import FitContext, NotServable
from pipeline.models import next_item as module
from pipeline.models.next_item import NextItem
from pipeline.training.interactions import DAY, History, Interactions
from tests.support.interactions import random_interactions
from tests.support.models import fitted

PAIRS: dict[str, Any] = {
    "source_exponent": 0,
    "trend_exponent": 0,
    "popular_weight": 0,
    "backward": 0,
    "gap_decay": 0.5,
}


def one_of(name: str, value: float) -> dict[str, Any]:
    """PAIRS with another value of one of them."""
    return {**PAIRS, name: value}


def events(*sequences: list[int], n_items: int = 4) -> Interactions:
    """Sequences of users, an event a day, all of them from the same day on."""
    users = torch.tensor([user for user, items in enumerate(sequences) for _ in items])
    days = torch.tensor([day for items in sequences for day, _ in enumerate(items)])
    items = torch.tensor([item for items in sequences for item in items])
    return Interactions(users, items, len(sequences), n_items, timestamps=days * DAY)


def scores(model: NextItem, *histories: list[int]) -> torch.Tensor:
    """(B, I) of users that the fit has not seen."""
    return model.score(torch.full((len(histories),), -1), History.of_lists(list(histories), model.n_items))


def test_pairs_count_by_places_apart_and_direction():
    train = events([0, 1, 2], [0, 1])
    forward = fitted(NextItem, train, **PAIRS).similar(torch.arange(4))
    want = torch.zeros(4, 4)
    want[0, 1], want[1, 2], want[0, 2] = 2.0, 1.0, 0.5
    torch.testing.assert_close(forward, want)
    both = fitted(NextItem, train, **one_of("backward", 0.25)).similar(torch.arange(4))
    torch.testing.assert_close(both, want + 0.25 * want.T)
    near = fitted(NextItem, train, **one_of("reach", 1)).similar(torch.arange(4))
    assert near[0, 2] == 0 and near[0, 1] == 2


def test_pairs_do_not_cross_users_and_an_item_is_no_pair_of_its_own():
    found = fitted(NextItem, events([0, 0], [1, 2]), **PAIRS).similar(torch.arange(4))
    assert found.nonzero().tolist() == [[1, 2]]


def test_only_the_heaviest_pairs_are_kept():
    found = fitted(NextItem, events([0, 1, 2], [0, 1]), **PAIRS, neighbors=1).similar(torch.arange(4))
    assert found.nonzero().tolist() == [[0, 1], [1, 2]]


def test_later_events_count_more_and_old_ones_not_at_all():
    model = fitted(NextItem, events([0, 2], [1, 3]), **PAIRS, decay=0.5)
    torch.testing.assert_close(scores(model, [0, 1]), torch.tensor([[0, 0, 1 / 3, 2 / 3]]))
    short = fitted(NextItem, events([0, 2], [1, 3]), **PAIRS, latest=1)
    torch.testing.assert_close(scores(short, [0, 1]), torch.tensor([[0.0, 0, 0, 1]]))


def test_users_without_history_get_what_is_popular_now():
    model = fitted(NextItem, events([0, 1], [0, 2], [0, 2], [0, 1], [3, 1]), half_life=1.0)
    popular = torch.tensor([2.0, 3.0, 2.0, 0.5]) / 7.5  # day 0 counts half of day 1
    torch.testing.assert_close(scores(model, []), 0.7 * popular[None])


def test_what_is_rising_is_ranked_above_what_has_faded():
    # items 1 and 2 followed item 0 equally often; item 2 did so late
    train = events([0, 1] + [3] * 40, [0, 1] + [3] * 40, [3] * 40 + [0, 2], [3] * 40 + [0, 2])
    plain, rising = (scores(fitted(NextItem, train, **one_of("trend_exponent", power)), [0])[0] for power in (0.0, 1.0))
    assert plain[1] == plain[2] > 0
    assert rising[2] > 2 * rising[1] > 0


def test_tiles_give_what_one_tile_gives(monkeypatch: pytest.MonkeyPatch):
    drawn = random_interactions()
    train = replace(drawn, timestamps=torch.arange(len(drawn)) * DAY)
    whole = fitted(NextItem, train).state_dict()
    monkeypatch.setattr(module, "TILE", 1)
    tiles = fitted(NextItem, train).state_dict()
    assert all(torch.equal(tiles[name], value) for name, value in whole.items())


def test_rows_without_times_are_refused():
    train = Interactions(torch.tensor([0, 0]), torch.tensor([0, 1]), 1, 2)
    with pytest.raises(NotServable, match="order of events"):
        fitted(NextItem, train)


def test_nothing_depends_on_the_seed():
    drawn = random_interactions()
    train = replace(drawn, timestamps=torch.arange(len(drawn)) * DAY)
    one, other = (NextItem(NextItem.Config(), train.n_users, train.n_items) for _ in range(2))
    one.fit(train, FitContext(seed=1))
    other.fit(train, FitContext(seed=2))
    assert all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())
