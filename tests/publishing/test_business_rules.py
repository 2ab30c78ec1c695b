"""Rules of the house: what they hold back, what they leave, and that the published tables say so."""

import datetime as dt
import json
from collections import Counter

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows import conductor as line
from flows.prepare import prepare
from pipeline.config.publishing import Export
from pipeline.core.errors import UnreadableInput
from pipeline.publishing import business_rules, rule_files
from pipeline.publishing.promotions import Promotion
from pipeline.ranking.recommend import Lists
from pipeline.schemas import tables
from pipeline.storage import warehouse
from tests.support.nights import without_views

TODAY = dt.date(2026, 11, 22)
IDS = pl.Series("item_id", ["a", "b", "c", "d"])
SEEN = pl.Series("last_seen", [dt.datetime(2026, 1, day) for day in (1, 9, 20, 30)])
FRAME = pl.DataFrame([IDS, SEEN])
CATALOG = tables.CATALOG.check(
    pl.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["A", "B", "C", "D"],
            "attributes": [json.dumps({"genres": g}) for g in (["x"], ["x"], ["x", "y"], [])],
        }
    )
)


def lists(*rows: list[int]) -> Lists:
    items = torch.tensor(rows)
    scores = torch.where(items >= 0, -torch.arange(items.shape[1]).float(), -torch.inf)
    return Lists(items, scores, torch.zeros(len(rows), dtype=torch.bool))


def test_a_list_holds_by_date_and_keeps_its_reasons(tmp_path):
    (tmp_path / "deny.csv").write_text(
        "item_id,reason,from,until\na,recalled,,\nb,over,2026-01-01,2026-11-22\nc,later,2026-11-23,\nd,,2026-11-22,2026-11-23\n"
    )
    assert rule_files.read_list(tmp_path, "deny.csv", TODAY) == {"a": "recalled", "d": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [("id\na\n", "no column item_id"), ("item_id,until\na,tomorrow\n", "dates like"), (None, "no rule file")],
)
def test_a_bad_list_says_what_is_wrong(tmp_path, text, says):
    if text is not None:
        (tmp_path / "deny.csv").write_text(text)
    with pytest.raises(UnreadableInput, match=says):
        rule_files.read_list(tmp_path, "deny.csv", TODAY)


def test_each_rule_says_whom_it_holds_back(tmp_path):
    (tmp_path / "deny.csv").write_text("item_id,reason\nb,recalled\nnobody,\n")
    (tmp_path / "only.csv").write_text("item_id\nb\nc\nd\n")
    export = Export(exclude_items="deny.csv", only_items="only.csv", fresh_days=15)
    found = business_rules.rules_of(export, rule_files.read_lists(export, tmp_path, TODAY), FRAME, CATALOG)
    assert found.allowed is not None and found.allowed.tolist() == [False, False, True, True]
    assert found.rule[:2] == ["only_items", "exclude_items"] and found.reason[1] == "recalled"
    assert found.out(IDS).to_list() == ["a", "b"]


def test_without_rules_nothing_is_held_back(tmp_path):
    listed = rule_files.read_lists(Export(), tmp_path, TODAY)
    assert not business_rules.rules_of(Export(), listed, FRAME, CATALOG) and rule_files.fingerprint(listed) is None


def test_an_empty_list_is_a_rule_too(tmp_path):
    """Nothing may be listed but what stands in it; and it has a key of its own."""
    (tmp_path / "none.csv").write_text("item_id\n")
    export = Export(only_items="none.csv")
    listed = rule_files.read_lists(export, tmp_path, TODAY)
    assert business_rules.rules_of(export, listed, FRAME, CATALOG).out(IDS).to_list() == IDS.to_list()
    assert rule_files.fingerprint(listed) not in (None, rule_files.fingerprint({"exclude_items": {}}))


def test_fresh_days_of_untimed_data_is_an_error():
    untimed = FRAME.with_columns(last_seen=pl.lit(None, pl.Datetime("us")))
    with pytest.raises(UnreadableInput, match="goes by time"):
        business_rules.rules_of(Export(fresh_days=3), {}, untimed, CATALOG)


def test_an_unknown_attribute_is_an_error():
    with pytest.raises(UnreadableInput, match="no attribute 'genre'"):
        business_rules.rules_of(Export(max_per_attribute={"genre": 1}), {}, FRAME, CATALOG)


@pytest.mark.parametrize(
    ("column", "groups"),
    [
        (pl.Series("brand", ["Acme", None, "Acme", "Zeta"]), [[1, 0], [0, 0], [1, 0], [0, 1]]),
        (pl.Series("brand", [7, 7, None, None]), [[1], [1], [0], [0]]),
        (pl.Series("brand", [[], [], [], []], pl.List(pl.String)), [[], [], [], []]),
    ],
)
def test_a_plain_column_limits_by_its_values(column, groups):
    frame = FRAME.with_columns(column)
    ((has, limit),) = business_rules.rules_of(Export(max_per_attribute={"brand": 2}), {}, frame, CATALOG).groups
    assert has.int().tolist() == groups and limit == 2


def test_an_attribute_that_no_item_has_limits_nothing():
    catalog = CATALOG.with_columns(attributes=pl.lit('{"genres": []}'))
    export = Export(max_per_attribute={"genres": 1})
    groups = business_rules.rules_of(export, {}, FRAME, catalog).groups
    kept, short = business_rules.keep_to_limits(lists([0, 1, 2, 3]), groups, 3)
    assert kept.items.tolist() == [[0, 1, 2]] and short.tolist() == [False]


