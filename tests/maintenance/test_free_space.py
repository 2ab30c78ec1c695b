"""`status` looks at the room for the next night: a night that can't start on a full disk leaves no journal."""

import os

import pytest

from pipeline.core.paths import Home
from pipeline.maintenance import free_space
from pipeline.schemas import tables
from pipeline.storage import journal


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What is free on every disk; `bytes` may be changed."""
    there = {"bytes": 10**12}
    monkeypatch.setattr(free_space, "free_bytes", lambda place: there["bytes"])
    return there


def test_status_names_a_full_disk_until_there_is_room(four_nights, free, capsys):
    data, _ = four_nights
    healthy = data.printed(capsys, "status", "tiny")
    assert healthy["healthy"] and not healthy["disk_full"] and healthy["free_bytes"] == free["bytes"]
    free["bytes"] = 0
    answer = data.printed(capsys, "status", "tiny", code=3)
    assert answer["disk_full"] and not answer["healthy"] and answer["last_outcome"] == "published"
    assert any(step.endswith("gc tiny") for step in answer["next"])
    assert data.command("status", "tiny") == 3
    assert "too full for the next night" in capsys.readouterr().out
    free["bytes"] = answer["needed_bytes"] - 1
    assert data.printed(capsys, "status", "tiny", code=3)["problems"] == answer["problems"], "`up` reports it once"
    free["bytes"] = answer["needed_bytes"]
    assert data.command("status", "tiny") == 0


def test_what_a_night_needs_follows_what_it_wrote(four_nights, monkeypatch):
    data, nights = four_nights
    home, last = data.home, nights[-1]
    monkeypatch.setattr(free_space, "LEAST", 0)
    monkeypatch.setattr(free_space, "file_system", lambda place: "ext4")
    stages = journal.read(home, "tiny", tables.STAGES, last)
    assert set(stages["skipped"]) == {True, False}, "a night that made a part and reused another"
    made = free_space.made_bytes(home, "tiny", last)
    everything = sum(file.stat().st_size for file in home.lake("tiny").rglob("*") if file.is_file())
    assert 0 < made < everything, "what it reused does not count"
    size = home.live("tiny").stat().st_size
    assert free_space.room(home, "tiny", last).needed == 2 * size + made
    monkeypatch.setattr(free_space, "file_system", lambda place: "xfs")
    assert free_space.room(home, "tiny", last).needed == size + made, "the copy shares its blocks"


def test_a_night_on_the_same_data_needs_less_of_the_lake(four_nights):
    data, nights = four_nights
    again = data.night("seed=3")
    assert free_space.made_bytes(data.home, "tiny", again) < free_space.made_bytes(data.home, "tiny", nights[-1])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stage": [{}]}', '{"stage": null}'])
def test_a_damaged_result_counts_nothing(four_nights, content):
    data, nights = four_nights
    home, last = data.home, nights[-1]
    before = free_space.made_bytes(home, "tiny", last)
    for manifest in home.lake("tiny").glob("*/*/manifest.json"):
        manifest.write_text(content)
    assert free_space.made_bytes(home, "tiny", last) == 0 < before


def test_disks_count_separately(four_nights, monkeypatch):
    data, nights = four_nights
    monkeypatch.setattr(free_space, "LEAST", 0)
    home, lake = data.home, data.home.lake("tiny")
    real = os.stat(home.warehouse).st_dev
    monkeypatch.setattr(free_space, "disk_of", lambda place: real + (place == lake))
    monkeypatch.setattr(free_space, "free_bytes", lambda place: 10**12 if place != lake else 1)
    found = free_space.room(home, "tiny", nights[-1])
    assert (found.place, found.free) == (lake, 1)
    assert found.needed == free_space.made_bytes(home, "tiny", nights[-1])
    assert str(lake) in (found.trouble or "")


def test_a_home_without_tables_needs_little(tmp_path):
    home = Home(tmp_path / "new")
    found = free_space.room(home, "tiny", None)
    assert (found.needed, found.trouble) == (free_space.LEAST, None)
    assert not home.root.exists()
