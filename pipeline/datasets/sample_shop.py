"""Writes the built-in shop, all synthetic: events, products and customers, with a planted truth for each kind of list.

A customer likes three categories, and one brand of each. What is planted besides:

* regular customers buy one kind of milk every week;
* every country has a product that only its customers buy, and many of them do;
* new products come at the end, without events; their category and brand say who would like them;
* one product is sold out, one is bought by many in the last days, and one is viewed by all and bought by nobody;
* some customers left long ago, and some have only opened a newsletter, which says nothing about their taste.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.core.seeding import generator

DAY = 86_400  # seconds
LAST = 1_774_991_940
"""2026-03-31 23:59 UTC: nothing is later."""
DAYS = 120
START = LAST - DAYS * DAY
CATEGORY = (
    "milk", "bread", "coffee", "tea", "cheese", "pasta", "chocolate", "juice", "soap", "wine", "honey", "olives",
)  # fmt: skip
MILK, COFFEE, CHOCOLATE, WINE, HONEY = (
    CATEGORY.index(name) for name in ("milk", "coffee", "chocolate", "wine", "honey")
)
PRICE = (1.2, 2.8, 7.5, 3.9, 5.5, 1.9, 2.4, 2.2, 3.1, 9.0, 6.0, 4.2)
"""By category, in euros, before brand and kind."""
BRAND = ("Meadow", "Harbour", "Summit", "Orchard")
KIND = ("classic", "mild", "strong", "organic", "light", "reserve")
"""Products of one category and brand, from the most popular one on."""
COUNTRY = ("de", "fr", "it")
REGIONAL = ("heather honey", "lavender honey", "chestnut honey")
"""The product of each country."""
OWN_BRAND, OWN_CATEGORIES = 0.85, 0.92
"""Shares of the choices that are of the customer's brand, and of the customer's categories."""
CARTED, BOUGHT, REMOVED = 0.7, 0.75, 0.5
"""Shares of the views that lead to a cart, of the carts that are bought, and of the others that are emptied."""
GAP = (6.0, 8.0)
"""Days between two purchases of milk by a regular customer, least and most."""
NEW_DAYS, RISING_DAYS, LAPSED_DAYS = 10, 6, 70
"""A new product came at most so many days ago; the rising one rises for so many; a lapsed customer left so long ago."""
SHOPPER, LAPSED, READER = "shopper", "lapsed", "reader"
"""What a customer is; a reader has only opened newsletters."""


@dataclass(frozen=True)
class Sizes:
    """How many customers there are."""

    shoppers: int = 900
    lapsed: int = 60
    readers: int = 60
    trips: float = 10.0
    """Mean number of times that a shopper comes, besides for milk."""

    @property
    def customers(self) -> int:
        """All of them."""
        return self.shoppers + self.lapsed + self.readers


@dataclass(frozen=True)
class SampleShop:
    """The shop before it is written, and the truth that was planted."""

    events: pl.DataFrame  # time (s), type, product, customer, pieces; in time order
    products: pl.DataFrame  # product, name, category, brand, price, stock, launched (ISO date)
    customers: pl.DataFrame  # customer, country, which is empty for some
    tastes: pl.DataFrame
    """customer, kind (SHOPPER, LAPSED, READER), categories (list, the favourite first), brand, and the milk that a
    regular customer buys, else null."""
    regional: dict[str, str]
    """Country to its product."""
    new: list[str]
    """Products without events."""
    sold_out: str
    rising: str
    showpiece: str
    """Viewed by all, bought by nobody."""

    def fans(self, product: str, favourite: bool = True) -> set[str]:
        """Shoppers of the product's brand whose favourite category is the product's; or who like the category."""
        category, brand = self.products.filter(product=product).select("category", "brand").row(0)
        likes = pl.col("categories").list.contains(category)
        likes = pl.col("categories").list.first() == category if favourite else likes
        return set(self.tastes.filter(likes, brand=brand, kind=SHOPPER)["customer"])


@dataclass(frozen=True)
class _Shelf:
    """Products by number; those with events come first."""

    category: np.ndarray  # (I,)
    brand: np.ndarray  # (I,)
    names: list[str]
    drawn: int
    """Number of the products that customers choose by taste; those of the countries and the new ones follow."""

    @property
    def regional(self) -> np.ndarray:
        """(3,)"""
        return self.drawn + np.arange(len(COUNTRY))

    @property
    def new(self) -> np.ndarray:
        """(N,)"""
        return np.arange(self.drawn + len(COUNTRY), len(self.names))

    def of(self, category: int, brand: int, kind: int) -> int:
        """Number of a product."""
        return (category * len(BRAND) + brand) * len(KIND) + kind


@dataclass(frozen=True)
class _People:
    """Customers by number: shoppers, then lapsed ones, then readers."""

    tastes: np.ndarray  # (U, 3) categories
    brand: np.ndarray  # (U,)
    milk: np.ndarray  # (U,) product, or -1
    country: np.ndarray  # (U,), -1: not known
    left: np.ndarray  # (U,) days before the end after which there are no events


def write_sample_shop(folder: Path, seed: int = 42, sizes: Sizes = Sizes()) -> None:
    """Write events.csv, products.csv and customers.csv. The same arguments give the same bytes."""
    shop = draw_sample_shop(seed, sizes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("events", shop.events), ("products", shop.products), ("customers", shop.customers)):
        part = folder / f".{name}.csv.{os.getpid()}.part"
        frame.write_csv(part)
        os.replace(part, folder / f"{name}.csv")


def draw_sample_shop(seed: int = 42, sizes: Sizes = Sizes()) -> SampleShop:
    """The shop of a seed."""
    rng = generator(seed, "sample shop")
    shelf = _shelf()
    people = _people(rng, sizes, shelf)
    rising = shelf.of(CHOCOLATE, 1, len(KIND) - 1)
    sold_out, showpiece = shelf.of(COFFEE, 0, 0), shelf.of(WINE, 2, 0)
    parts = [
        *_trips(rng, sizes, people, shelf, showpiece),
        _milk(rng, people),
        _regional(rng, people, shelf),
        _few(rng, "purchase", rising, np.flatnonzero(rng.random(sizes.shoppers) < 0.2), RISING_DAYS),
        _few(rng, "view", showpiece, np.flatnonzero(rng.random(sizes.shoppers) < 0.95), DAYS),
        _newsletters(rng, sizes, shelf),
    ]
    order = ["time", "customer", "product", "type"]
    events = pl.concat(parts).with_columns(pl.col("time").clip(START, LAST)).sort(order, maintain_order=True)
    names = [f"p{n + 1:03d}" for n in range(len(shelf.names))]
    users = [f"c{n + 1:04d}" for n in range(sizes.customers)]
    kinds = [SHOPPER] * sizes.shoppers + [LAPSED] * sizes.lapsed + [READER] * sizes.readers
    tastes = pl.DataFrame(
        {
            "customer": users,
            "kind": kinds,
            "categories": [[CATEGORY[c] for c in row] for row in people.tastes.tolist()],
            "brand": [BRAND[b] for b in people.brand.tolist()],
            "milk": [names[at] if at >= 0 else None for at in people.milk.tolist()],
        }
    )
    country = ["" if at < 0 else COUNTRY[at] for at in people.country.tolist()]
    return SampleShop(
        events=events.with_columns(
            product=pl.Series(names).gather(events["product"]), customer=pl.Series(users).gather(events["customer"])
        ),
        products=_products(rng, shelf, names, sold_out),
        customers=pl.DataFrame({"customer": users, "country": country}),
        tastes=tastes,
        regional={name: names[at] for name, at in zip(COUNTRY, shelf.regional.tolist(), strict=True)},
        new=[names[at] for at in shelf.new.tolist()],
        sold_out=names[sold_out],
        rising=names[rising],
        showpiece=names[showpiece],
    )


def _shelf() -> _Shelf:
    cells = [(c, b, kind) for c in range(len(CATEGORY)) for b in range(len(BRAND)) for kind in KIND]
    new = [(c, c % len(BRAND)) for c in range(len(CATEGORY)) if c != MILK]
    names = [f"{BRAND[b]} {CATEGORY[c]}, {kind}" for c, b, kind in cells]
    names += [f"{BRAND[n]} {name}" for n, name in enumerate(REGIONAL)]
    names += [f"{BRAND[b]} {CATEGORY[c]}, new" for c, b in new]
    category = [c for c, _, _ in cells] + [HONEY] * len(REGIONAL) + [c for c, _ in new]
    brand = [b for _, b, _ in cells] + [*range(len(REGIONAL))] + [b for _, b in new]
    return _Shelf(np.array(category), np.array(brand), names, len(cells))


def _people(rng: np.random.Generator, sizes: Sizes, shelf: _Shelf) -> _People:
    n = sizes.customers
    tastes = np.argsort(rng.random((n, len(CATEGORY) - 1)), axis=1)[:, :3]  # (U, 3)
    tastes += tastes >= MILK  # milk is nobody's taste
    brand = rng.integers(0, len(BRAND), n)  # (U,)
    milk = (MILK * len(BRAND) + brand) * len(KIND) + rng.integers(0, len(KIND), n)  # (U,)
    milk[(rng.random(n) > 0.35) | (np.arange(n) >= sizes.shoppers)] = -1
    country = rng.choice([-1, 0, 1, 2], n, p=[0.04, 0.42, 0.32, 0.22])  # (U,)
    left = np.where(np.arange(n) < sizes.shoppers, 0, LAPSED_DAYS)  # (U,)
    return _People(tastes, brand, milk, country, left)


def _trips(
    rng: np.random.Generator, sizes: Sizes, people: _People, shelf: _Shelf, showpiece: int
) -> list[pl.DataFrame]:
    """What customers look at by their taste, put into the cart, and buy."""
    shopping = np.arange(sizes.shoppers + sizes.lapsed)
    trip = np.repeat(shopping, 4 + rng.poisson(sizes.trips - 4, len(shopping)))  # (T,) customer
    time = START + rng.random(len(trip)) * (DAYS - people.left[trip]) * DAY  # (T,)
    looks = 2 + rng.poisson(2.0, len(trip))  # (T,)
    user, time = np.repeat(trip, looks), np.repeat(time, looks) + 90 * _count(looks)  # (N,) each
    rank = rng.choice(3, len(user), p=[0.55, 0.28, 0.17])  # (N,)
    others = 1 + rng.integers(0, len(CATEGORY) - 1, len(user))  # (N,)
    category = np.where(rng.random(len(user)) < OWN_CATEGORIES, people.tastes[user, rank], others)
    brand = np.where(rng.random(len(user)) < OWN_BRAND, people.brand[user], rng.integers(0, len(BRAND), len(user)))
    share = 1 / (np.arange(len(KIND)) + 1.5)
    kind = rng.choice(len(KIND), len(user), p=share / share.sum())  # (N,)
    item = (category * len(BRAND) + brand) * len(KIND) + kind  # (N,)
    carted = rng.random(len(user)) < CARTED
    bought = carted & (rng.random(len(user)) < BOUGHT) & (item != showpiece)
    removed = carted & ~bought & (rng.random(len(user)) < REMOVED)
    pieces = 1 + rng.poisson(0.3, len(user))
    return [
        _events("view", time, user, item),
        _events("cart", time[carted] + 20, user[carted], item[carted]),
        _events("remove_from_cart", time[removed] + 40, user[removed], item[removed]),
        _events("purchase", time[bought] + 60, user[bought], item[bought], pieces[bought]),
    ]


def _count(sizes: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within each group of these sizes."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _milk(rng: np.random.Generator, people: _People) -> pl.DataFrame:
    """The weekly milk of the regular customers."""
    regulars = np.flatnonzero(people.milk >= 0)
    weeks = int(DAYS / GAP[0]) + 1
    days = np.cumsum(rng.uniform(*GAP, (len(regulars), weeks)), axis=1) - rng.uniform(0, GAP[0], (len(regulars), 1))
    row, week = np.nonzero(days < DAYS)
    user = regulars[row]
    return _events("purchase", START + days[row, week] * DAY, user, people.milk[user], 1 + rng.poisson(0.5, len(user)))


def _regional(rng: np.random.Generator, people: _People, shelf: _Shelf) -> pl.DataFrame:
    """The product of the country, bought once to three times by two of three of its customers."""
    own = np.flatnonzero((rng.random(len(people.country)) < 0.67) & (people.country >= 0) & (people.left == 0))
    user = np.repeat(own, rng.integers(1, 4, len(own)))
    time = START + rng.random(len(user)) * DAYS * DAY
    return _events("purchase", time, user, shelf.regional[people.country[user]], np.ones(len(user), dtype=np.int64))


def _few(rng: np.random.Generator, kind: str, item: int, users: np.ndarray, days: int) -> pl.DataFrame:
    """One event of each of the users with one product, in the last days."""
    pieces = np.ones(len(users), dtype=np.int64) if kind == "purchase" else None
    return _events(kind, LAST - rng.random(len(users)) * days * DAY, users, np.full(len(users), item), pieces)


def _newsletters(rng: np.random.Generator, sizes: Sizes, shelf: _Shelf) -> pl.DataFrame:
    """The products of a newsletter, opened by readers."""
    user = np.arange(sizes.shoppers + sizes.lapsed, sizes.customers)
    return _events("newsletter", LAST - rng.random(len(user)) * 20 * DAY, user, rng.integers(0, shelf.drawn, len(user)))


def _events(
    kind: str, time: np.ndarray, user: np.ndarray, item: np.ndarray, pieces: np.ndarray | None = None
) -> pl.DataFrame:
    """Rows with the numbers of customers and products."""
    counted = [None] * len(user) if pieces is None else pieces
    return pl.DataFrame(
        {
            "time": time.astype(np.int64),
            "type": pl.repeat(kind, len(user), eager=True),
            "product": item.astype(np.int64),
            "customer": user.astype(np.int64),
            "pieces": pl.Series(counted, dtype=pl.Int64),
        }
    )


def _products(rng: np.random.Generator, shelf: _Shelf, names: list[str], sold_out: int) -> pl.DataFrame:
    n = len(names)
    price = np.array(PRICE)[shelf.category] * (0.9 + 0.1 * shelf.brand) * rng.uniform(0.8, 1.3, n)  # (I,)
    stock = rng.integers(5, 200, n)  # (I,)
    stock[sold_out] = 0
    age = np.where(np.arange(n) < shelf.new[0], rng.integers(DAYS, 900, n), rng.integers(1, NEW_DAYS, n))  # (I,) days
    launched = pl.from_epoch(pl.Series(LAST - age * DAY)).dt.date().dt.to_string("%Y-%m-%d")
    return pl.DataFrame(
        {
            "product": names,
            "name": shelf.names,
            "category": [CATEGORY[c] for c in shelf.category.tolist()],
            "brand": [BRAND[b] for b in shelf.brand.tolist()],
            "price": price.round(2),
            "stock": stock,
            "launched": launched,
        }
    )
