"""A night of the built-in shop with every kind of list: what was planted is in the published tables."""

import polars as pl
import pytest

from pipeline.datasets.sample_shop import DAY, LAPSED, READER, draw_sample_shop
from pipeline.preparation.seen import SeenRule
from tests.support.cookbook import COOKBOOK
from tests.support.nights import ask, one_night, without_views

NAME = "sample-shop"
FULL = ("recommendations", "recommendations_in", "recommendations_by", "reasons", "suppressed", "trending_items",
        "audiences", "attribute_audiences", "fallback_items", "popular_items", "similar_items")  # fmt: skip


@pytest.fixture(scope="module")
def shop():
    return draw_sample_shop()


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    return one_night(tmp_path_factory.mktemp("shop"), NAME, "lists", "threads=1", step=without_views)


@pytest.fixture(scope="module")
def lists(night):
    return ask(night, "select *, user_id as customer, item_id as product from recommendations")


def test_every_table_is_filled(night):
    empty = [name for name in FULL if not ask(night, f"select count(*) from {name}").item()]
    assert empty == []


def test_a_new_product_is_listed_for_those_who_like_its_kind(shop, lists):
    by_model = lists.filter(source="model")
    found, fans = 0, 0
    for product in shop.new:
        listed = set(by_model.filter(product=product)["customer"])
        likers = shop.fans(product, favourite=False)
        assert len(listed & likers) > 0.8 * len(listed) > 0, f"{product}: {len(listed & likers)} of {len(listed)}"
        found, fans = found + len(listed & shop.fans(product)), fans + len(shop.fans(product))
    assert found > 0.6 * fans, f"{found} of {fans} fans have the new product of their kind"


def test_new_products_are_drawn_for_the_others(shop, lists):
    drawn = lists.filter(source="explore")
    assert set(drawn["product"]) == set(shop.new) and drawn["rank"].min() > 1
    assert set(drawn.group_by("customer").len()["len"]) == {2}


def test_the_audience_of_a_product_are_its_fans(night, shop):
    audiences = ask(night, "select item_id as product, rank, user_id from audiences")
    share = {}
    for (product,), own in audiences.filter(pl.col("rank") <= 20).group_by("product"):
        fans = shop.fans(product, favourite=False)
        share[product] = len(fans & set(own["user_id"])) / own.height
    of_taste = shop.products.filter(pl.col("category") != "milk", ~pl.col("product").is_in(shop.regional.values()))
    shares = [share[product] for product in of_taste["product"] if product in share]
    assert len(shares) > 250 and sum(shares) > 0.85 * len(shares)
    assert min(share[product] for product in shop.new) > 0.7
    of_tea = ask(night, "select user_id from attribute_audiences where value = 'tea' order by rank limit 30")
    tea = shop.tastes.filter(pl.col("categories").list.contains("tea"))["customer"]
    assert of_tea["user_id"].is_in(tea.implode()).sum() > 0.85 * of_tea.height


def test_milk_is_listed_when_it_is_due(night, shop, lists):
    """Not after a purchase in the last `hide_days`."""
    latest = shop.events.filter(type="purchase").group_by("customer", "product").agg(pl.col("time").max())
    regulars = (
        shop.tastes.drop_nulls("milk").select("customer", product="milk").join(latest, on=["customer", "product"])
    )
    rule = SeenRule.of(night.settings)
    hidden = pl.col("time") > shop.events["time"].max() - (rule.hide_days or 0) * DAY
    marked = regulars.with_columns(hidden=hidden, listed=pl.struct("customer", "product").is_in(
        lists.filter(pl.col("source").is_in(["model", "holdback"])).select(pl.struct("customer", "product")).to_series().implode()
    ))  # fmt: skip
    by_hidden = {hidden: (n, listed) for hidden, n, listed in
                 marked.group_by("hidden").agg(pl.len(), pl.col("listed").sum()).iter_rows()}  # fmt: skip
    assert by_hidden[True][0] > 100 and by_hidden[True][1] == 0
    assert by_hidden[False][0] > 40 and by_hidden[False][1] > 0.95 * by_hidden[False][0]


