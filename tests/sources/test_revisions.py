"""Lake keys move only for files that are read otherwise than before."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.dataset import Dataset
from pipeline.sources.source_files import find_source_files, key_settings

BASE = {"name": "d", "columns": {"user": "user", "item": "item"}}


def revisions(folder: Path, name: str, **more: Any) -> list[str]:
    source = {"files": [name], **more.pop("source", {})}
    dataset = Dataset.model_validate({**BASE, "source": source, **more})
    found = find_source_files(dataset, folder, folder / "1_raw")
    assert ("revisions" in key_settings(dataset, found)) == bool(found.revisions)
    return found.revisions


def test_the_keys_of_usual_files_stay(tmp_path: Path):
    (tmp_path / "a.csv").write_text("user,item,about.tags\nu,i,x\n")
    (tmp_path / "a.jsonl").write_text('{"user": "u", "item": "i"}\n{"user": "v", "item": "i"}\n')
    pq.write_table(pa.table({"user": ["u"], "item": [1], "price": [1.5], "raw": [b"x"]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert revisions(tmp_path, name) == []
    catalog = {"files": ["a.csv"], "id": "item"}
    assert revisions(tmp_path, "a.csv", items=catalog, feedback={"keep_if": "\"about.tags\" = 'x'"}) == []


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ([1.0, float("nan")], ["nan_ids"]),
        ([b"a", b"\xff"], ["bytes"]),
        (["a", "b"], []),
        ([1, 2], []),
        (pa.array([b"a", b"b"], pa.binary(1)), ["bytes"]),
    ],
)
def test_the_keys_of_parquet_files_move_by_their_types(tmp_path: Path, user: list, expected: list[str]):
    pq.write_table(pa.table({"user": user, "item": ["a", "b"]}), tmp_path / "a.parquet")
    assert revisions(tmp_path, "a.parquet") == expected
    assert revisions(tmp_path, "a.parquet", source={"mode": "incremental"}) == [], "its earlier files may be gone"


def test_the_keys_of_parquet_files_move_by_names_that_differ_by_case_and_by_ratings_of_bytes(tmp_path: Path):
    columns = {**BASE["columns"], "rating": "rating"}
    pq.write_table(pa.table({"user": ["u"], "item": ["a"], "Item": ["b"], "rating": [b"1"]}), tmp_path / "a.parquet")
    assert revisions(tmp_path, "a.parquet") == ["names_by_case"]
    assert revisions(tmp_path, "a.parquet", columns=columns) == ["bytes", "names_by_case"]


def test_the_keys_of_catalogs_with_types_and_of_paths_move(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"user": "u", "item": "i", "about": {"tags": ["x"]}}) + "\n")
    (tmp_path / "a.csv").write_text("user,item\nu,i\n")
    pq.write_table(pa.table({"item": ["a"]}), tmp_path / "c.parquet")
    condition = {"keep_if": "\"about.tags\" = 'x'"}
    assert revisions(tmp_path, "a.jsonl", feedback=condition) == ["lists_below_paths"]
    assert revisions(tmp_path, "a.csv", items={"files": ["c.parquet"], "id": "item"}) == ["typed_catalog"]
    users = {"files": ["c.parquet"], "id": "item"}
    assert revisions(tmp_path, "a.csv", users=users) == ["typed_catalog"]


def test_the_keys_of_texts_with_names_of_time_zones_move(tmp_path: Path):
    named = {**BASE["columns"], "timestamp": "at", "timestamp_unit": "%Y-%m-%d %Z"}
    (tmp_path / "a.csv").write_text("user,item,at\nu,i,2024-01-01 UTC\n")
    (tmp_path / "a.jsonl").write_text('{"user": "u", "item": "i", "at": "2024-01-01 UTC"}\n')
    times = {"text": pa.array(["2024-01-01 UTC"]), "typed": pa.array([0], pa.timestamp("us"))}
    for name, column in times.items():
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "at": column}), tmp_path / f"{name}.parquet")
    for name in ("a.csv", "a.jsonl", "text.parquet"):
        assert revisions(tmp_path, name, columns=named) == ["named_zones"]
        assert revisions(tmp_path, name, columns={**named, "timestamp_unit": "%Y-%m-%d %z"}) == []
        assert revisions(tmp_path, name, columns=named, source={"mode": "incremental"}) == []
    assert revisions(tmp_path, "typed.parquet", columns=named) == []


def test_a_damaged_file_has_no_revision(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert revisions(tmp_path, "a.parquet") == []
