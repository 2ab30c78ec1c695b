"""Keyed folders: built once, complete or absent, rebuilt when a byte is wrong."""

import subprocess
import sys
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


RACER = """
import sys, time
from pathlib import Path
from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import journal_entries, lake

run, me, there = Run.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2], Path(sys.argv[3])

def write(folder):
    for n in range(50):
        (folder / f"{n}.txt").write_text(f"part {n}")
    (there / me).touch()
    while len(list(there.iterdir())) < 2:  # both are as good as complete
        time.sleep(0.001)
    return lake.StageResult(rows_in=50, rows_out=50, ledger={"kept": 50})

spec = lake.Spec(StageCall(StageName.CLEAN), "2_clean", 1, {})
for round in range(3):
    with journal_entries.aside() as entries:
        folder = lake.build(run, spec, write)
    assert lake.is_complete(folder)
print([kind for kind, _ in entries])
"""


def test_of_two_processes_the_first_to_complete_wins(run, tmp_path):
    written, there = tmp_path / "run.json", tmp_path / "there"
    written.write_text(run.model_dump_json())
    there.mkdir()
    before = {path.name: path.read_bytes() for path in journal.folder(run).iterdir()}
    command = [sys.executable, "-c", RACER, str(written)]
    racers = [
        subprocess.Popen([*command, name, str(there)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    answers = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], answers
    assert {output for output, _ in answers} == {"['#artifact', 'stages', 'row_ledger']\n"}
    layer = run.home.lake(run.dataset) / "2_clean"
    assert [path.name for path in layer.iterdir()] == [lake.folder_of(run, spec()).name], "no unfinished folder is left"
    assert lake.is_complete(lake.folder_of(run, spec()))
    assert {path.name: path.read_bytes() for path in journal.folder(run).iterdir()} == before, "only the driver writes"


def test_a_complete_folder_stays_as_it_is(run):
    """A second process that completes the same key drops its own folder; readers of the first one notice nothing."""
    target = lake.folder_of(run, spec())

    def write(folder: Path) -> lake.StageResult:
        if not target.exists():
            lake.build(run, spec(), writer("first", []))
        (folder / "a.txt").write_text("second")
        return lake.StageResult()

    folder = lake.build(run, spec(), write)
    assert (folder / "a.txt").read_text() == "first" and lake.is_complete(folder)
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["a file", "an empty folder", "without manifest"])
def test_what_is_damaged_under_the_name_goes(run, damage):
    target = lake.folder_of(run, spec())
    target.parent.mkdir(parents=True)
    if damage == "a file":
        target.write_text("")
    else:
        target.mkdir()
        if damage == "without manifest":
            (target / "a.txt").write_text("half")
    assert lake.build(run, spec(), writer("whole", [])) == target and lake.is_complete(target)
    assert list(target.parent.iterdir()) == [target]


def test_leftovers_go_at_a_start_and_checkpoints_stay(run):
    layer = run.home.lake(run.dataset) / "5_models"
    stay = [layer / ".checkpoint-0123456789abcdef", layer / "ials-0123456789abcdef"]
    go = [layer / f".ials-0123456789abcdef.{end}" for end in ("123", "0123456789abcdef")]
    go += [layer / ".scratch-0123456789abcdef", layer / ".checkpoint-0123456789abcdef.0123456789abcdef"]
    for path in [*stay, *go]:
        path.mkdir(parents=True)
        (path / "a.txt").write_text("half")
    lake.build(run, spec(), writer("another", []))
    assert all(path.exists() for path in go), "another process may be at work in them"
    assert lake.remove_leftovers(run.home, run.dataset) == sorted(path.name for path in go)
    assert sorted(layer.iterdir()) == sorted(stay)
