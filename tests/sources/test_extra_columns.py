"""Columns that the settings name are kept in the raw layer, by both readers alike, and no others."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Dataset
from pipeline.core.errors import UnreadableInput
from pipeline.sources import file_reader, source_files
from pipeline.sources.extra_columns import common_types, extra_columns, stored_name
from pipeline.sources.parquet_writer import read_batches, write_rows
from pipeline.storage import warehouse

TEXTS = st.sampled_from(["view", "", " cart", '"a,b"', '"say ""hi"""', '""', "5.0", "007", "1e3", "é", "NULL", "\\N"])


def data_set(columns: dict[str, Any] | None = None, **events: Any) -> Dataset:
    named = {"user": "user", "item": "item", **(columns or {})}
    section = {"events": {"weights": {"view": 1.0}, **events}} if events else {}
    return Dataset.model_validate({"name": "toy", "columns": named, "source": {"files": ["toy.csv"]}, **section})


def read(path: Path, dataset: Dataset, into: Path, exact: bool = False) -> pl.DataFrame:
    into.mkdir()
    with warehouse.scratch(threads=1) as con:
        file_reader.read_file(con, path, path.name, dataset, into, exact)
    return pl.read_parquet(into / "interactions.parquet")


def as_text(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col(pl.Categorical).cast(pl.String))


@pytest.mark.long
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_both_readers_keep_the_same_text(tmp_path_factory, cells):
    folder = tmp_path_factory.mktemp("extra")
    path = folder / "toy.csv"
    path.write_text("user,kind,item,pieces\n" + "".join(f"u{n},{a},i,{b}\n" for n, (a, b) in enumerate(cells)))
    dataset = data_set(column="kind", quantity="pieces")
    fast, exact = (as_text(read(path, dataset, folder / str(way), way)) for way in (False, True))
    assert fast.columns == ["user_id", "item_id", "rating", "timestamp", "source_kind", "source_pieces"]
    assert fast.equals(exact)
    unquoted = [a[1:-1].replace('""', '"') if a.startswith('"') else a for a, _ in cells]
    assert fast["source_kind"].to_list() == [text or None for text in unquoted]


def test_a_column_of_a_role_keeps_its_text(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text("user,item,rating,time\nu,i,5.0,100\nv,i,05,100\n")
    dataset = data_set({"rating": "rating", "timestamp": "time"}, column="rating", quantity="time")
    for way in (False, True):
        rows = read(path, dataset, tmp_path / str(way), way)
        assert rows["rating"].to_list() == [5, 5]
        assert as_text(rows)["source_rating"].to_list() == ["5.0", "05"]
        assert as_text(rows)["source_time"].to_list() == ["100", "100"]


@pytest.mark.parametrize("name", ["toy.csv", "toy.parquet"])
@pytest.mark.parametrize("way", [False, True])
def test_a_missing_column_is_named_with_its_key(tmp_path, name, way):
    path = tmp_path / name
    rows = pl.DataFrame({"user": ["u"], "item": ["i"], "event_kind": ["view"]})
    rows.write_parquet(path) if name.endswith("parquet") else rows.write_csv(path)
    with pytest.raises(UnreadableInput, match=rf"{name}.*event_type.*\(events\.column\)"):
        read(path, data_set(column="event_type"), tmp_path / "into", way)


def test_parquet_columns_keep_their_scalar_type(tmp_path):
    at = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    values = {
        "bool": (True, None), "small": (1, 2), "real": (0.5, None), "money": (Decimal("1.50"), Decimal("2.25")),
        "day": (dt.date(2026, 3, 1), None), "moment": (at, None), "kind": ("view", ""), "many": ([1, 2], []),
    }  # fmt: skip
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["i", "j"], **{n: list(v) for n, v in values.items()}})
    frame.write_parquet(tmp_path / "toy.parquet")
    kinds = {"bool": pl.Boolean, "small": pl.Int64, "real": pl.Float64, "day": pl.Date, "moment": pl.Datetime("us")}
    for name in values:
        fast, exact = (
            as_text(read(tmp_path / "toy.parquet", data_set(column=name), tmp_path / f"{name}{way}", way))
            for way in (False, True)
        )
        stored = fast[stored_name(name)]
        assert stored.equals(exact[stored_name(name)])
        if name in kinds:
            assert stored.dtype == kinds[name]
    assert stored.to_list() == ["[1, 2]", "[]"]


def test_types_of_several_files_become_one(tmp_path):
    kinds = {"a": pl.Series([1], dtype=pl.Int32), "b": pl.Series([2.5]), "c": pl.Series(["x"])}
    paths = []
    for name, values in kinds.items():
        pl.DataFrame({"user": ["u"], "item": ["i"], "kind": values}).write_parquet(tmp_path / f"{name}.parquet")
        read(tmp_path / f"{name}.parquet", data_set(column="kind"), tmp_path / name)
        paths.append(tmp_path / name / "interactions.parquet")
    for parts, expected in ((paths[:2], [1.0, 2.5]), (paths, ["1", "2.5", "x"])):
        schema = common_types([pq.read_schema(part) for part in parts])
        write_rows(read_batches(parts), tmp_path / "all.parquet", schema)
        assert as_text(pl.read_parquet(tmp_path / "all.parquet"))["source_kind"].to_list() == expected


def test_without_named_columns_nothing_changes(tmp_path):
    path = tmp_path / "toy.csv"
    path.write_text("user,item,kind\nu,i,view\n")
    plain = data_set()
    assert extra_columns(plain) == []
    assert read(path, plain, tmp_path / "into").columns == ["user_id", "item_id", "rating", "timestamp"]
    assert "extra_columns" not in source_files.layout_settings(plain)
    assert source_files.layout_settings(data_set(column="kind"))["extra_columns"] == ["kind"]
