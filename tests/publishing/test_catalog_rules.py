"""A shop with a catalog, from its TOML to the published tables: rules over attributes, audited, explained, forgotten."""

import json
import random
from pathlib import Path

import polars as pl
import pytest

from flows import conductor
from flows.prepare import prepare
from pipeline.core.errors import Refused, SettingsError
from pipeline.publishing import item_conditions
from pipeline.stages import export as export_stage
from pipeline.storage import journal
from tests.support.nights import without_report
from tests.support.published_nights import DAY, RECIPE, SECRET, START, Dataset, without_mlflow

SECTIONS = """[items]
files = ["catalog/items.csv"]
id = "item"
title = "name"
attributes = { kinds = "|" }
[users]
files = ["catalog/users.csv"]
id = "user"
"""
REPEATED = "i07,Thing that a later line replaces,odd,False,99,1"
RULES = """[export]
top_n = 6
exclude_where = "not in_stock"
only_where = "price < 25"
boost = [{ where = "list_contains(kinds, 'even')", factor = 1.5 }, { where = "item_id = 'i06'", factor = 0.5 }]
promote = [{ where = "is_new", place = 2 }, { items = "promoted.csv", place = 4 }]
"""


class Shop(Dataset):
    """Items i00 (the most popular) … i29 at the price of their number; a third is out of stock, i29 has no entry."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        toml = folder / "tiny.toml"
        toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + SECTIONS)
        (folder / "cheap.toml").write_text(RECIPE.replace("mf]\nembedding_dim = 4\nepochs = 1", "popularity]") + RULES)
        (folder / "promoted.csv").write_text("item_id,until\ni03,\ni22,\ni04,2000-01-01\n")
        (folder / "catalog").mkdir()
        draw, lines = random.Random(5), ["user,item,rating,t"]
        for user in [*(f"u{n:02d}" for n in range(30)), SECRET]:
            liked = draw.choices(range(30), [1 / (n + 3) for n in range(30)], k=9)
            lines += [f"{user},i{n:02d},4,{START + at * DAY}" for at, n in enumerate(dict.fromkeys(liked))]
        (folder / "a.csv").write_text("\n".join([*lines, *(f"all,i{n:02d},3,{START}" for n in range(30)), ""]))
        items = [
            f"i{n:02d},Thing {n},{'even|all' if n % 2 == 0 else ''},{n % 3 != 0},{n},{int(n == 20)}" for n in range(29)
        ]
        (folder / "catalog" / "items.csv").write_text(
            "\n".join(["item,name,kinds,in_stock,price,is_new", REPEATED, *items, ""])
        )
        users = [f"{user},{'de' if n % 2 else 'fr'}" for n, user in enumerate(["u00", "u01", SECRET, "stranger"])]
        (folder / "catalog" / "users.csv").write_text("\n".join(["user,country", *users, ""]))

    def night(self, *overrides: str) -> str:
        """Publish one, without a report."""
        run = self.prepare(*overrides)
        assert conductor.conduct(run, without_report) == "published"
        return run.run_id


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = Shop(tmp_path_factory.mktemp("shop"))
        shop.night()
        yield shop


def test_a_repeated_id_is_counted_and_the_night_published(shop):
    ledger = shop.ask("select reason, rows from row_ledger where stage = 'catalog'")
    assert dict(ledger.rows()) == {"kept": 29, "duplicate": 1}


def test_no_list_has_what_the_rules_exclude(shop):
    listable = {f"i{n:02d}" for n in range(25) if n % 3 != 0}
    for table, column in (
        ("recommendations", "item_id"),
        ("popular_items", "item_id"),
        ("similar_items", "similar_item_id"),
    ):
        assert set(shop.ask(f"from {table}")[column]) <= listable, table
    told = dict(shop.ask("select item_id, rule from suppressed where rule <> 'promote'").rows())
    assert told["i00"] == "exclude_where" and not told.keys() & listable
    reasons = dict(shop.ask("select distinct rule, reason from suppressed where rule <> 'promote'").rows())
    assert reasons["exclude_where"] == "not in_stock" and set(reasons) <= {"exclude_where", "only_where"}


def test_boosts_and_promotions_are_in_the_lists(shop):
    rows = shop.ask("from recommendations order by user_id, rank")
    promoted = rows.filter(source="promoted")
    assert set(promoted.select("rank", "item_id").rows()) == {(2, "i20"), (4, "i22")} and promoted.height > 40
    for (user,), mine in rows.group_by("user_id"):
        own = mine.filter(source="model")["score"].to_list()
        assert own == sorted(own, reverse=True), user
    even = rows.filter(pl.col("item_id").is_in(["i02", "i04", "i08"])).group_by("item_id").agg(pl.col("score").first())
    plain = dict(shop.ask("select item_id, score from popular_items where window_days = 0").rows())
    for item, score in even.rows():
        assert score == pytest.approx(1.5 * plain[item]), "every user has an item once"
    assert even.height
    displaced = shop.ask("select sum(users) from suppressed where rule = 'promote'").item()
    assert 0 < displaced <= promoted.height, "some stood further down in the list"


def test_explain_knows_the_rules(shop, capsys):
    user = shop.ask("select user_id from recommendations where source = 'promoted' and item_id = 'i20' limit 1").item()
    for item in shop.ask(f"select item_id, rank, score from recommendations where user_id = '{user}'").to_dicts():
        told = shop.printed(capsys, "explain", "tiny", user, item["item_id"])
        assert told["score"] == pytest.approx(item["score"]) and told["published_rank"] == item["rank"]
        assert told["boost"] == (1.5 if int(item["item_id"][1:]) % 2 == 0 else 1.0)
        assert told["promoted_to"] == {"i20": [2], "i22": [4]}.get(item["item_id"], [])
    told = shop.printed(capsys, "explain", "tiny", user, "i03")
    assert (told["excluded_by"], told["excluded_because"]) == ("exclude_where", "not in_stock")
    assert shop.command("explain", "tiny", user, "i03") == 0
    assert "excluded from all lists by export.exclude_where (not in_stock)" in capsys.readouterr().out


def test_attributes_are_tables(shop):
    assert shop.ask("select count(*) from items where in_stock and price > 7").item() == 14
    assert shop.ask("select column_name from duckdb_columns() where table_name = 'items'")["column_name"].to_list() == [
        "item_id", "title", "n_interactions", "first_seen", "last_seen", "in_stock", "price", "is_new",
    ]  # fmt: skip
    assert shop.ask("select count(*) from item_attributes where attribute = 'kinds' and value = 'even'").item() == 15
    users = dict(shop.ask("select user_id, value from user_attributes").rows())
    assert users == {"u00": "fr", "u01": "de", SECRET: "fr"}


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("export.exclude_where=not in_stok", "no column 'in_stok' .did you mean 'in_stock'"),
        ("export.only_where=random() > 0.5", r"random\(\) is not allowed"),
        ('export.boost=[{ where = "pric > 3", factor = 2 }]', r"boost\[0\].where.*'pric'"),
        ('export.promote=[{ where = "name = 3 and", place = 1 }]', r"promote\[0\].where.*can't be parsed"),
        ('export.promote=[{ where = "is_new", place = 7 }]', "place 7 is beyond top_n = 6"),
        ('export.promote=[{ where = "is_new" }, { items = "promoted.csv" }]', "place 1 is given twice"),
        ('export.promote=[{ place = 1 }]', "either where or items"),
        ('export.boost=[{ where = "is_new", factor = 0 }]', "greater than 0"),
        ("export.max_per_attribute={kind=3}", "no attribute 'kind' .did you mean 'kinds'.*there are: kinds, in_stock"),
        ("export.max_per_attribute={name=3}", r"column 'name' .*write attributes = { \"name\" = \"\" }"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named_before_the_night(shop, setting, problem):
    with pytest.raises(SettingsError, match=f"(?s){problem}"):
        shop.prepare(setting)
    words = ["--recipe", str(shop.folder / "cheap.toml"), "--plan", "--set", setting]
    assert shop.command("run", str(shop.folder / "tiny.toml"), *words) == 2


def test_a_rule_that_the_catalog_s_values_do_not_suit_is_named_after_they_are_read(shop):
    with pytest.raises(SettingsError, match=r"exclude_where = 'price': it gives numbers other than 0 and 1"):
        item_conditions.check_values(shop.prepare("export.exclude_where=price"), shop_raw(shop))


def shop_raw(shop: Shop) -> Path:
    (manifest,) = shop.home.lake("tiny").glob("1_raw/ingest-*/manifest.json")
    return manifest.parent


def test_the_audit_refuses_what_the_rules_exclude(shop, monkeypatch):
    kept = export_stage.business_rules.rules_of
    loose = lambda export, *rest: kept(export.model_copy(update={"exclude_where": None}), *rest)  # noqa: E731
    monkeypatch.setattr(export_stage.business_rules, "rules_of", loose)
    with pytest.raises(Refused, match="nothing_excluded"):
        shop.night("export.exclude_where=not in_stock or price = 1")


def test_a_cap_holds_for_a_plain_column_and_a_place_without_items_warns(shop):
    """Items that `exclude_where` excludes do not count as promotable."""
    promote = 'export.promote=[{ where = "not in_stock", place = 1 }, { where = "price in (1, 3)", place = 2 }]'
    shop.night("export.max_per_attribute={is_new=2, kinds=4}", promote, "export.boost=[]")
    counts = shop.ask("""select user_id, is_new, count(*) as n from recommendations join items using (item_id)
                         where source <> 'promoted' group by all""")
    assert counts["n"].max() == 2
    notes = journal.notes(shop.home, "tiny", shop.live_night())
    (rules,) = [note for note in notes if note.startswith("rules: ")]
    assert "0 may be promoted to place 1, 1 may be promoted to place 2" in rules
    (warning,) = [note for note in notes if note.startswith("warning: export.promote")]
    assert warning.endswith("no item can be promoted to place 1: the other rules exclude all 10 items of its choice")


def test_a_night_whose_rules_leave_no_item_is_refused(shop):
    with pytest.raises(Refused, match=r"no item to recommend: exclude_where excludes 19 of 30 items, only_where .* 11"):
        shop.night("export.exclude_where=n_interactions < 100 and price > 9", "export.only_where=price > 99")


def test_rules_hold_for_items_that_the_fit_does_not_have(shop):
    """Items with few rows still count for popular_items, but not excluded ones, nor rows that keep_if drops."""
    few = "dataset.filter.min_item_interactions=11"
    shop.night(few, "dataset.feedback.keep_if=item <> 'i08'", "export.only_where=price < 25")
    popular = set(shop.ask("from popular_items")["item_id"])
    assert not {"i06", "i08", "i09"} & popular and {"i07", "i10"} <= popular
    notes = journal.notes(shop.home, "tiny", shop.live_night())
    assert any(note.startswith("rules: exclude_where excludes 3 of 7 items") for note in notes)


@pytest.mark.parametrize(
    ("excluding", "only", "warns"),
    [
        ("not in_stock", None, True), ("not in_stock", "price >= 0", False), ("item_id = 'i01'", None, False),
        (None, "in_stock", False), ("coalesce(not in_stock, true)", None, False),
    ],
)  # fmt: skip
def test_items_that_left_the_catalog_are_excluded_or_warned_of(shop, excluding, only, warns):
    rules = f"export.exclude_where={excluding}" if excluding else "export.exclude_where=1 = 0"
    shop.night(rules, f"export.only_where={only or '1 = 1'}", "export.promote=[]")
    shown = "i29" in shop.ask("select distinct item_id from recommendations")["item_id"].to_list()
    warnings = [
        note for note in journal.notes(shop.home, "tiny", shop.live_night()) if "not in the item catalog" in note
    ]
    assert len(warnings) == warns and all("1 of 30 items have rows" in note for note in warnings)
    assert warns or not shown or "item_id" in (excluding or "")


def test_settings_that_are_not_there_are_in_no_key(shop):
    plain = item_conditions.key_settings(prepare(str(shop.folder / "tiny.toml"), home=str(shop.home_root)))
    assert not set(item_conditions.ADDED) & plain.keys() and "night_date" not in plain
    dated = item_conditions.key_settings(shop.prepare("export.exclude_where=first_seen < night_date - 90"))
    assert dated["night_date"] and {"exclude_where", "boost", "promote"} < dated.keys()


def test_a_place_of_a_file_is_checked_too(shop):
    (shop.folder / "places.csv").write_text("item_id,place\ni01,9\n")
    with pytest.raises(SettingsError, match=r"promote\[0\]: place 9 of places.csv is beyond top_n = 6"):
        shop.prepare('export.promote=[{ items = "places.csv" }]')
    (shop.folder / "places.csv").write_text("item_id,place\ni01,2\n")
    with pytest.raises(SettingsError, match=r"place 2 of places.csv is that of promote\[0\], too"):
        shop.prepare('export.promote=[{ where = "is_new", place = 2 }, { items = "places.csv" }]')


def test_forget_reaches_user_attributes(shop, capsys):
    assert shop.printed(capsys, "forget", "tiny", SECRET)["left"] == []
    assert set(shop.ask("from user_attributes")["user_id"]) == {"u00", "u01"}
    assert shop.ask("select count(*) from items where price > 7").item() == 21, "its other columns stay"
    named = [path for path in shop.home_root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert named == [] and json.loads((shop.home.journal("tiny") / "forgotten.json").read_text())
