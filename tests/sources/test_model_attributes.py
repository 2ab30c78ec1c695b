"""Attributes as models read them: new items come last, rare values go, numbers are cut into tenths."""

from pathlib import Path

import polars as pl
import pytest

from pipeline.config.attributes import Attributes
from pipeline.config.dataset import Dataset
from pipeline.core.errors import SettingsError
from pipeline.sources import model_attributes
from pipeline.stages import ingest
from tests.support.stage_runs import make_run

ITEMS = {"files": ["items.csv"], "id": "id", "title": "title", "attributes": {"kinds": "|"}}
KNOWN = pl.DataFrame(
    {"item_idx": [0, 1], "item_id": ["i05", "i99"]}, schema={"item_idx": pl.Int32, "item_id": pl.String}
)


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "log.csv").write_text("user,item\nu,i05\nu,i99\n")
    lines = [f"i{n:02d},T,{'even|all' if n % 2 == 0 else 'all'},{n},{n % 3}" for n in range(40)]
    (tmp_path / "items.csv").write_text("\n".join(["id,title,kinds,price,stars", *lines, "i40,T,alone,,", ""]))
    return tmp_path


def read(data: Path, **wanted) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    dataset = {"source": {"files": ["log.csv"]}, "items": ITEMS}
    raw = ingest.read_source(make_run(data / "home", data, dataset=dataset))
    items = model_attributes.with_new_items(KNOWN, raw)
    return items, *model_attributes.read(raw, items, Attributes(items=wanted.pop("items", True), **wanted))


def test_new_items_come_after_the_known_ones(data):
    items, _, _ = read(data)
    assert items["item_idx"].to_list() == list(range(42)) and items["item_id"].head(3).to_list() == [
        "i05",
        "i99",
        "i00",
    ]
    assert sorted(items["item_id"]) == sorted({f"i{n:02d}" for n in range(41)} | {"i99"})


def test_values_are_counted_and_numbers_cut(data):
    items, entries, values = read(data)
    found = {(attribute, value): n for _, attribute, value, n in values.rows()}
    assert found["kinds", "all"] == 40 and found["kinds", "even"] == 20 and ("kinds", "alone") not in found
    assert {value: n for (name, value), n in found.items() if name == "stars"} == {"0": 14, "1": 13, "2": 13}
    tenths = {value: n for (name, value), n in found.items() if name == "price"}
    assert tenths == {f"{n}/10": 4 for n in range(1, 11)}
    index = dict(zip(items["item_id"], items["item_idx"], strict=True))
    own = entries.filter(item_idx=index["i39"]).join(values, on="value_idx").select("attribute", "value").rows()
    assert sorted(own) == [("kinds", "all"), ("price", "10/10"), ("stars", "0")]
    assert index["i40"] not in entries["item_idx"] and index["i99"] not in entries["item_idx"]


def test_only_the_named_attributes_are_read(data):
    _, _, values = read(data, items=["stars"], min_items=14)
    assert values.select("attribute", "value").rows() == [("stars", "0")]


@pytest.mark.parametrize(
    ("wanted", "items", "complaint"),
    [
        (["kind"], ITEMS, "no attribute 'kind'.*kinds"),
        (True, None, r"no \[items\]"),
        (True, {"files": ["items.csv"], "id": "id", "columns": []}, "names no attributes"),
    ],
)
def test_what_the_catalog_lacks_is_an_error_that_names_the_key(data, wanted, items, complaint):
    dataset = Dataset(name="d", items=items)
    with pytest.raises(SettingsError, match=f"attributes.items: .*{complaint}"):
        model_attributes.check(dataset, Attributes(items=wanted), data)
    model_attributes.check(dataset, Attributes(), data)