def test_promotable_items_are_those_that_the_other_rules_allow():
    def rules(*promoted: list[bool], allowed: list[bool] | None) -> business_rules.Rules:
        promotions = [Promotion(at, torch.tensor(items)) for at, items in enumerate(promoted, start=1)]
        free = None if allowed is None else torch.tensor(allowed)
        return business_rules.Rules(free, [""] * 4, [""] * 4, promotions=promotions)

    placed = [True, True, False, False], [False, True, True, True]
    count = business_rules.promotable_counts
    assert count(rules(*placed, allowed=[False, False, True, True])) == {1: (0, 2), 2: (2, 3)}
    assert count(rules(*placed, allowed=None)) == {1: (2, 2), 2: (3, 3)} and not count(rules(allowed=None))


def test_limits_are_kept_from_the_top():
    has = torch.tensor([[True, False], [True, False], [True, True], [False, False]])
    kept, short = business_rules.keep_to_limits(lists([0, 1, 2, 3], [3, 2, -1, -1]), [(has, 1)], 2)
    assert kept.items.tolist() == [[0, 3], [3, 2]] and short.tolist() == [False, False]
    kept, short = business_rules.keep_to_limits(lists([0, 1, 2, -1]), [(has, 1)], 2)
    assert kept.items.tolist() == [[0, -1]] and kept.scores[0, 1] == -torch.inf and short.tolist() == [True]


def test_lists_are_lengthened_until_the_limit_leaves_enough():
    n_items = 100
    has = torch.zeros(n_items, 1, dtype=torch.bool)
    has[:90] = True

    def make(k, allowed):
        return lists(list(range(k)))

    got = business_rules.apply(business_rules.Rules(None, [""] * n_items, [""] * n_items, [(has, 2)]), make, 5, n_items)
    assert got.lists.items.tolist() == [[0, 1, 90, 91, 92]] and not got.promoted.any()
    assert got.held == {(at, "max_per_attribute", ""): 1 for at in (2, 3, 4)}


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    """Two nights of the sample: a plain one, then one with rules against its most shown items."""
    home = tmp_path_factory.mktemp("ruled")
    recipe = home / "quick.toml"
    recipe.write_text("[models.popularity]\n[gate]\nenabled = false\n")
    plain = prepare(recipe=str(recipe), home=str(home))
    line.conduct(plain, without_views)
    with warehouse.connect(plain.home.live("sample"), read_only=True) as con:
        top = con.sql("select item_id, count(*) from recommendations group by 1 order by 2 desc, 1 limit 2").fetchall()
    (plain.data / "deny.csv").write_text(f"item_id,reason\n{top[0][0]},recalled\n")
    genre = next(iter(plain.settings.dataset.items.attributes))  # type: ignore[union-attr]
    rule = ["export.exclude_items=deny.csv", f"export.max_per_attribute.{genre}=4"]
    run = prepare(recipe=str(recipe), home=str(home), overrides=rule)
    line.conduct(run, without_views)
    return run, top, genre


def test_a_night_keeps_its_rules_and_tells(ruled):
    run, top, genre = ruled
    with warehouse.connect(run.home.live("sample"), read_only=True) as con:
        item, lists_before = top[0]
        for table, column in (
            ("recommendations", "item_id"),
            ("similar_items", "similar_item_id"),
            ("popular_items", "item_id"),
        ):
            assert con.sql(f"select count(*) from {table} where {column} = '{item}'").fetchall() == [(0,)]
        told = con.sql(f"select rule, reason, users from suppressed where item_id = '{item}'").fetchall()
        assert told == [("exclude_items", "recalled", lists_before)]
        assert con.sql("select count(*) from suppressed where rule = 'max_per_attribute'").fetchall()[0][0]
        rows = con.sql("select user_id, item_id from recommendations").pl()
    (raw,) = {p.parent for p in run.home.lake("sample").glob("1_raw/*/catalog.parquet")}
    catalog = pl.read_parquet(raw / "catalog.parquet")
    values = catalog.with_columns(
        v=pl.col("attributes").map_elements(lambda t: json.loads(t)[genre], pl.List(pl.String))
    )
    counts = rows.join(values.select("item_id", "v"), on="item_id").explode("v").group_by("user_id", "v").len()
    assert counts["len"].max() <= 4


def test_items_that_the_source_does_not_have_are_told(tmp_path):
    (tmp_path / "recalled.csv").write_text("item_id\na\nP999\n")
    export = Export(exclude_items="recalled.csv")
    listed = rule_files.read_lists(export, tmp_path, TODAY)
    (found,) = rule_files.unknown_items(listed, pl.Series(["a", "b"]))
    assert found == ("export.exclude_items: 1 of 2 items are not in the source", {"item_id": ["P999"]})
    assert not rule_files.unknown_items(listed, pl.Series(["a", "P999"]))


@given(
    before=st.lists(st.lists(st.integers(-1, 6), min_size=4, max_size=4), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    k=st.integers(0, 5),
)
def test_items_that_left_a_list_are_counted_by_user(before: list[list[int]], seed: int, k: int):
    after = torch.randint(-1, 7, (len(before), k), generator=torch.Generator().manual_seed(seed))
    gone = Counter(
        item for was, now in zip(before, after.tolist(), strict=True) for item in was if item >= 0 and item not in now
    )
    assert dict(business_rules.missing(torch.tensor(before), after)) == gone


def test_a_missing_list_is_told_before_the_night_starts(tmp_path):
    with pytest.raises(UnreadableInput, match=r"there is no rule file .*nosuch\.csv"):
        prepare("sample", home=str(tmp_path), overrides=["export.exclude_items=nosuch.csv"])
