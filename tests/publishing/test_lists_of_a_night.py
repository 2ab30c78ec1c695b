"""A night whose recipe asks for more than one list per user: from the settings to the tables and the commands."""

import datetime as dt
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.publishing import Export
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.publishing import active_users, explanation, on_request
from pipeline.stages import export as export_stage
from pipeline.storage import journal, lake
from tests.support.cookbook import COOKBOOK
from tests.support.nights import without_report
from tests.support.published_nights import DAY, RECIPE, SECRET, START, Dataset, without_mlflow

RULES = """[export]
top_n = 5
active_days = 12
exclude_where = "item_id = 'i04' or coalesce(price > 90, false)"
explore = { share = 0.2, new_days = 9, available_from = "launch" }
by = { attribute = "category", top_n = 2, values = 2 }
trending = { windows = [3], past = 2, by = "category", top_n = 4 }
fallback_by = "country"
[lists.home]
top_n = 3
only_where = "category = 'a'"
promote = [{ where = "item_id in ('i09', 'i12')", place = 2 }]
[lists.email]
exclude_where = "false"
top_n = 8
max_per_attribute = { category = 2 }
explore = { share = 0.1, available_from = "launch" }
[lists.loud]
boost = [{ where = "item_id = 'i02'", factor = 100 }]
[models.ease]
l2 = 5.0
"""


LISTED = 23
"""Active users."""
BAD = "bad-of-fr"
"""A user whose rows all are below keep_if."""
ITEMS = """[items]
files = ["catalog/items.csv"]
id = "item"
title = "name"
[users]
files = ["catalog/users.csv"]
id = "user"
[feedback]
keep_if = "rating >= 2"
"""


def date_of(day: int) -> dt.date:
    return dt.datetime.fromtimestamp(START + day * DAY, dt.UTC).date()


class Shop(Dataset):
    """Users u00 … u19 and SECRET are active in days 30 to 39, and so is u00; the users old0 … old3 in days 0 to 9."""

    def __init__(self, folder):
        super().__init__(folder)
        (folder / "cheap.toml").write_text(RECIPE.split("[models.mf]")[0] + "[gate]\nenabled = false\n" + RULES)
        old = [
            f"old{user},i{(5 * user + 3 * day) % 17:02d},4,{START + day * DAY}" for user in range(4) for day in range(6)
        ]
        (folder / "catalog").mkdir()
        toml = folder / "tiny.toml"
        toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + ITEMS)
        items = [f"i{n:02d},Thing {n},{'abc'[n % 3]},{n}," for n in range(17)]
        added = [("new1", 5, 35), ("new2", 6, 39), ("dear", 99, 39), ("later", 7, 9999), ("earlier", 8, 20)]
        items += [f"{name},{name},a,{price},{date_of(day)}" for name, price, day in added]
        (folder / "catalog" / "items.csv").write_text("\n".join(["item,name,category,price,launch", *items, ""]))
        users = [f"u{n:02d},{'de' if n % 2 else 'fr'}" for n in range(20)]
        (folder / "catalog" / "users.csv").write_text(
            "\n".join(["user,country", *users, f"{BAD},fr", f"{SECRET},it", ""])
        )
        rising = [f"u{n:02d},i16,4,{START + 39 * DAY + 60 * n}" for n in range(18)]
        bad = [f"{user},i01,1,{START + 39 * DAY}" for user in (BAD, "bad-of-nowhere")]
        self.write(first_day=30, extra=(*old, f"gone,i03,2,{START}", *rising, *bad))

    def night(self, *overrides: str) -> str:
        from flows import conductor

        run = self.prepare(*overrides)
        assert conductor.conduct(run, without_report) == "published"
        return run.run_id


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        shop = Shop(tmp_path_factory.mktemp("active"))
        shop.night()
        yield shop


def test_only_active_users_have_a_list(shop):
    users = shop.ask("select user_id, user_id in (select user_id from recommendations) as listed from users")
    assert {user for user, listed in users.rows() if not listed} == {"old0", "old1", "old2", "old3", "gone"}
    assert users.filter("listed").height == LISTED


def test_a_list_on_request_is_the_one_that_the_night_makes(shop, capsys):
    """Of listed users too: the same items, scores and sources."""
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    for user in ("u03", "u11", SECRET):
        own = "select rank, item_id, score, source from recommendations where source = 'model'"
        mine = shop.ask(f"{own} and user_id = '{user}' order by rank")
        asked = on_request.list_of(night, user)[: mine.height]
        assert asked.select("item_id", "source").rows() == mine.select("item_id", "source").rows()
        assert asked["score"].to_list() == pytest.approx(mine["score"].to_list(), rel=1e-5)
    listed = shop.printed(capsys, "recommend", "tiny", "old1")
    own = shop.ask("select count(*) from recommendations where user_id = 'old1'").item()
    assert own == 0 and len(listed) == 5 and {row["source"] for row in listed} == {"model"}
    assert not {row["item_id"] for row in listed} & {f"i{(5 + 3 * day) % 17:02d}" for day in range(6)}, "no seen item"
    assert shop.command("recommend", "tiny", "old1", "-n", "2") == 0
    printed = capsys.readouterr()
    assert "made on request by the published model" in printed.err and len(printed.out.splitlines()) == 3


