"""Exploration: places for new items that are drawn, never at the top, within the rules, and equal for equal data."""

import datetime as dt

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.publishing import Explore
from pipeline.core.errors import SettingsError
from pipeline.publishing import explore
from pipeline.publishing.business_rules import Ruled
from pipeline.publishing.explore import Explorer
from pipeline.ranking.recommend import Lists

FIT, NEW = 12, 7
"""Items of the fit, the last three of which are new, as are four more that it does not have."""
CODES = [9, 10, 11, 12, 13, 14, 15]


def explorer(count: int, had: dict[str, list[int]], limit: int | None = None, salt: int = 1) -> Explorer:
    """`had`: places of new items by user; the limit is on a value that all items with an even code share."""
    rows = [(user, e) for user, places in had.items() for e in places]
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "e": pl.Int64}, orient="row")
    even = (torch.arange(FIT + 4) % 2 == 0).unsqueeze(1)
    groups = [] if limit is None else [(even, limit)]
    ids = pl.Series([f"n{code}" for code in CODES])
    return Explorer(ids, torch.tensor(CODES), FIT, count, salt, frame, groups)


def ruled(items: list[list[int]], promoted: list[list[bool]], by_score: dict[int, int] | None = None) -> Ruled:
    """`by_score`: by column, the item of the only list that has it by its score."""
    table = torch.tensor(items)
    scores = torch.where(table >= 0, -torch.arange(table.shape[1]).float(), -torch.inf)
    kept = [(torch.tensor([item]), column) for column, item in sorted((by_score or {}).items())]
    return Ruled(Lists(table, scores, torch.zeros(len(items), dtype=torch.bool)), torch.tensor(promoted), {}, kept)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 5), st.sampled_from([0, 1, 2, 3]))
def test_new_items_move_nothing_below_the_place_of_its_promotion(data, count: int, salt: int):
    before = [0, 1, 2, 3, 4, 5]
    promoted = [data.draw(st.booleans()) for _ in before]
    free = [at for at in range(6) if not promoted[at]]
    columns = data.draw(st.lists(st.sampled_from(free), unique=True, max_size=2)) if free else []
    taken: dict[int, int] = {}
    for column in sorted(columns):
        above = [at for at in free if at <= column and at not in taken.values()]
        if above:
            taken[column] = data.draw(st.sampled_from(above))
    found, marks = explorer(count, {}, salt=salt).fill(ruled([before], [promoted], taken), pl.Series(["u"]))
    after, fixed = found.lists.items[0].tolist(), found.promoted[0].tolist()
    assert len(set(after)) == 6
    assert [at for at in range(6) if promoted[at] and after[at] != at] == []
    for column, item in taken.items():
        assert item in after[: column + 1]
        assert after.index(item) == column or not fixed[after.index(item)]
    rest = [item for item, mark, kept in zip(after, marks[0].tolist(), fixed, strict=True) if not mark and not kept]
    assert rest == sorted(rest)
    assert all(found.lists.scores[0, at] == -float(after[at]) for at in range(6) if not marks[0, at])


@st.composite
def cases(draw):
    k, n = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    lists = [draw(st.permutations(range(FIT)))[: draw(st.integers(0, k))] for _ in range(n)]
    items = [[*own, *[-1] * (k - len(own))] for own in lists]
    promoted = [[item >= 0 and draw(st.booleans()) for item in own] for own in items]
    had = {f"u{user}": draw(st.lists(st.integers(0, NEW - 1), unique=True)) for user in range(n)}
    return items, promoted, had


