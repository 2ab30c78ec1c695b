"""Attributes of items and users: every column is kept, typed by all of its values; forgotten users have none."""

import datetime as dt
import re
import uuid
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.publishing.item_columns import table_with
from pipeline.schemas import tables
from pipeline.sources import attributes
from pipeline.stages import ingest
from pipeline.storage import forgotten_users, journal, lake, warehouse
from tests.support.stage_runs import make_run

LOG = b"user,item,rating,timestamp\nu1,1,3,0\nu2,1,4,0\nu3,4,5,0\n"
ITEMS = b"""id,title,genres,in_stock,price,added,code,n_interactions
1,Heat,Action|Crime,yes,4.50,2024-01-31,007,x
4,,Drama,no,,2024-02-01,010,
2,Alien,Action,,12,,,y
2,Alien 2,Horror,yes,13, 2024-03-01 ,,z
"""
CATALOG = {"files": ["items.csv"], "id": "id", "title": "title", "attributes": {"genres": "|"}}
USERS = b"id;country;langs;age\nu1;de;de,en;\nu2;fr;;33\nstranger;no;no;20\n;xx;;1\nbroken;1\n"


def write(folder: Path, **contents: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in {"log": LOG, **contents}.items():
        (folder / f"{name}.csv").write_bytes(content)
    return folder


def read(home: Path, data: Path, **dataset) -> Path:
    return ingest.read_source(make_run(home, data, dataset={"source": {"files": ["log.csv"]}, **dataset}))


def test_every_column_of_the_catalog_is_kept_and_typed(tmp_path):
    raw = read(tmp_path, write(tmp_path / "data", items=ITEMS), items=CATALOG)
    assert tables.CATALOG.check(pl.read_parquet(raw / "catalog.parquet")).height == 3, "as before"
    columns = attributes.read_columns(raw).sort("item_id")
    assert columns.drop("code", "n_interactions").rows() == [
        ("1", True, 4.5, dt.date(2024, 1, 31)), ("2", True, 13.0, dt.date(2024, 3, 1)),
        ("4", False, None, dt.date(2024, 2, 1)),
    ]  # fmt: skip
    assert columns["code"].to_list() == ["007", None, "010"]
    rows = tables.ITEM_ATTRIBUTES.check(attributes.item_attributes(raw)).rows()
    assert [(name, value) for item, name, value in rows if item == "1"] == [
        ("added", "2024-01-31"), ("code", "007"), ("genres", "Action"), ("genres", "Crime"), ("in_stock", "yes"),
        ("n_interactions", "x"), ("price", "4.50"),
    ]  # fmt: skip
    wide = table_with(columns)
    assert list(wide.columns)[-4:] == ["in_stock", "price", "added", "code"], "n_interactions is the table's own"
    with warehouse.connect() as con:
        con.execute(wide.ddl)
        warehouse.insert(con, "items", wide.empty())


def test_a_catalog_without_other_columns_has_the_key_and_the_files_that_it_had(tmp_path):
    data = write(tmp_path / "data", items=b"id,title,genres\n1,Heat,Action|Crime\n")
    raw = read(tmp_path, data, items=CATALOG)
    assert not (raw / attributes.COLUMNS).exists() and "columns" not in lake.read_manifest(raw)["settings"]["items"]
    assert attributes.item_attributes(raw).rows() == [("1", "genres", "Action"), ("1", "genres", "Crime")]
    other = read(tmp_path / "b", write(tmp_path / "data", items=ITEMS), items={**CATALOG, "columns": ["price"]})
    assert attributes.read_columns(other).columns == ["item_id", "price"]
    with pytest.raises(UnreadableInput, match=r"no column 'prize' \(items.columns\).*closest is 'price'"):
        read(tmp_path / "c", data, items={**CATALOG, "columns": ["prize"]})


def test_nested_columns_of_parquet_are_left_out_unless_named(tmp_path):
    data = write(tmp_path / "data")
    frame = pl.DataFrame({"id": [1, 4], "tags": [["a", "b"], []], "size": [{"x": 1}, None], "raw": [b"1", b"2"],
                          "sold": [True, None], "at": [dt.datetime(2024, 1, 1), None]})  # fmt: skip
    frame.write_parquet(data / "items.parquet")
    settings = {"files": ["items.parquet"], "id": "id"}
    columns = attributes.read_columns(read(tmp_path / "a", data, items=settings))
    assert columns.rows() == [("1", True, dt.datetime(2024, 1, 1)), ("4", None, None)]
    rows = attributes.item_attributes(read(tmp_path / "b", data, items={**settings, "attributes": {"tags": ""}}))
    assert rows.filter(attribute="tags").rows() == [("1", "tags", "a"), ("1", "tags", "b")]


def test_what_no_attribute_can_hold_is_left_out_with_a_note_that_names_the_column(tmp_path):
    data = write(tmp_path / "data")
    far, key = dt.datetime(2024, 1, 1), uuid.UUID(int=7)
    table = pa.table(
        {
            "id": [1, 4], "cats": [["a", "b"], ["c"]], "blob": [b"\xff", b"2"], "took": [dt.timedelta(1)] * 2,
            "key": pa.array([key.bytes, None], pa.uuid()), "until": pa.array([2**31 - 1, 5], pa.date32()),
            "since": pa.array([-(2**63), 10**15], pa.timestamp("us", tz="UTC")), "at": [far, None],
            "days": pa.array([[2**31 - 1, 0], None], pa.list_(pa.date32())), "pair": [{"x": 1}, None],
        }
    )  # fmt: skip
    pq.write_table(table, data / "items.parquet")
    pq.write_table(table, data / "users.parquet")
    settings = {"files": ["items.parquet"], "id": "id", "attributes": {"days": ";"}}
    run = make_run(tmp_path, data, dataset={"source": {"files": ["log.csv"]}, "items": settings,
                                            "users": {"files": ["users.parquet"], "id": "id"}})  # fmt: skip
    raw = ingest.read_source(run)
    assert attributes.read_columns(raw).sort("item_id").rows() == [
        ("1", str(key), None, None, far), ("4", None, dt.date(1970, 1, 6), dt.datetime(2001, 9, 9, 1, 46, 40), None),
    ]  # fmt: skip
    rows = attributes.item_attributes(raw)
    assert rows.filter(attribute="days").rows() == [("1", "days", "1970-01-01")]
    notes = journal.notes(run.home, run.dataset, run.run_id)
    for section, what in (("items", "item catalog"), ("users", "user attributes")):
        mine = [note for note in notes if note.startswith(f"warning: {what}: {section}.parquet")]
        left = {re.search("column '([a-z]+)' is left out", note)[1] for note in mine if "left out" in note}  # type: ignore[index]
        assert left == {"cats", "blob", "took", "pair"} | ({"days"} if section == "users" else set())
        assert any(f'{section}.attributes = {{ cats = "" }}' in note for note in mine)
        lost = {re.search("1 value of column '([a-z]+)'", note)[1] for note in mine if "and empty here" in note}  # type: ignore[index]
        assert lost == {"until", "since"} | ({"days"} if section == "items" else set())


def test_bytes_as_an_id_and_columns_that_are_asked_for_and_not_read_are_refused(tmp_path):
    data = write(tmp_path / "data")
    frame = pl.DataFrame({"id": [b"\xff\x00", b"\xfe"], "cats": [["a"], ["b"]], "took": [dt.timedelta(1)] * 2})
    frame.with_columns(n=pl.Series(["1", "4"])).write_parquet(data / "items.parquet")
    asked = {"files": ["items.parquet"], "id": "id"}
    for n, (settings, why) in enumerate({
        "id": (asked, r"column 'id' \(items.id\) has the type Binary, which is not read: cast it"),
        "columns": ({**asked, "id": "n", "columns": ["cats"]}, r"'cats' \(items.columns\) has the type .*attributes"),
        "named": ({**asked, "id": "n", "attributes": {"took": ""}}, r"column 'took' .*Duration.*, which is not read"),
    }.values()):  # fmt: skip
        with pytest.raises(UnreadableInput, match=why):
            read(tmp_path / str(n), data, items=settings)


def test_files_of_a_catalog_may_have_different_columns(tmp_path):
    data = write(tmp_path / "data", items=b"id,price\n1,2\n", items2=b"id,sold\n4,yes\n")
    raw = read(tmp_path, data, items={"files": ["items*.csv"], "id": "id"})
    assert attributes.read_columns(raw).rows() == [("1", 2, None), ("4", None, True)]


def test_attributes_of_users_are_kept_for_users_with_rows_and_not_for_forgotten_ones(tmp_path):
    data = write(tmp_path / "data", users=USERS)
    settings = {"files": ["users.csv"], "id": "id", "attributes": {"langs": ","}}
    raw = read(tmp_path, data, users=settings)
    assert tables.USER_ATTRIBUTES.check(attributes.user_attributes(raw)).rows() == [
        ("u1", "country", "de"), ("u1", "langs", "de"), ("u1", "langs", "en"), ("u2", "age", "33"), ("u2", "country", "fr"),
    ]  # fmt: skip
    assert "user attributes: 2 of 3 users have interactions" in journal.notes(Home(tmp_path), "three", "r1")
    rejected = pl.read_parquet(raw / "rejected_rows.parquet").select("file", "line", "reason", "raw").rows()
    assert rejected == [("users.csv", 5, "empty_user", ";xx;;1"), ("users.csv", 6, "too_few_fields", "broken;1")]

    for user in ("u2", "broken"):
        forgotten_users.add(Home(tmp_path / "later"), "three", user)
    raw = read(tmp_path / "later", data, users=settings)
    assert set(attributes.user_attributes(raw)["user_id"]) == {"u1"}
    assert b"broken" not in (raw / "rejected_rows.parquet").read_bytes()


def test_a_data_set_without_users_has_the_key_that_it_had(tmp_path):
    data = write(tmp_path / "data", users=USERS)
    plain = lake.read_manifest(read(tmp_path / "a", data))["settings"]
    assert not any(key.startswith("users") for key in plain)
    with_users = lake.read_manifest(read(tmp_path / "b", data, users={"files": ["users.csv"], "id": "id"}))["settings"]
    assert with_users["data_hash"] != plain["data_hash"]
