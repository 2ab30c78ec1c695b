"""Writes the event log of an invented shop, with a planted truth: what people look at is not what they buy.

Every user dreams of two categories and needs two others. Most views are of dreams, by brand and popularity; nearly all
purchases are of needs. A dream that is popular among lookers therefore says little about what will be bought.

The catalog ends with new products, one for each category and brand, that nobody has seen yet. Those who need the
category, and are faithful to the brand, would buy them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.core.seeding import generator

FIRST = 1_756_684_800  # 2025-09-01, UTC
DAY = 86_400  # seconds
CATEGORY = ("sofa", "lamp", "kettle", "tent", "watch", "camera", "guitar", "drill", "soap", "coffee", "socks", "paper")
BRAND = ("Alder", "Birch", "Cedar", "Dogwood")
CATEGORIES, BRANDS = len(CATEGORY), len(BRAND)
DREAMS = 0.75
"""Share of the views that are of dreams."""
FAITHFUL = 0.8
"""Share of the choices within a category that are of the user's own brand."""
CART = (0.03, 0.5)
"""Share of the views of dreams and of needs that lead to a cart."""
REMOVED, BOUGHT = 0.2, 0.6
"""Shares of the carts that are emptied again, and that are bought."""
BOT_VIEWS = 1500


@dataclass(frozen=True)
class Shop:
    """Sizes of the log."""

    users: int = 3000
    items: int = 720
    days: int = 90
    new: int = 48
    """Products without events, at the end of the catalog; the first of category and brand are 0 and 0, then 1 and 0."""
    views: int = 40
    """Mean number of views of a user."""


def write_shop(folder: Path, seed: int = 42, shop: Shop = Shop()) -> None:
    """Write events.csv and products.csv. The same arguments give the same bytes."""
    events, products = draw_shop(seed, shop)
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (("events.csv", events), ("products.csv", products)):
        part = folder / f".{name}.{os.getpid()}.part"
        frame.write_csv(part)
        os.replace(part, folder / name)


def draw_shop(seed: int, shop: Shop) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Events in time order: event_time, event_type, product_id, user_id, quantity; and the products."""
    rng = generator(seed, "shop log")
    category, brand = np.arange(shop.items) % CATEGORIES, np.arange(shop.items) // CATEGORIES % BRANDS  # (I,) each
    looked_at, wanted = (_popularity(rng, shop.items) for _ in range(2))  # (I,): what draws eyes, and what is needed
    tastes = np.argsort(rng.random((shop.users, CATEGORIES)), axis=1)[:, :4]  # (U, 4): two dreams, two needs
    own_brand = rng.integers(0, BRANDS, shop.users)  # (U,)

    counts = 5 + rng.poisson(rng.gamma(2.0, (shop.views - 5) / 2, shop.users))  # (U,)
    user = np.repeat(np.arange(shop.users), counts)  # (N,)
    dream = rng.random(len(user)) < DREAMS  # (N,)
    of = tastes[user, np.where(dream, 0, 2) + (rng.random(len(user)) < 0.35)]  # (N,) category
    label = np.where(rng.random(len(user)) < FAITHFUL, own_brand[user], rng.integers(0, BRANDS, len(user)))
    item = np.empty(len(user), dtype=np.int64)  # (N,)
    for c in range(CATEGORIES):
        for b in range(BRANDS):
            stock = np.flatnonzero((category == c) & (brand == b))
            for is_dream, weight in ((True, looked_at), (False, wanted)):
                rows = np.flatnonzero((of == c) & (label == b) & (dream == is_dream))
                item[rows] = rng.choice(stock, len(rows), p=weight[stock] / weight[stock].sum())
    viewed = FIRST + np.sort(rng.integers(0, shop.days * DAY, len(user)))  # (N,)
    viewed = viewed[rng.permutation(len(user))]

    carted = rng.random(len(user)) < np.where(dream, *CART)
    fate = rng.random(len(user))  # of a cart
    removed, bought = carted & (fate < REMOVED), carted & (fate >= 1 - BOUGHT)
    parts = [
        _events("view", viewed, user, item),
        _events("cart", viewed + 60, user, item, carted),
        _events("remove_from_cart", viewed + 300, user, item, removed),
        _events("purchase", viewed + 900, user, item, bought, 1 + rng.poisson(0.3, len(user))),
        _events("view", *_bot(rng, shop)),
    ]  # fmt: skip
    order = ["event_time", "user_id", "product_id", "event_type"]
    events = pl.concat(parts).sort(order, maintain_order=True)
    new = np.arange(shop.new)
    category = np.concatenate([category, new % CATEGORIES])  # (I + new,)
    brand = np.concatenate([brand, new // CATEGORIES % BRANDS])  # (I + new,)
    names = [f"{BRAND[b]} {CATEGORY[c]} {n // len(BRAND) // len(CATEGORY) + 1}" for n, (b, c) in
             enumerate(zip(brand, category, strict=True))]  # fmt: skip
    products = pl.DataFrame(
        {
            "product_id": [f"p{n + 1:04d}" for n in range(shop.items + shop.new)],
            "name": names,
            "category": [CATEGORY[c] for c in category],
            "brand": [BRAND[b] for b in brand],
        }
    )
    return events, products


def _popularity(rng: np.random.Generator, items: int) -> np.ndarray:
    return (rng.permutation(items) + 5.0) ** -1.0  # (I,) Zipf-Mandelbrot


def _bot(rng: np.random.Generator, shop: Shop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, users (-1) and items of a scraper that views the shop in one day, (N,) each."""
    times = FIRST + DAY + np.arange(BOT_VIEWS)
    return times, np.full(BOT_VIEWS, -1), rng.integers(0, shop.items, BOT_VIEWS)


def _events(
    kind: str,
    time: np.ndarray,
    user: np.ndarray,
    item: np.ndarray,
    happened: np.ndarray | None = None,
    quantity: np.ndarray | None = None,
) -> pl.DataFrame:
    rows = np.arange(len(user)) if happened is None else np.flatnonzero(happened)
    pieces = [None] * len(rows) if quantity is None else quantity[rows]
    return pl.DataFrame(
        {
            "event_time": pl.Series(time[rows]).cast(pl.Int64),
            "event_type": [kind] * len(rows),
            "product_id": [f"p{at + 1:04d}" for at in item[rows].tolist()],
            "user_id": [f"u{at + 1:05d}" if at >= 0 else "bot" for at in user[rows].tolist()],
            "quantity": pl.Series(pieces, dtype=pl.Int64),
        }
    )
