"""Lists by attribute, compared with the same lists made one value at a time; and the fallback of new users."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.publishing import ByAttribute
from pipeline.models.popularity import Popularity, PopularityConfig
from pipeline.publishing import cold_users, lists_by_attribute
from pipeline.publishing.attribute_values import Values
from pipeline.publishing.business_rules import Rules
from pipeline.ranking.recommend import ServeInputs, make_lists
from pipeline.sources import attributes
from pipeline.training.interactions import History

N_ITEMS = 8


class Table(Popularity):
    """Scores that stand in a table, for users with a history."""

    reads_history = True

    def __init__(self, scores: torch.Tensor):
        super().__init__(PopularityConfig(), *scores.shape)
        self.table = scores
        self.serves_everyone = False  # type: ignore[misc]

    def score(self, users, history, items=None):
        return self.table[users]


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS), min_size=1, max_size=4),
    st.lists(st.sets(st.sampled_from("xyz")), min_size=N_ITEMS, max_size=N_ITEMS),
    st.lists(st.sets(st.integers(0, N_ITEMS - 1)), min_size=4, max_size=4),
    st.sets(st.integers(0, N_ITEMS - 1), max_size=3),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.none() | st.integers(1, N_ITEMS),
)
def test_each_list_is_the_best_of_its_value(scores, kinds, seen, excluded, sizes, depth):
    """Users without a history are ranked by the fallback; chosen are the values with the best items.

    They are the same, with the same scores, where they are cut out of lists of all items of any depth.
    """
    top_n, most = sizes
    n = len(scores)
    pairs = sorted((kind, item) for item, own in enumerate(kinds) for kind in own)
    names = sorted({kind for kind, _ in pairs})
    values = Values(pl.Series(names, dtype=pl.String), torch.tensor([i for _, i in pairs], dtype=torch.long),
                    torch.tensor([names.index(kind) for kind, _ in pairs], dtype=torch.long))  # fmt: skip
    history = History.of_lists([[0] if user % 2 else [] for user in range(n)], N_ITEMS)
    fallback = torch.arange(N_ITEMS).float()
    mask = History.of_lists([sorted(own) for own in seen[:n]], N_ITEMS)
    allowed = torch.tensor([item not in excluded for item in range(N_ITEMS)])
    config = ByAttribute(attribute="kind", top_n=top_n, values=most)
    inputs = ServeInputs(torch.arange(n), history, mask, fallback)
    found = {}
    model, servable = Table(torch.tensor(scores).float()), torch.arange(N_ITEMS) != 5
    deep = None
    if depth is not None:  # of more than the allowed items
        deep, _ = make_lists(model, inputs, depth, allowed=allowed | servable)
    for tile in lists_by_attribute.lists_by(model, inputs, allowed, values, config, deep):
        for user, value, *own in zip(
            *(t.tolist() for t in (tile.users, tile.values, tile.items, tile.scores)), strict=True
        ):
            assert (user, names[value]) not in found, "each list is made once"
            found[user, names[value]] = [item for item in own[0] if item >= 0]
            of_all = scores[user] if user % 2 else fallback.tolist()
            assert own[1] == [of_all[item] if item >= 0 else -math.inf for item in own[0]]
    wanted = {}
    for user in range(n):
        own = scores[user] if user % 2 else fallback.tolist()
        free = [i for i in range(N_ITEMS) if i not in seen[user] and i not in excluded]
        lists = {
            kind: sorted((i for i in free if kind in kinds[i]), key=lambda i: (-own[i], i))[:top_n] for kind in names
        }
        filled = [kind for kind in names if lists[kind]]
        for kind in sorted(filled, key=lambda kind: (-own[lists[kind][0]], kind))[:most]:
            wanted[user, kind] = lists[kind]
    assert found == wanted


@pytest.fixture
def cold(tmp_path):
    """20 users of `de` who like item 0, five of `fr` who like item 1, and 20 without a country who like item 2."""
    users = [f"d{n:02d}" for n in range(20)] + [f"f{n}" for n in range(5)] + [f"x{n:02d}" for n in range(20)]
    country = [(user, "country", "de" if user[0] == "d" else "fr") for user in users if user[0] != "x"]
    country.append(("new", "country", "fr"))
    pl.DataFrame(country, schema=["user_id", "attribute", "value"], orient="row").write_parquet(
        tmp_path / attributes.USER_ATTRIBUTES
    )
    items = torch.tensor([0] * 20 + [1] * 5 + [2] * 20)
    known = cold_users.Known(pl.Series(users), 4)
    return cold_users.ColdUsers.of(tmp_path, "country", torch.arange(45), items, known)


def test_what_a_country_likes_comes_first_and_then_what_all_like(cold):
    assert cold.names.to_list() == ["de", "fr"]
    table = cold_users.fallback_items(cold, pl.Series(["i0", "i1", "i2", "i3"]), Rules(), 3)
    lists = {value: rows["item_id"].to_list() for (value,), rows in table.group_by("value", maintain_order=True)}
    assert lists["de"][0] == "i0" and lists[None] == ["i0", "i2", "i1"]
    assert table.filter(value="fr", item_id="i1")["score"].item() == pytest.approx(5 + 100 * 5 / 45)
    excluded = Rules(allowed=torch.tensor([False, True, True, True]))
    assert "i0" not in set(cold_users.fallback_items(cold, pl.Series(["i0", "i1", "i2", "i3"]), excluded, 3)["item_id"])


def test_lists_for_new_users_keep_to_the_limits_per_attribute(cold):
    groups = [(torch.tensor([[True, False], [False, True], [True, False], [True, False]]), 1)]
    table = cold_users.fallback_items(cold, pl.Series(["i0", "i1", "i2", "i3"]), Rules(groups=groups), 1)
    assert table.group_by("value").len()["len"].to_list() == [1, 1, 1]
    table = cold_users.fallback_items(cold, pl.Series(["i0", "i1", "i2", "i3"]), Rules(groups=groups), 3)
    lists = {value: rows["item_id"].to_list() for (value,), rows in table.group_by("value", maintain_order=True)}
    assert lists == {None: ["i0", "i1"], "de": ["i0", "i1"], "fr": ["i0", "i1"]}


def test_users_are_grouped_by_their_value(cold):
    users = pl.Series(["x01", "new", "d03", "f1", "nobody"])
    groups = {cold.names[value]: rows.tolist() for value, rows in cold.groups(users, torch.tensor([0, 1, 2, 3, 4]))}
    assert groups == {"de": [2], "fr": [1, 3]}
    assert {cold.names[v]: r.tolist() for v, r in cold.groups(users, torch.tensor([4, 3]))} == {"fr": [3]}