@settings(deadline=None, max_examples=40)
@given(cases(), st.integers(1, 3), st.sampled_from([None, 1, 2]), st.sampled_from([64, 3]))
def test_lists_keep_their_length_their_top_and_their_order(case, count, limit, draws):
    items, promoted, had = case
    users = pl.Series([f"u{n}" for n in range(len(items))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore, "DRAWS", draws)  # fewer than new items: some are drawn twice
        found, marks = explorer(count, had, limit).fill(ruled(items, promoted), users)
        alone, _ = explorer(count, had, limit).fill(ruled(items[-1:], promoted[-1:]), users[-1:])
    assert torch.equal(alone.lists.items[0], found.lists.items[-1]), "other users change nothing"
    for user, (before, after, fixed, mark) in enumerate(
        zip(items, found.lists.items.tolist(), promoted, marks.tolist(), strict=True)
    ):
        filled = [item for item in after if item >= 0]
        assert len(set(filled)) == len(filled) == sum(item >= 0 for item in before)
        assert after[0] == before[0] and not mark[0]
        drawn = [item for item, is_drawn in zip(after, mark, strict=True) if is_drawn]
        free = [code for e, code in enumerate(CODES) if e not in had[f"u{user}"] and code not in before]
        assert set(drawn) <= set(free) and len(drawn) <= count
        for item, kept, is_fixed in zip(before, after, fixed, strict=True):
            assert not is_fixed or kept == item
        moved = [is_drawn or is_fixed for is_drawn, is_fixed in zip(mark, fixed, strict=True)]
        rest = [item for item, is_moved in zip(after, moved, strict=True) if item >= 0 and not is_moved]
        assert rest == [item for item in before if item in rest], "the others keep their order"
        room = sum(item >= 0 and not is_fixed for item, is_fixed in list(zip(before, fixed, strict=True))[1:])
        if limit is None:
            assert len(drawn) == min(count, len(free), room), "a place stays empty only where nothing is left"
        elif drawn:
            counted = [item for item, is_fixed in zip(after, fixed, strict=True) if item >= 0 and not is_fixed]
            own = [item for item, is_fixed in zip(before, fixed, strict=True) if item >= 0 and not is_fixed]
            assert sum(i % 2 == 0 for i in counted) <= max(limit, sum(i % 2 == 0 for i in own))


def test_every_new_item_and_place_is_equally_likely_and_the_next_day_s_draws_differ():
    users = pl.Series([f"user {n}" for n in range(4000)])
    lists = ruled([list(range(6))] * 4000, [[False] * 6] * 4000)
    found, marks = explorer(1, {}).fill(lists, users)
    drawn = found.lists.items[marks]
    assert len(drawn) == 4000
    counts = torch.bincount(drawn, minlength=FIT + 4)[CODES]
    assert counts.sum() == 4000 and (counts / 4000 - 1 / NEW).abs().max() < 0.03
    by_place = marks.float().mean(0)
    assert by_place[0] == 0 and (by_place[1:] - 1 / 5).abs().max() < 0.03
    again, _ = explorer(1, {}).fill(lists, users)
    assert torch.equal(again.lists.items, found.lists.items)
    later, _ = explorer(1, {}, salt=2).fill(lists, users)
    assert (later.lists.items != found.lists.items).any(1).float().mean() > 0.8
    assert found.held == {(5, "explore", ""): 4000}, "the item with the lowest score gives way"


@pytest.mark.parametrize(
    ("share", "k", "count"), [(0.1, 20, 2), (0.1, 3, 1), (0.5, 20, 10), (0.5, 1, 0), (0.04, 20, 1)]
)
def test_a_share_is_at_least_one_place_and_never_the_top(share, k, count):
    assert explore.places(Explore(share=share), k) == count
    assert explore.places(None, k) == 0


def test_an_item_is_new_from_its_first_interaction_or_its_day_in_the_catalog():
    day = dt.datetime(2026, 3, 1)
    frame = pl.DataFrame(
        {
            "item_id": ["old", "fresh", "restocked", "to come", "cold", "dateless"],
            "first_seen": [day - dt.timedelta(days=90), day - dt.timedelta(days=3), day - dt.timedelta(days=90), None, None,
                           None],
            "launch": [None, None, dt.date(2026, 2, 27), dt.date(2026, 3, 9), dt.date(2026, 3, 1), None],
        },
        schema_overrides={"first_seen": pl.Datetime("us"), "launch": pl.Date},
    )  # fmt: skip

    def new(**keys) -> list[str]:
        return frame.filter(explore.new_items(Explore(**keys), frame, day, dt.date(2026, 3, 2)))["item_id"].to_list()

    assert new() == ["fresh"]
    assert new(available_from="launch") == ["fresh", "restocked", "cold"]
    assert new(available_from="launch", new_days=200) == ["old", "fresh", "restocked", "cold"]
    assert frame.filter(explore.new_items(Explore(available_from="launch"), frame, None, dt.date(2026, 3, 2)))[
        "item_id"
    ].to_list() == ["fresh", "restocked", "cold"], "untimed: by the night's date"
    with pytest.raises(SettingsError, match=r"available_from = 'item_id': the column has no dates"):
        new(available_from="item_id")