def test_new_items_of_the_catalog_are_in_the_lists(shop):
    """One place of five, below the top, for the two items that have just come and cost no more than the rule allows."""
    rows = shop.ask("from recommendations")
    drawn = rows.filter(source="explore")
    assert set(drawn["item_id"]) == {"new1", "new2"} and drawn["rank"].min() > 1
    assert drawn["user_id"].to_list() == sorted(set(rows["user_id"])), "each user has one"
    assert set(drawn["score"]) == {0.0} and set(rows["source"]) == {"model", "fallback", "explore"}
    (note,) = [note for note in journal.notes(shop.home, "tiny", shop.live_night()) if note.startswith("explore:")]
    assert note == "explore: 23 of 115 places are drawn from 2 new items"
    assert shop.ask("select sum(users) from suppressed where rule = 'explore'").item() == LISTED
    assert shop.ask("select count(*) from user_overview where source <> 'model'").item() == 2


def test_further_lists_follow_their_own_rules(shop, capsys):
    rows = shop.ask(
        "select *, category from recommendations_in join items using (item_id) order by list, user_id, rank"
    )
    sizes = dict(rows.group_by("list").agg(pl.col("rank").max()).iter_rows())
    assert sizes == {"home": 3, "email": 6, "loud": 5}, "an email has two of each of three categories"
    home, email = rows.filter(list="home"), rows.filter(list="email")
    assert set(home["category"]) == {"a"} and set(home["source"]) == {"model", "fallback", "promoted"}
    assert set(home.filter(source="promoted").select("rank", "item_id").rows()) <= {(2, "i09"), (2, "i12")}
    assert "i04" not in set(home["item_id"]) and "i04" in set(email["item_id"]), (
        "[export] excludes it, but the email not"
    )
    assert "dear" in set(email.filter(source="explore")["item_id"]) <= {"new1", "new2", "dear"}
    assert email.group_by("user_id", "category").len()["len"].max() == 2, "drawn items count, too"
    first = rows.filter(list="loud", rank=1)
    assert first.filter(item_id="i02").height > 5
    user = home["user_id"][0]
    listed = shop.printed(capsys, "recommend", "tiny", user, "--list", "home")
    assert [row["item_id"] for row in listed] == home.filter(user_id=user)["item_id"].to_list()
    (note,) = [note for note in journal.notes(shop.home, "tiny", shop.live_night()) if note.startswith("further")]
    assert f"home {home.height} rows (top 3), email {email.height} rows (top 8), loud 115 rows (top 5)" in note
    inactive = shop.printed(capsys, "recommend", "tiny", "old1", "--list", "home")
    assert len(inactive) == 3 and {row["item_id"] for row in inactive} <= {f"i{n:02d}" for n in range(0, 17, 3)}
    assert shop.command("recommend", "tiny", "u01", "--list", "hom") == 2
    assert "no list 'hom' (did you mean 'home'?)" in capsys.readouterr().err


def test_the_default_list_is_the_same_with_further_ones(shop):
    before = shop.ask("select user_id, rank, item_id, score, source from recommendations order by all")
    recipe = shop.folder / "cheap.toml"
    text = recipe.read_text()
    recipe.write_text(text[: text.index("[lists.home]")] + text[text.index("[models.ease]") :])
    run = shop.prepare()
    recipe.write_text(text)
    journal.open_run(run)
    raw, encoded, champion = made_of(shop)
    folder = export_stage.export_tables(run, raw, encoded, export_stage.Models(champion, [], []))
    alone = pl.read_parquet(folder / "recommendations-*.parquet").select(before.columns).sort(before.columns)
    assert alone.drop("score").equals(before.drop("score"))
    assert alone["score"].to_list() == pytest.approx(before["score"].to_list(), rel=1e-5)
    assert not list(folder.glob("recommendations_in*"))


