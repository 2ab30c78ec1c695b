"""Keyed folders: built once, complete or absent, rebuilt when a byte is wrong."""

from pathlib import Path

import pytest

from pipeline.core.stage_call import StageCall, StageName
from pipeline.schemas import tables
from pipeline.storage import journal, lake

CLEAN = StageCall(StageName.CLEAN)


def spec(**settings) -> lake.Spec:
    return lake.Spec(CLEAN, layer="2_clean", version=1, settings=settings)


def writer(text: str, calls: list[str]):
    def write(folder: Path) -> lake.StageResult:
        calls.append(text)
        (folder / "a.txt").write_text(text)
        return lake.StageResult(rows_in=3, rows_out=2, ledger={"kept": 2, "duplicate": 1}, info={"text": text})

    return write


def test_a_complete_folder_is_not_built_again(run):
    calls: list[str] = []
    first = lake.build(run, spec(a=1), writer("one", calls))
    second = lake.build(run, spec(a=1), writer("two", calls))
    assert first == second and calls == ["one"]
    assert lake.info(first) == {"text": "one"}
    stages = journal.read(run.home, run.dataset, tables.STAGES)
    assert stages["skipped"].to_list() == [True], "of rows with the same key the last one counts"
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER)
    assert dict(zip(ledger["reason"], ledger["rows"], strict=True)) == {"kept": 2, "duplicate": 1}


def test_what_matters_changes_the_key(run):
    parent = Path("x/clean-abc")
    keys = {
        spec(a=1).key,
        spec(a=2).key,
        lake.Spec(CLEAN, "2_clean", 2, {"a": 1}).key,
        lake.Spec(CLEAN, "2_clean", 1, {"a": 1}, (parent,)).key,
        lake.Spec(StageCall(StageName.ENCODE), "2_clean", 1, {"a": 1}).key,
    }
    assert len(keys) == 5
    other_place = lake.Spec(CLEAN, "2_clean", 1, {"a": 1}, (Path("elsewhere/renamed-abc"),))
    assert other_place.key == lake.Spec(CLEAN, "2_clean", 1, {"a": 1}, (parent,)).key


def test_a_flipped_byte_is_found_and_the_stage_rebuilt(run):
    calls: list[str] = []
    folder = lake.build(run, spec(), writer("one", calls))
    (folder / "a.txt").write_text("onf")
    assert not lake.is_complete(folder)
    lake.build(run, spec(), writer("two", calls))
    assert calls == ["one", "two"] and (folder / "a.txt").read_text() == "two"


def test_a_stage_that_fails_leaves_nothing(run):
    def write(folder: Path) -> lake.StageResult:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        lake.build(run, spec(), write)
    assert list((run.home.lake(run.dataset) / "2_clean").iterdir()) == []


def test_a_folder_without_manifest_does_not_count(run):
    calls: list[str] = []
    folder = lake.build(run, spec(), writer("one", calls))
    (folder / lake.MANIFEST).unlink()
    lake.build(run, spec(), writer("two", calls))
    assert calls == ["one", "two"]
