"""What goes and what stays: nothing that is live, needed for a rollback or by tonight's night."""

import os
import time

import pytest

from pipeline.maintenance import gc
from pipeline.schemas import tables
from pipeline.stages import track
from pipeline.storage import journal, lake
from pipeline.storage.generations import kept_generations
from pipeline.storage.lock import lock
from tests.support.published_nights import Dataset, without_mlflow


def folders(data: Dataset) -> set[str]:
    return {str(path.relative_to(data.home.lake("tiny"))) for path in data.home.lake("tiny").glob("[1-9]_*/[!.]*")}


def made_by(data: Dataset, run_id: str) -> set[str]:
    return set((data.home.journal("tiny") / run_id / "folders.txt").read_text().splitlines())


def known_to_mlflow(data: Dataset, *nights: str) -> None:
    """Else gc keeps their results, to log them there once it can be had."""
    for run_id in nights:
        journal._update(data.home.journal("tiny") / run_id, {"mlflow_run_id": "gone"})


@pytest.fixture
def no_mlflow_to_clean(monkeypatch):
    monkeypatch.setattr(gc, "_in_mlflow", lambda *_: [])
    monkeypatch.setattr(track, "follow_live", lambda *_: "not asked")


def test_count_decides_and_what_is_needed_stays(four_nights, capsys, no_mlflow_to_clean):
    data, nights = four_nights
    known_to_mlflow(data, *nights)
    assert folders(data) == set().union(*(made_by(data, night) for night in nights))
    output = data.printed(capsys, "gc", "tiny", "--dry-run", "--keep-lake-nights", "1", "--keep-generations", "2")
    assert output["dry_run"] and output["bytes"] == sum(one["bytes"] for one in output["removed"]) > 0
    assert len(folders(data)) == len(set().union(*(made_by(data, night) for night in nights)))
    assert kept_generations(data.home, "tiny") == nights, "a dry run removes nothing"

    before = sum(f.stat().st_size for f in data.home.warehouse.rglob("*.parquet"))
    done = data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1", "--keep-generations", "2")
    assert done["removed"] == output["removed"]
    freed = before - sum(f.stat().st_size for f in data.home.warehouse.rglob("*.parquet"))
    assert 0 < freed < done["bytes"]
    assert kept_generations(data.home, "tiny") == nights[2:]
    assert folders(data) == made_by(data, nights[3]) | made_by(data, nights[2]), "the live night's, and the one before"
    assert journal.run_ids(data.home, "tiny") == nights, "journals are the truth and stay"
    assert data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1")["removed"] == []

    assert data.command("rollback", "tiny") == 0 and data.live_night() == nights[2]
    again = data.night("seed=3")
    stages = journal.read(data.home, "tiny", tables.STAGES, again)
    built = stages.filter(stages["stage"].is_in(["ingest", "clean", "encode", "split", "train mf", "train mf on all"]))
    assert built.height == 6 and built["skipped"].all(), "tonight's night finds all that it needs"


def test_the_live_night_stays_however_old(four_nights, capsys, no_mlflow_to_clean):
    data, nights = four_nights
    known_to_mlflow(data, *nights)
    assert data.command("rollback", "tiny", "--to", nights[0]) == 0
    data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1", "--keep-generations", "1")
    assert kept_generations(data.home, "tiny") == [nights[0], nights[3]]
    assert data.live_night() == nights[0]
    assert folders(data) == made_by(data, nights[0]) | made_by(data, nights[3])
    assert all(lake.is_complete(data.home.lake("tiny") / name) for name in folders(data))


def test_results_that_mlflow_lacks_stay_as_long_as_their_generation(four_nights, capsys, no_mlflow_to_clean):
    data, nights = four_nights
    known_to_mlflow(data, *nights[1:])
    data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1")
    assert made_by(data, nights[0]) <= folders(data)
    data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1", "--keep-generations", "2")
    assert not made_by(data, nights[0]) <= folders(data)


def test_nothing_younger_than_keep_days_goes(four_nights, capsys, no_mlflow_to_clean):
    data, nights = four_nights
    known_to_mlflow(data, *nights)
    words = ("gc", "tiny", "--keep-generations", "1", "--keep-lake-nights", "1", "--keep-days", "2")
    assert data.printed(capsys, *words)["removed"] == []
    old = time.time() - 3 * 86_400
    os.utime(data.home.generation("tiny", nights[0]), (old, old))
    assert [one["name"].split("/")[-1] for one in data.printed(capsys, *words)["removed"]] == [f"{nights[0]}.duckdb"]


def test_leftovers_of_dead_nights_go_and_checkpoints_only_when_nobody_can_go_on_from_them(four_nights, capsys):
    data, (*_, run_id) = four_nights
    lake_of, home = data.home.lake("tiny"), data.home
    dead = [lake_of / "2_clean" / ".clean-1-2", lake_of / "1_raw" / ".scratch-9"]
    for folder in dead:
        folder.mkdir()
        (folder / "x").write_bytes(b"12345")
    checkpoint = lake_of / "5_models" / ".checkpoint-abc.safetensors"
    building = home.generations("tiny") / ".r.building"
    for path in (checkpoint, building):
        path.write_bytes(b"12345")
    journal._update(home.journal("tiny") / run_id, {"outcome": "crashed"})
    output = data.printed(capsys, "gc", "tiny")
    assert output["bytes"] == 15 and {one["kind"] for one in output["removed"]} == {"temporary"}
    assert checkpoint.exists() and not building.exists() and not any(folder.exists() for folder in dead)
    journal._update(home.journal("tiny") / run_id, {"outcome": "published"})
    assert data.printed(capsys, "gc", "tiny")["bytes"] == 5 and not checkpoint.exists()


def test_files_of_incremental_sources_always_stay(tmp_path, capsys, monkeypatch, no_mlflow_to_clean):
    without_mlflow(monkeypatch)
    data = Dataset(tmp_path, "incremental")
    nights = []
    for day in (0, 10, 20):
        data.write(f"{day:02d}.csv", first_day=day)
        nights.append(data.night())
        (tmp_path / f"{day:02d}.csv").unlink()  # as log rotation does
    known_to_mlflow(data, *nights)
    data.printed(capsys, "gc", "tiny", "--keep-lake-nights", "1", "--keep-generations", "1")
    assert len(list(data.home.lake("tiny").glob("1_raw/files/*/manifest.json"))) == 3
    later = data.night("seed=9")
    assert data.ask("select rows from interactions_summary")["rows"].item() == 3 * 10 * 21, later


def test_all_data_sets_of_a_home_but_those_with_a_night(four_nights, capsys):
    data, _ = four_nights
    stray = data.home.generations("tiny") / ".x.building"
    stray.write_bytes(b"1")
    with lock(data.home, "tiny", "a night"):
        assert data.command("gc", "tiny") == 4
        output = data.printed(capsys, "gc", code=4)
    assert "a night" in output["left_alone"][0] and stray.exists()
    assert data.printed(capsys, "gc")["bytes"] == 1 and not stray.exists()
    assert data.command("gc", "tinny") == 2 and "did you mean" in capsys.readouterr().err
