"""`init` finds the event types of a whole file and proposes what they mean."""

import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.config.dataset import Dataset
from pipeline.datasets.shop_log import Shop, write_shop
from pipeline.sources.sniffing.interactions import propose
from pipeline.stages import clean, ingest
from tests.support.stage_runs import make_run

FIRST = 1_511_544_070


def proposed(path: Path) -> tuple[dict[str, Any], str]:
    proposal = propose(path)
    toml = tomllib.loads(proposal.toml)
    Dataset.model_validate(toml)
    return toml, " ".join(proposal.notes)


def log(*kinds: str, names: str = "user,item,event_type,time") -> str:
    return names + "\n" + "".join(f"u{n % 3},i{n % 4},{kind},{FIRST + n}\n" for n, kind in enumerate(kinds))


def test_a_shop_is_understood_and_its_night_runs(tmp_path):
    write_shop(tmp_path, 1, Shop(users=60, items=60))
    toml, notes = proposed(tmp_path / "events.csv")
    assert toml["events"] == {
        "column": "event_type", "weights": {"view": 0.1, "cart": 0.4, "purchase": 1.0},
        "withdraws": {"remove_from_cart": ["cart"]}, "target": ["purchase"], "quantity": "quantity",
    }  # fmt: skip
    assert toml["feedback"]["repeats"] == "sum" and "rating" not in toml["columns"] and not notes
    run = make_run(tmp_path / "home", tmp_path, dataset=toml)
    cleaned = pl.read_parquet(clean.clean_interactions(run, ingest.read_source(run)) / "interactions.parquet")
    assert set(cleaned["event"]) == {"view", "cart", "purchase"}


def test_rare_types_far_down_in_the_file_are_found(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(log(*["view"] * 5000, "purchase"))
    text = propose(path).toml
    assert "# types: view 5,000, purchase 1" in text and 'target = ["purchase"]' in text
    pl.read_csv(path).write_parquet(tmp_path / "log.parquet")
    assert proposed(tmp_path / "log.parquet")[0]["events"] == proposed(path)[0]["events"]


@pytest.mark.parametrize(
    ("kinds", "weights", "target"),
    [
        (("pv", "fav", "cart", "buy"), {"pv": 0.1, "fav": 0.3, "cart": 0.4, "buy": 1.0}, ["buy"]),
        (("addtocart", "view", "transaction"), {"view": 0.1, "addtocart": 0.4, "transaction": 1.0}, ["transaction"]),
        (("Add to Cart", "Product View"), {"Product View": 0.1, "Add to Cart": 0.4}, ["Add to Cart"]),
        (("skip", "play"), {"skip": 0.0, "play": 1.0}, ["play"]),
        (("ansicht", "warenkorb", "kauf"), {"ansicht": 0.1, "warenkorb": 0.4, "kauf": 1.0}, ["kauf"]),
    ],
)  # fmt: skip
def test_known_words(tmp_path, kinds, weights, target):
    (tmp_path / "log.csv").write_text(log(*kinds * 5))
    events = proposed(tmp_path / "log.csv")[0]["events"]
    assert (events["weights"], events["target"]) == (weights, target)


def test_what_is_not_known_is_named(tmp_path):
    (tmp_path / "log.csv").write_text(log(*["view", "zap", "refund", "order"] * 5))
    toml, notes = proposed(tmp_path / "log.csv")
    assert '"zap" are not known by name' in notes and '{ refund = ["order"] }' in notes
    assert toml["events"]["weights"] == {"refund": 0.0, "view": 0.1, "zap": 0.1, "order": 1.0}


def test_a_file_without_types_has_no_section(tmp_path):
    for text in (log(*["play"] * 5), log(*"35241", names="user,item,rating,time")):
        (tmp_path / "log.csv").write_text(text)
        toml, _ = proposed(tmp_path / "log.csv")
        assert "events" not in toml and "repeats" not in toml["feedback"]


def test_a_quantity_is_no_rating(tmp_path):
    rows = "".join(
        f"u{n % 3},i{n % 4},{kind},{1 + n % 2},{FIRST + n}\n" for n, kind in enumerate(["view", "order"] * 5)
    )
    (tmp_path / "log.csv").write_text("user,item,event,quantity,time\n" + rows)
    toml, _ = proposed(tmp_path / "log.csv")
    assert toml["events"]["quantity"] == "quantity" and "rating" not in toml["columns"]