def made_of(shop) -> tuple[Path, Path, Path]:
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    made = journal.read_run(shop.home, "tiny", shop.live_night())["made"]
    return night.raw, night.encoded, shop.home.lake("tiny").joinpath(*Path(made["refit"]).parts[-2:])


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("lists.home.only_where=categry = 'a'", r"\[lists.home\].*no column 'categry' .did you mean 'category'"),
        ('lists.home.promote=[{ where = "price = 1", place = 4 }]', "lists.home: promote: place 4 is beyond top_n = 3"),
        ("lists.home.colour=1", "colour"),
        ("export.by.attribute=categry", r"export.by.attribute: .*no attribute 'categry' .did you mean 'category'"),
        ("export.trending.by=categry", r"export.trending.by: .*no attribute 'categry' .did you mean 'category'"),
        (
            "export.fallback_by=land",
            r"export.fallback_by: the file of users has no attribute 'land'; there are: country",
        ),
    ],
)
def test_a_wrong_key_of_a_list_names_the_list(shop, setting, problem):
    with pytest.raises(SettingsError, match=f"(?s){problem}"):
        shop.prepare(setting)


def test_lists_by_category(shop):
    """At most two categories of two items each, whose best items are those of the user's whole ranking."""
    rows = shop.ask("select r.*, category from recommendations_by as r join items using (item_id)")
    assert rows.filter(pl.col("value") != pl.col("category")).is_empty() and set(rows["attribute"]) == {"category"}
    counts = rows.group_by("user_id").agg(pl.col("value").n_unique(), pl.len())
    assert counts.height == LISTED and counts["value"].max() == 2 and counts["len"].max() == 4
    assert "i04" not in set(rows["item_id"]), "the rules hold"
    best = shop.ask("select user_id, item_id, score from recommendations where source = 'model' and rank = 1")
    first = rows.group_by("user_id").agg(
        pl.col("item_id").sort_by("score", "item_id", descending=[True, False]).first()
    )
    both = best.join(first, on="user_id", suffix="_by")
    assert both.height == 21 and (both["item_id"] == both["item_id_by"]).all()
    notes = journal.notes(shop.home, "tiny", shop.live_night())
    assert any("category has 3 values; each user gets lists of at most 2 of them" in note for note in notes)


def test_the_item_that_all_took_on_the_last_day_is_trending(shop):
    rows = shop.ask("from trending_items order by attribute nulls first, value, rank")
    assert rows["item_id"][0] == "i16" and rows["growth"][0] > 1.1 and rows["recent"][0] >= 18
    of_b = rows.filter(attribute="category", value="b")
    assert of_b["item_id"].to_list()[0] == "i16" and set(rows["window_days"]) == {3}


def test_who_can_t_be_served_gets_what_the_own_country_likes(shop, capsys):
    tables = shop.ask("select value, rank, item_id, score from fallback_items order by value, rank")
    by_country = {value: own["item_id"].to_list() for (value,), own in tables.group_by("value", maintain_order=True)}
    assert set(by_country) == {None, "de", "fr", "it"} and "i04" not in set(tables["item_id"])
    mine = shop.ask(f"from recommendations where user_id = '{BAD}' and source = 'fallback' order by rank")
    wanted = [item for item in by_country["fr"] if item != "i01"]
    assert mine["item_id"].to_list()[:3] == wanted[:3] and mine.height == 4, "one place is for a new item"
    listed = shop.printed(capsys, "recommend", "tiny", "nobody", "--attribute", "country=fr", "-n", "3")
    assert [row["item_id"] for row in listed] == by_country["fr"][:3]
    for word, message in (("country=xx", "no list for country 'xx'"), ("country", "--attribute is NAME=VALUE")):
        code = shop.command("recommend", "tiny", "nobody", "--attribute", word)
        assert code == (0 if "=" in word else 2) and message in capsys.readouterr().err
    assert shop.command("recommend", "tiny", "nobody", "--attribute", "contry=fr") == 2
    assert "by country (export.fallback_by) (did you mean 'country'?)" in capsys.readouterr().err
    assert shop.command("recommend", "tiny", "nobody", "--attribute", "country=fr", "--list", "home") == 2
    assert "without --list" in capsys.readouterr().err
    assert shop.command("recommend", "tiny", "nobody") == 2
    assert "say what is known of them: --attribute country=de" in capsys.readouterr().err
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    assert on_request.list_of(night, BAD)["item_id"].to_list()[:4] == mine["item_id"].to_list()


def test_the_questions_of_the_cookbook_have_answers_here(shop):
    asked = [q for q in COOKBOOK if any(name in q for name in ("'explore'", "recommendations_in", "recommendations_by",
                                                                "trending_items", "fallback_items"))]  # fmt: skip
    assert len(asked) >= 5
    for query in asked:
        assert shop.ask(query.replace("u0001", "u03").replace("'genres'", "'category'")).height, query


