"""A night with `[attributes]`: items of the catalog without events are listed, audited, ruled and measured."""

import random
from pathlib import Path

import polars as pl
import pytest

from flows import conductor
from pipeline.config.publishing import Holdback
from pipeline.core.errors import Refused
from pipeline.publishing import explanation, holdback, on_request
from pipeline.schemas import tables
from pipeline.storage import journal
from tests.support.nights import without_report
from tests.support.published_nights import DAY, RECIPE, START, Dataset, without_mlflow

CATALOG = """[items]
files = ["catalog/items.csv"]
id = "item"
attributes = { kinds = "|" }
"""
ATTRIBUTES = """[attributes]
items = true
[export]
top_n = 6
exclude_where = "item_id = 'new-2'"
"""
IALS = "ials]\nembedding_dim = 4\nepochs = 4\nunobserved_weight = 0.05\nl2 = 0.001"
NEW = [f"new-{n}" for n in range(4)]


class Shop(Dataset):
    """Users like even or odd things of 24; four new ones and `mystery`, which has no kind, have no event."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        toml = folder / "tiny.toml"
        toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + CATALOG)
        (folder / "cheap.toml").write_text(RECIPE.replace("mf]\nembedding_dim = 4\nepochs = 1", IALS) + ATTRIBUTES)
        draw, lines = random.Random(5), ["user,item,rating,t"]
        for user in range(40):
            liked = draw.sample(range(user % 2, 24, 2), 8)
            lines += [f"u{user:02d},i{n:02d},4,{START + (user + 3 * at) % 30 * DAY}" for at, n in enumerate(liked)]
        (folder / "a.csv").write_text("\n".join([*lines, ""]))
        (folder / "catalog").mkdir()
        things = [f"i{n:02d},{'odd' if n % 2 else 'even'}" for n in range(24)]
        new = [f"{item},{'odd' if n % 2 else 'even'}" for n, item in enumerate(NEW)]
        (folder / "catalog" / "items.csv").write_text("\n".join(["item,kinds", *things, *new, "mystery,", ""]))

    def write_backtest(self) -> None:
        """A recipe for a backtest: a model that reads the attributes, and one that does not."""
        (self.folder / "two.toml").write_text((self.folder / "cheap.toml").read_text() + "[models.item_knn]\n")

    def night(self, *overrides: str) -> str:
        """Publish one, without a report."""
        run = self.prepare(*overrides)
        assert conductor.conduct(run, without_report) == "published"
        return run.run_id


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = Shop(tmp_path_factory.mktemp("new"))
        shop.night()
        yield shop


def test_new_items_are_in_the_lists_of_those_whose_taste_they_fit(shop):
    rows = shop.ask(
        "select item_id, cast(user_id[2:] as int) % 2 as odd from recommendations where item_id like 'new%'"
    )
    fits = [(int(item[-1]) % 2) == odd for item, odd in rows.rows()]
    assert len(fits) > 20 and sum(fits) > 0.9 * len(fits)
    assert set(rows["item_id"]) == {"new-0", "new-1", "new-3"}, "a rule excludes new-2"
    assert "new-2" not in shop.ask("from similar_items")["similar_item_id"]


def test_a_new_item_has_similar_items_and_a_vector_and_is_not_popular(shop):
    near = shop.ask("select similar_item_id from similar_items where item_id = 'new-1' and rank <= 3")
    assert near.height == 3 and all(int(item[-2:].strip("-")) % 2 == 1 for item in near["similar_item_id"])
    assert set(NEW) < set(shop.ask("from item_vectors")["id"])
    assert not set(NEW) & set(shop.ask("from popular_items")["item_id"])


def test_what_no_attribute_describes_is_in_no_table_of_the_model(shop):
    for column in ("recommendations.item_id", "similar_items.item_id", "similar_items.similar_item_id"):
        table, name = column.split(".")
        assert "mystery" not in shop.ask(f"from {table}")[name], column
    assert "mystery" not in shop.ask("from item_vectors")["id"] and "mystery" in shop.ask("from items")["item_id"]


def test_coverage_is_a_share_of_the_items_with_interactions(shop):
    found = shop.ask("from coverage").row(0, named=True)
    shown = set(shop.ask("from recommendations")["item_id"])
    known = set(shop.ask("from items where n_interactions > 0")["item_id"])
    assert found["items_shown"] == len(shown) and found["items_known"] == len(known)
    assert found["new_items_shown"] == len(shown - known) > 0
    assert found["coverage"] == len(shown & known) / len(known)


def test_metrics_have_segments_of_new_items(shop):
    found = shop.ask("select distinct segment from metrics where model = 'ials' and split = 'test'")["segment"]
    assert "new_items" in found.to_list()


def test_without_the_key_nothing_is_different(shop):
    before = shop.ask("select count(*) from items").item()
    shop.night("attributes.items=false")
    assert shop.ask("select count(*) from recommendations where item_id like 'new%'").item() == 0
    assert shop.ask("select count(*) from items").item() == before


def test_a_family_that_can_not_serve_new_items_lists_none(shop):
    shop.night("models={ease = {l2 = 5.0}}", "gate.enabled=false")
    rows = shop.ask("select distinct item_id from recommendations")["item_id"]
    assert not set(NEW) & set(rows) and len(rows) > 10


@pytest.mark.parametrize(
    "models", [None, "models={mf = {embedding_dim = 4, epochs = 1, init_std = 1.0}}", "models={item_knn = {}}"]
)
def test_lists_on_request_have_what_lists_of_the_night_may_have(shop, models):
    """`mystery` has the random vector that mf begins with; families that read no attributes score new items 0."""
    shop.night("gate.enabled=false", "export.active_days=1000", *([models] if models else []))
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    can_list = 27 if models is None or "mf" in models else 24
    for user in ("u00", "u07", "u31"):
        mine = shop.ask(f"from recommendations where user_id = '{user}' order by rank")
        asked = on_request.list_of(night, user)
        assert asked["item_id"].to_list() == mine["item_id"].to_list()
        for item in ("mystery", mine["item_id"][0]):
            told = explanation.explanation(night, user, item)
            assert told["candidates"] == can_list - 8 + (item == "mystery")
        assert told["rank"] == 1


def test_a_held_back_user_with_nothing_left_has_no_list(shop):
    """Popularity, which they get, lists no new item, and one of them has all others."""
    source = shop.folder / "a.csv"
    before = source.read_text()
    source.write_text(before + "".join(f"{user},i{n:02d},4,{START}\n" for user in ("all1", "all2") for n in range(24)))
    shop.night("gate.enabled=false", 'export.holdback={ share = 0.5, salt = "a" }', "churn.accept=true")
    held = set(holdback.held_users(pl.Series(["all1", "all2"]), Holdback(share=0.5, salt="a")))
    lists = shop.ask("select user_id, item_id, source from recommendations")
    assert held == {"all1"}
    assert not lists.filter(user_id="all1").height
    assert set(lists.filter(user_id="all2")["item_id"]) == {"new-0", "new-1", "new-3"}
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    assert on_request.list_of(night, "all1").is_empty()
    source.write_text(before)


def test_what_was_noted_of_lists_is_noted_by_nights_that_find_them_in_the_lake(shop):
    (shop.folder / "deny.csv").write_text("item_id\nnowhere\n")
    found = []
    for _ in range(2):
        run_id = shop.night("export.exclude_items=deny.csv")
        found.append([text for text in journal.notes(shop.home, "tiny", run_id) if "exclude_items" in text])
        stages = journal.read(shop.home, "tiny", tables.STAGES, run_id)
    assert stages.filter(stage="export")["skipped"].all()
    assert found[0] == found[1] == ["warning: export.exclude_items: 1 of 1 items are not in the source"]


def test_a_backtest_compares_models_that_list_new_items_with_others(shop, capsys):
    shop.write_backtest()
    told = shop.printed(
        capsys, "replay", str(shop.folder / "tiny.toml"), "--recipe", str(shop.folder / "two.toml"),
        "--from", "2023-12-06", "--to", "2023-12-08", "--set", "threads=1",
    )  # fmt: skip
    assert [night["outcome"] for night in told["nights"]] == ["published"] * 3, told
    assert {row["model"] for row in told["models"]} >= {"ials", "item_knn"}


def test_an_item_from_nowhere_is_refused(shop, monkeypatch):
    monkeypatch.setattr(
        "pipeline.sources.model_attributes.described_items", lambda encoded: shop.ask("select 'x' as item_id")
    )
    with pytest.raises(Refused, match="items_known"):
        shop.night()


def test_explain_and_forget_know_new_items(shop, capsys):
    shop.night()
    item, user = shop.ask("select item_id, user_id from recommendations where item_id = 'new-1' limit 1").row(0)
    told = shop.printed(capsys, "explain", "tiny", user, item)
    assert told["published_rank"] >= 1 and told["excluded_by"] is None
    assert shop.command("forget", "tiny", user) == 0, capsys.readouterr()
    shop.night()
    assert shop.ask(f"select count(*) from recommendations where user_id = '{user}'").item() == 0
    assert shop.ask("select count(*) from recommendations where item_id = 'new-1'").item() > 0
