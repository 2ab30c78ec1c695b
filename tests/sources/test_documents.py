"""Sessions and documents of orders: who the user is, and that a list of objects is no item."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from pipeline.core.errors import UnreadableInput
from pipeline.sources.connectors import proposals
from pipeline.sources.sniffing.interactions import propose


def columns_of(path: Path) -> dict[str, str]:
    return tomllib.loads(propose(path).toml)["columns"]


@pytest.mark.parametrize("session", ["session_id", "sessionId", "Sitzungsnr.", "basket_id", "transaction_id"])
@pytest.mark.parametrize("item", ["item_id", "aid"])
@pytest.mark.parametrize("first", [True, False])
def test_a_session_is_the_user_of_a_table_without_users(tmp_path, session, item, first):
    rows = [[f"S{n // 4:04d}", str(n * 7 % 61), str(n * 7 % 5), f"p{n % 3}"] for n in range(200)]
    names = [session, item, "category", "page"]
    order = [0, 1, 2, 3] if first else [3, 2, 1, 0]
    text = "".join(",".join([*(row[at] for at in order), str(1_790_000_000 + 60 * n)]) + "\n"
                   for n, row in enumerate([names, *rows], -1))  # fmt: skip
    path = tmp_path / "clicks.csv"
    path.write_text(re.sub("[0-9]+\n", "time\n", text, count=1))
    found = columns_of(path)
    assert (found["user"], found["item"]) == (session, item)


def orders(path: Path, more: dict[str, object], key: str = "sku") -> Path:
    """40 orders of 10 customers, with two items each."""
    documents = [
        {"order_id": n, "customer": {"id": f"c{n % 10}", "email": f"c{n % 10}@x.de"}, **more,
         "created_at": f"2026-11-{n % 28 + 1:02d}T10:00:00+01:00",
         "lines": [{"qty": 1, key: f"p{n % 7}"}, {"qty": 2, key: f"p{n % 5 + 10}"}]}
        for n in range(40)
    ]  # fmt: skip
    for n in range(0, 40, 4):  # without items
        documents[n]["lines"] = [] if n % 8 else None
    path.write_text("".join(json.dumps(each) + "\n" for each in documents))
    return path


@pytest.mark.parametrize("more", [{}, {"status": "paid", "currency": "EUR"}, {"note": "x" * 60}])
def test_documents_of_orders_are_refused_with_a_query_that_reads_them(tmp_path, more):
    path = orders(tmp_path / "o'rders.jsonl", more)
    with pytest.raises(UnreadableInput, match="'lines' is a list of objects") as error:
        propose(path)
    query = str(error.value).partition('--query "')[2].removesuffix('"')
    toml = proposals.propose_fetched(str(tmp_path), query, None, tmp_path / "new.toml").toml
    columns = tomllib.loads(toml)["columns"]
    assert (columns["user"], columns["item"], columns["timestamp"]) == ("user_id", "item_id", "timestamp")


def test_an_address_that_follows_from_the_customer_is_no_item(tmp_path):
    path = tmp_path / "log.csv"
    rows = [f"c{n % 10},c{n % 10}@x.de,{n % 7 * 3}xy\n" for n in range(80)]
    path.write_text("customer_id,email,what\n" + "".join(rows))
    assert columns_of(path)["item"] == "what"
    path.write_text("customer_id,email\n" + "".join(row.rpartition(",")[0] + "\n" for row in rows))
    with pytest.raises(UnreadableInput, match="both a user and an item"):
        propose(path)


@pytest.mark.parametrize(
    ("cell", "titled"),
    [("{n}|5|77", False), ("A{n}, B12", False), ("1, {n}", False), ("Ding {n}", True), ("Alien {n}, 2", True)],
)
def test_a_list_of_codes_is_no_title(tmp_path, cell, titled):
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"u{n % 7},{n % 20}\n" for n in range(100)))
    items = "".join(f'{n},"{cell.format(n=n + 100)}"\n' for n in range(20))
    (tmp_path / "items.csv").write_text(f"item,features\n{items}")
    toml = tomllib.loads(propose(tmp_path / "log.csv").toml)
    assert toml["items"]["id"] == "item" and toml["items"].get("title") == ("features" if titled else None)
