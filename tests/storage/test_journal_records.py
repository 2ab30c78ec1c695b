"""Journal tables are read fast, and exactly as record by record; what is kept of a run is forgotten when it changes."""

import datetime as dt
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.schemas import tables
from pipeline.schemas.table import BIG, BOOL, FLOAT, INT, TEXT, TIME, Column, Table
from pipeline.storage import journal, journal_records, state_files

TABLE = Table(
    "made_up",
    "Every type.",
    ("text", "whole"),
    {
        "text": Column(TEXT, "A key."),
        "whole": Column(INT, "A key."),
        "big": Column(BIG, "", nullable=True),
        "number": Column(FLOAT, "", nullable=True),
        "flag": Column(BOOL, "", nullable=True),
        "at": Column(TIME, "", nullable=True),
    },
)
VALUES = {
    "text": st.text(max_size=4),
    "whole": st.integers(-3, 3),
    "big": st.none() | st.integers(-(2**63), 2**63 - 1),
    "number": st.none() | st.floats() | st.integers(-9, 9),
    "flag": st.none() | st.booleans(),
    "at": st.none() | st.datetimes().map(dt.datetime.isoformat),
}
ODD = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("2026-01-01T00:00:00+01:00") | st.just([])
)
records = st.fixed_dictionaries({}, optional=VALUES)
whole_records = st.fixed_dictionaries(VALUES)
odd_records = st.dictionaries(st.sampled_from(list(VALUES)), ODD)
lines = st.lists(st.one_of(*[kind.map(json.dumps) for kind in (whole_records, records, odd_records)]), max_size=6)
torn_lines = st.lists(
    st.one_of(whole_records.map(json.dumps), st.sampled_from(['{"text": "a', '"whole": 1}', "[]", " "]))
)


def by_record(path: Path) -> pl.DataFrame:
    """The same by `state_files`, one record after another."""
    found = [row for record in state_files.read_records(path) if (row := state_files.fits(TABLE, record)) is not None]
    frame = pl.DataFrame(found, schema=TABLE.schema, orient="row")
    return frame.unique(TABLE.key, keep="last", maintain_order=True)


@given(lines | torn_lines)
def test_a_table_is_read_as_record_by_record(texts):
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "made_up.jsonl").write_text("\n".join(texts))
        try:
            expected = by_record(path)
        except OverflowError:  # a whole number that no float holds
            return
        assert journal_records.frame_of(TABLE, [path, path.with_name("none")]).equals(expected)


@pytest.mark.parametrize("content", [b'{"text": "\xff", "whole": 1}\n', b"", b"\n\n", b'{"text": "a"\n"whole": 1}\n'])
def test_damage_is_left_out_as_before(tmp_path, content):
    (path := tmp_path / "made_up.jsonl").write_bytes(content)
    assert journal_records.frame_of(TABLE, [path]).equals(by_record(path))


def test_a_run_is_read_once_until_it_changes(run, monkeypatch):
    path, read = journal.folder(run) / "run.json", []
    found = journal.find_run
    monkeypatch.setattr(journal, "find_run", lambda *about: (read.append(about), found(*about))[1])
    ids = [run.run_id]
    assert [journal.run_ids(run.home, run.dataset) for _ in range(3)] == [ids] * 3
    assert len(read) == 3, "it was written a moment ago, so it may change without another time"
    monkeypatch.setattr(journal_records.time, "time", lambda: path.stat().st_mtime + 10)
    assert [journal.run_ids(run.home, run.dataset) for _ in range(3)] == [ids] * 3
    assert journal.read(run.home, run.dataset, tables.RUNS)["outcome"].to_list() == ["running"]
    assert len(read) == 4
    journal.close_run(run, "refused")
    assert journal.read(run.home, run.dataset, tables.RUNS)["outcome"].to_list() == ["refused"]
    path.write_text("{")
    assert journal.run_ids(run.home, run.dataset) == []
    path.unlink()
    assert journal.run_ids(run.home, run.dataset) == []


def test_a_file_without_a_settled_time_has_no_signature(tmp_path):
    (path := tmp_path / "run.json").write_text("{}")
    os.utime(path, (0, 0))  # the time of change stays
    assert journal_records.signature(path) is None
    assert journal_records.signature(tmp_path / "none") is None and journal_records.signature(tmp_path) is None