def test_who_only_read_a_newsletter_gets_what_the_own_country_buys(night, shop, lists):
    first = lists.filter(rank=1, source="fallback").join(shop.customers, on="customer").join(shop.tastes, on="customer")
    assert first.height == shop.tastes.filter(kind=READER).height == first.filter(kind=READER).height
    for country, product in shop.regional.items():
        assert set(first.filter(country=country)["product"]) == {product}
    best = ask(night, "select value, item_id from fallback_items where rank = 1 and value is not null")
    assert dict(best.iter_rows()) == shop.regional


def test_only_active_customers_have_a_list(shop, lists):
    gone = set(shop.tastes.filter(kind=LAPSED)["customer"])
    assert not gone & set(lists["customer"]) and lists["customer"].n_unique() > 900


def test_the_rising_product_leads_the_trend(night, shop):
    trend = ask(night, "from trending_items where rank = 1")
    leader = trend.filter(pl.col("attribute").is_null())
    assert leader["item_id"].item() == shop.rising and leader["ci_low"].item() > 3
    assert trend.filter(value="chocolate")["item_id"].item() == shop.rising


def test_what_is_sold_out_is_in_no_list(night, shop):
    for name in ("recommendations", "recommendations_in", "recommendations_by", "audiences", "fallback_items",
                 "trending_items", "popular_items"):  # fmt: skip
        assert not ask(night, f"select count(*) from {name} where item_id = '{shop.sold_out}'").item(), name
    kept_out = ask(night, f"select users from suppressed where item_id = '{shop.sold_out}' and rule = 'exclude_where'")
    assert kept_out.item() > 30, "it would have been in lists"


def test_what_is_only_looked_at_is_not_popular(night, shop, lists):
    """It has the most rows of all products, and no purchase."""
    most = ask(night, "select item_id from items order by n_interactions desc limit 1").item()
    assert most == shop.showpiece
    assert not ask(night, f"select count(*) from popular_items where item_id = '{most}'").item()
    assert not ask(night, f"select count(*) from trending_items where item_id = '{most}'").item()
    assert not lists.filter(product=most, source="fallback").height
    assert lists.filter(product=most)["customer"].n_unique() < 0.1 * lists["customer"].n_unique()


def test_further_lists_and_lists_by_category_follow_their_rules(night, shop):
    products = shop.products.select("category", "price", item_id="product")
    rows = ask(night, "select list, user_id, item_id from recommendations_in").join(products, on="item_id")
    assert (rows.filter(list="email")["price"] < 4).all()
    assert rows.filter(list="home").group_by("user_id", "category").len()["len"].max() == 2
    by = ask(night, "select user_id, value, item_id from recommendations_by").join(products, on="item_id")
    assert (by["value"] == by["category"]).all()
    tastes = by.unique(["user_id", "value"]).join(shop.tastes, left_on="user_id", right_on="customer")
    liked = tastes.filter(kind="shopper").select(pl.col("categories").list.contains(pl.col("value")).mean()).item()
    assert liked > 0.6, f"{liked:.0%} of the categories with a list are liked ones; by chance 27 %"


def test_reasons_are_of_the_same_taste(night, shop):
    why = ask(
        night,
        "select user_id, item_id, because_item_id from reasons join recommendations using (user_id, rank) "
        "where because_rank = 1",
    )
    category = shop.products.select("product", "category")
    named = why.join(category, left_on="item_id", right_on="product").join(
        category, left_on="because_item_id", right_on="product", suffix="_because"
    )
    assert why["user_id"].n_unique() > 800
    assert named.select((pl.col("category") == pl.col("category_because")).mean()).item() > 0.6


def test_the_holdback_has_the_other_model(night, lists):
    held = lists.filter(source="holdback")
    assert 20 < held["customer"].n_unique() < 80 and held["model"].n_unique() == 1
    assert set(held["model"]) != set(lists.filter(source="model")["model"])


@pytest.mark.parametrize("query", [q for q in COOKBOOK if "backtest" not in q], ids=lambda q: " ".join(q.split())[:60])
def test_the_questions_of_the_cookbook_have_answers(night, query):
    asked = (
        query.replace("u0001", "c0002").replace("'genres'", "'category'").replace("The Old House", "Meadow tea, mild")
    )
    on_request = ("'explore'", "recommendations_in", "recommendations_by", "trending_items", "audiences_titled",
                  "fallback_items", "'fallback'", "from suppressed")  # fmt: skip
    for statement in filter(str.strip, asked.split(";")):
        rows = ask(night, statement)
        assert rows.height or not any(part in statement for part in on_request), statement
