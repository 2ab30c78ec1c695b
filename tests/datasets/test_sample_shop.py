"""The built-in shop: the same bytes for the same seed, and the planted truth is in its files."""

import polars as pl
import pytest

from pipeline.datasets.sample_shop import (
    CATEGORY,
    DAY,
    GAP,
    HONEY,
    LAPSED,
    LAPSED_DAYS,
    LAST,
    MILK,
    NEW_DAYS,
    READER,
    SHOPPER,
    Sizes,
    draw_sample_shop,
    write_sample_shop,
)  # fmt: skip

SMALL = Sizes(shoppers=200, lapsed=20, readers=20)


@pytest.fixture(scope="module")
def shop():
    return draw_sample_shop(7, SMALL)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_sample_shop(tmp_path / name, seed, SMALL)
    one, same, other = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert one == same and sorted(one) == ["customers.csv", "events.csv", "products.csv"]
    assert all(one[name] != other[name] for name in one)


def test_customers_are_what_the_truth_says(shop):
    kinds = dict(shop.tastes.group_by("kind").len().iter_rows())
    assert kinds == {SHOPPER: 200, LAPSED: 20, READER: 20} and shop.customers["customer"].is_unique().all()
    own = shop.events.join(shop.tastes, on="customer")
    assert set(own.filter(kind=READER)["type"]) == {"newsletter"} == set(own.filter(type="newsletter")["type"])
    assert own.filter(kind=LAPSED)["time"].max() <= LAST - (LAPSED_DAYS - 1) * DAY and own["time"].max() <= LAST
    assert set(shop.customers["country"]) == {"", *shop.regional}


def test_tastes_are_in_what_is_bought(shop):
    bought = shop.events.filter(type="purchase").join(shop.products, on="product").join(shop.tastes, on="customer")
    by_taste = bought.filter(~pl.col("category").is_in([CATEGORY[MILK], CATEGORY[HONEY]]), kind=SHOPPER)
    shares = by_taste.select(
        pl.col("categories").list.contains(pl.col("category")).mean().alias("liked"),
        (pl.col("brand") == pl.col("brand_right")).mean().alias("own"),
    )
    assert shares["liked"].item() > 0.85 and shares["own"].item() > 0.8
    for country, product in shop.regional.items():
        buyers = bought.filter(product=product).join(shop.customers, on="customer")
        assert set(buyers["country"]) == {country}


def test_milk_comes_every_week(shop):
    milk = shop.events.join(shop.products.filter(category=CATEGORY[MILK]), on="product").filter(type="purchase")
    owners = shop.tastes.drop_nulls("milk")
    assert milk.join(owners, on="customer").select((pl.col("product") == pl.col("milk")).all()).item()
    gaps = milk.sort("time").group_by("customer").agg(pl.col("time").diff().drop_nulls().explode() / DAY)
    assert gaps.height == owners.height > 40
    assert gaps.explode("time")["time"].is_between(GAP[0] - 0.01, GAP[1] + 0.01).all()


def test_products_are_what_the_truth_says(shop):
    products = shop.products.with_columns(pl.col("launched").str.to_date())
    new = products.filter(pl.col("product").is_in(shop.new))
    assert new.height == len(CATEGORY) - 1 and not set(shop.new) & set(shop.events["product"])
    newest = pl.from_epoch(pl.Series([LAST])).dt.date()[0]
    assert new.select((newest - pl.col("launched")).dt.total_days()).max().item() <= NEW_DAYS
    assert products.filter(stock=0)["product"].to_list() == [shop.sold_out]
    assert shop.events.filter(product=shop.sold_out, type="purchase").height > 20
    by_type = shop.events.group_by("product").agg(pl.col("type").eq("purchase").sum().alias("bought"), pl.len())
    assert by_type.sort("len")["product"][-1] == shop.showpiece
    assert by_type.filter(product=shop.showpiece)["bought"].item() == 0
    rising = shop.events.filter(product=shop.rising, type="purchase")["time"]
    assert (rising > LAST - 7 * DAY).sum() > 2 * (rising <= LAST - 7 * DAY).sum()
