"""Which words stand for a missing value: in ids none, in catalogs of text two, in typed files none; each is counted."""

import json
import re
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.dataset import Items
from pipeline.config.run import Run
from pipeline.core.paths import CHECKOUT
from pipeline.schemas.reasons import LEFT_OUT
from pipeline.sources import attributes, odd_values
from pipeline.sources.catalog_reader import read_items
from pipeline.stages import ingest
from pipeline.storage import journal
from tests.support.stage_runs import make_run

WORDS = ["NULL", "null", "NA", "None", "nan", "\\N", " NULL ", "N/A"]


def catalog(folder: Path, name: str, **columns: str) -> tuple[list[tuple], dict[str, int], list[str]]:
    """Rows, counts and reasons of a catalog file."""
    items = Items.model_validate({"files": [name], "id": "id", "title": "title", **columns})
    frame, counts, rejects = read_items(folder, [name], items, folder)
    return frame.rows(), counts, rejects["reason"].to_list()


def notes_of(run: Run) -> str:
    return "\n".join(journal.notes(run.home, run.dataset, run.run_id))


def test_in_a_text_file_two_words_are_missing_and_the_others_texts(tmp_path: Path):
    rows = "".join(f"i{n},{word},{word}\n" for n, word in enumerate(WORDS))
    (tmp_path / "films.csv").write_text(f"id,title,brand\n{rows}NA,x,y\nNULL,x,y\n")
    found, counts, reasons = catalog(tmp_path, "films.csv")
    titles = {item: title for item, title, *_ in found}
    assert [titles[f"i{n}"] for n in range(len(WORDS))] == [None, "null", "NA", "None", "nan", None, None, "N/A"]
    assert titles["NA"] == "x" and reasons == ["empty_item"] and counts["missing"] == 6


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_where_files_have_a_null_of_their_own_every_word_is_a_text(tmp_path: Path, kind: str):
    rows = [{"id": word, "title": word, "brand": word} for word in WORDS] + [
        {"id": "last", "title": None, "brand": None}
    ]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "films.parquet")
    else:
        (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, counts, reasons = catalog(tmp_path, f"films.{kind}")
    assert [(item, title, brand) for item, title, _, brand in found] == [
        *((w, w, w) for w in WORDS),
        ("last", None, None),
    ]
    assert not reasons and "missing" not in counts


def test_nan_of_a_catalog_is_missing_and_its_column_stays_one_of_numbers(tmp_path: Path):
    table = {"id": ["a", "b", "c"], "title": ["x", "NULL", None], "price": [1.5, float("nan"), None]}
    pq.write_table(pa.table(table), tmp_path / "films.parquet")
    frame, _, _ = read_items(
        tmp_path, ["films.parquet"], Items(files=["films.parquet"], id="id", title="title"), tmp_path
    )
    assert attributes.write_items(tmp_path, frame) == {"price": "DOUBLE"}
    assert pl.read_parquet(tmp_path / attributes.COLUMNS)["price"].to_list() == [1.5, None, None]
    ids = {"id": [1.0, float("nan")], "title": ["x", "y"]}
    pq.write_table(pa.table(ids), tmp_path / "ids.parquet")
    assert catalog(tmp_path, "ids.parquet")[::2] == ([("1.0", "x", None)], ["empty_item"])


def test_bytes_of_a_catalog_are_texts_or_a_reject(tmp_path: Path):
    table = {"id": [b"a", b"\xff", b"c"], "title": [b"\xc3\xa9", b"x", b"\xff"], "price": [1, 2, 3]}
    pq.write_table(pa.table(table), tmp_path / "films.parquet")
    found, _, reasons = catalog(tmp_path, "films.parquet")
    assert [row[:2] for row in found] == [("a", "é")] and reasons == ["bad_encoding"] * 2


def test_a_name_twice_matters_only_where_it_is_needed(tmp_path: Path):
    columns = [pa.array(["a"]), pa.array(["x"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["id", "title", "z", "z"]), tmp_path / "films.parquet")
    assert catalog(tmp_path, "films.parquet")[0] == [("a", "x", None)]


LOG = "user,item,rating,timestamp\nu1,1,3,0\nu2,1,4,5\nNULL,4,5,6\nNULL,1,5,7\nNA,None,5,0\n"
SOURCE = {
    "source": {"files": ["log.csv"]},
    "columns": {"user": "user", "item": "item", "rating": "rating", "timestamp": "timestamp"},
}


def test_a_night_says_which_ids_and_times_look_missing(tmp_path: Path):
    (tmp_path / "log.csv").write_text(LOG)
    run = make_run(tmp_path / "home", tmp_path, dataset=SOURCE)
    folder = ingest.read_source(run)
    assert odd_values.odd_values(folder / "interactions.parquet") == {
        "odd_ids": {"user": {"NULL": 2, "NA": 1}, "item": {"None": 1}}, "zero_times": 2,
    }  # fmt: skip
    notes = notes_of(run)
    assert "user ids that look like a missing value are read as ids: 'NULL' (2 rows), 'NA' (1 row)" in notes
    assert "\"user <> 'NULL'\"" in notes and "the time of 2 rows is 1970-01-01" in notes
    kept = make_run(
        tmp_path, tmp_path, dataset={"source": {"files": ["log.csv"]}, "feedback": {"keep_if": "user <> 'NULL'"}}
    )
    assert ingest.read_source(kept).exists(), "what the note advises is a condition"


def test_a_night_says_what_of_a_catalog_is_missing_or_left_out(tmp_path: Path):
    (tmp_path / "log.csv").write_text(LOG.replace("NULL", "u3").replace("NA,None", "u4,1"))
    rows = [{"id": "1", "title": "x", "Title": "y"}, {"id": "4", "title": "z", "Title": "NULL"}]
    (tmp_path / "films.csv").write_text("id,title,Title\n1,x,y\n4,NULL,NULL\n")
    text = json.dumps(rows[0]) + '\n{"id": "4", "title": "a", "title": "b"}\n'
    (tmp_path / "films.jsonl").write_text(text)
    for name, says in (("films.csv", "2 cells that are NULL or"), ("films.jsonl", "1 line has a key twice")):
        items = {"files": [name], "id": "id", "title": "title"}
        run = make_run(tmp_path / f"home-{name}", tmp_path, dataset={**SOURCE, "items": items})
        ingest.read_source(run)
        notes = notes_of(run)
        assert says in notes and "item catalog: 'Title' is in item_attributes, but no column of items" in notes


def test_lines_that_are_no_rows_are_not_awaited_among_the_rejected_ones():
    text = (CHECKOUT / "sql/checks/output/rejects_counted.sql").read_text()
    named = re.findall(r"'(\w+)'", text.partition("not in")[2].partition(")")[0])
    assert {*LEFT_OUT} < {*named}
