"""The file that a night builds: what killed nights left goes first, and DuckDB's memory is bounded."""

import pytest

from pipeline.config.run import Run
from pipeline.publishing import database

GIB = 2**30


def test_what_killed_nights_left_is_deleted(run: Run):
    folder = run.home.generations(run.dataset)
    (folder / ".20260101T000000.000Z-aaaa.tmp").mkdir(parents=True)
    for name in (".20260101T000000.000Z-aaaa.tmp/duckdb_temp_storage-0.tmp", ".20260101T000000.000Z-aaaa.building"):
        (folder / name).write_bytes(b"spilled")
    (folder / "20260101T000000.000Z-bbbb.duckdb").write_bytes(b"an earlier night's")
    with database.building(run) as (path, con):
        con.execute("CREATE TABLE a AS SELECT 1 AS x")
    assert {file.name for file in folder.iterdir()} == {path.name, "20260101T000000.000Z-bbbb.duckdb"}


@pytest.mark.parametrize(
    ("memory", "limit"), [(GIB, GIB // 2), (2 * GIB, GIB), (8 * GIB, 3 * GIB // 2), (64 * GIB, 4 * GIB)]
)
def test_duckdb_leaves_memory_to_others(monkeypatch: pytest.MonkeyPatch, memory: int, limit: int):
    monkeypatch.setattr(database, "total_memory", lambda: memory)
    assert database._default_limit() == limit