def test_without_the_night_s_results_popular_items_are_the_answer(shop, capsys, monkeypatch):
    monkeypatch.setattr(lake, "is_complete", lambda folder: False)
    capsys.readouterr()
    assert shop.command("recommend", "tiny", "old1") == 0
    printed = capsys.readouterr()
    assert "These are popular items" in printed.err and "fallback" in printed.out
    assert shop.command("recommend", "tiny", "old9") == 2, "an unknown user stays one"


def test_the_score_of_a_fallback_by_country_is_explained_as_published(shop):
    night = explanation.published_night(shop.home, "tiny", shop.live_night())
    listed = shop.ask(f"from recommendations where user_id = '{BAD}' and source = 'fallback' order by rank").to_dicts()
    assert len(listed) > 1
    ranks = []
    for row in listed:
        found = explanation.explanation(night, BAD, row["item_id"])
        assert (found["source"], found["score"]) == ("fallback", pytest.approx(row["score"]))
        ranks.append(found["rank"])
    assert ranks == list(range(1, len(ranks) + 1)), "drawn items stand between them, and are no candidates' scores"


def test_the_report_says_how_many_have_none(shop):
    from pipeline.reporting import formatting, published_tables

    published = published_tables.look(shop.home.live("tiny"), None)
    assert published["served"]["unlisted"] == 5
    told = formatting._served(published)
    assert "5 inactive users get a list on request; 23 places (20 %) show 2 new items, drawn" in told


def test_data_without_times_refuse_the_key(tmp_path):
    shop = Shop(tmp_path)
    toml = shop.folder / "tiny.toml"
    toml.write_text(toml.read_text().replace('timestamp = "t"\n', ""))
    with pytest.raises(SettingsError, match=r"export.active_days = 12 goes by the time .* has no times: name"):
        shop.prepare()
    recipe = shop.folder / "cheap.toml"
    recipe.write_text(recipe.read_text().replace("active_days = 12", "").replace(', available_from = "launch"', ""))
    with pytest.raises(SettingsError, match=r"export.explore: an item is new from its first .* has no times: name"):
        shop.prepare()
    with pytest.raises(SettingsError, match=r"available_from: the item catalog has no column 'lanch' .*'launch'"):
        shop.prepare("export.explore.available_from=lanch")
    assert shop.command("run", str(toml), "--recipe", str(shop.folder / "cheap.toml"), "--plan") == 2
    shutil.rmtree(tmp_path)


def test_a_column_without_dates_is_refused_before_anything_is_fitted(tmp_path, capsys):
    shop = Shop(tmp_path)
    words = ("run", str(shop.folder / "tiny.toml"), "--recipe", str(shop.folder / "cheap.toml"), "--no-prefect")
    assert shop.command(*words, "--until", "ingest", "--set", "export.explore.available_from=category") == 2
    assert "available_from = 'category': the column has no dates" in capsys.readouterr().err
    shutil.rmtree(tmp_path)


NEWEST = dt.datetime(2026, 3, 1)
ages = st.dictionaries(st.sampled_from("abcdef"), st.lists(st.floats(0, 30), min_size=1, max_size=3), min_size=1)


@given(ages, st.integers(1, 40))
def test_active_are_those_of_the_last_days_up_to_the_newest_row(ages, days):
    rows = [(user, NEWEST - dt.timedelta(days=age)) for user, of in ages.items() for age in of]
    frame = pl.DataFrame(rows, schema={"user_id": pl.Categorical, "timestamp": pl.Datetime("us")}, orient="row")
    users = pl.Series(sorted(ages))
    found = active_users.places(users, frame, Export(active_days=days)).tolist()
    newest = max(time for _, time in rows)
    wanted = {user for user, time in rows if time >= newest - dt.timedelta(days=days)}
    assert [users[at] for at in found] == sorted(wanted)
    assert active_users.places(users, frame, Export()).tolist() == list(range(len(users)))


def test_rows_without_times_are_refused():
    frame = pl.DataFrame({"user_id": ["a"], "timestamp": [None]}, schema_overrides={"timestamp": pl.Datetime("us")})
    with pytest.raises(UnreadableInput, match="active_days"):
        active_users.places(pl.Series(["a"]), frame, Export(active_days=1))


def test_forget_reaches_every_list(shop, capsys):
    """It is the last test: the user is gone afterwards."""
    names = ("recommendations", "recommendations_in", "recommendations_by")
    before = {name: shop.ask(f"from {name} where user_id <> '{SECRET}' order by all") for name in names}
    assert shop.printed(capsys, "forget", "tiny", SECRET)["left"] == []
    for name in names:
        after = shop.ask(f"from {name} order by all")
        assert after.equals(before[name]) and after.height, name
    named = [path for path in shop.home_root.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert named == []
