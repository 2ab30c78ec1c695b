"""Going back: the whole old night at once, on record, and the nights after it publish as ever."""

import subprocess
import sys

import pytest

from pipeline.core.fault_injection import Planted, planted
from pipeline.maintenance.rollback import roll_back
from pipeline.storage import journal, operation_log
from pipeline.storage.lock import lock
from tests.support.published_nights import Dataset, without_mlflow

READER = """
import sys, time
from pathlib import Path
from pipeline.storage import warehouse

live, until = Path(sys.argv[1]), Path(sys.argv[2])
answers = 0
print("ready", flush=True)
while not until.exists():
    with warehouse.connect(live, read_only=True) as con:
        lists = con.sql("select distinct run_id from recommendations").fetchall()
        newest = con.sql("select max(run_id) from runs where outcome = 'published'").fetchall()
    assert lists == newest, (lists, newest)
    answers += 1
print(answers)
"""


def test_back_and_on_again(four_nights, capsys):
    data, (_, *nights) = four_nights
    output = data.printed(capsys, "rollback", "tiny")
    assert (output["from"], output["to"]) == (nights[2], nights[1]) and output["by"] and output["at"]
    assert data.live_night() == nights[1]
    assert operation_log.read(data.home, "tiny", "rollback")[0]["from"] == nights[2]

    status = data.printed(capsys, "status", "tiny")
    assert status["live"] == nights[1] and status["rolled_back"]["by"] == output["by"]
    assert status["rollback_target"] == nights[0] and status["healthy"]
    assert data.command("status", "tiny") == 0 and f"from {nights[2]}" in capsys.readouterr().out
    listed = data.printed(capsys, "runs", "tiny")
    assert [(night["run_id"], night["tables"]) for night in listed] == [
        (nights[2], "kept"), (nights[1], "live"), (nights[0], "kept"), (listed[3]["run_id"], "kept"),
    ]  # fmt: skip
    assert listed[0]["figure"] == "ndcg@10" and 0 <= listed[0]["value"] <= 1
    assert len(data.printed(capsys, "runs", "tiny", "-n", "2")) == 2

    later = data.night("seed=4")
    assert data.live_night() == later
    after = data.printed(capsys, "status", "tiny")
    assert after["rolled_back"] is None
    assert after["rollback_target"] == nights[1], "the night that was rolled back from is no way back"
    assert data.command("rollback", "tiny", "--to", nights[2]) == 0 and data.live_night() == nights[2]
    assert data.command("rollback", "tiny", "--to", later) == 0 and data.live_night() == later
    assert data.printed(capsys, "status", "tiny")["rolled_back"] is None


def test_what_can_not_be_gone_back_to(tmp_path, capsys, monkeypatch):
    without_mlflow(monkeypatch)
    data = Dataset(tmp_path)
    data.write()
    assert data.command("rollback", "tiny") == 2 and "nothing is published for 'tiny'" in capsys.readouterr().err
    only = data.night()
    assert data.command("rollback", "tiny") == 3 and "no generation of tiny older" in capsys.readouterr().err
    assert data.command("rollback", "tiny", "--to", only) == 3 and "is live already" in capsys.readouterr().err
    assert data.command("rollback", "tiny", "--to", only[:-1]) == 2
    assert f"did you mean '{only}'" in capsys.readouterr().err
    second = data.night("seed=2")
    broken = data.home.generation("tiny", only)
    broken.chmod(0o640)
    broken.write_bytes(b"no database")
    assert data.command("rollback", "tiny") == 3 and "can't be read" in capsys.readouterr().err
    assert data.live_night() == second and not operation_log.read(data.home, "tiny")
    with lock(data.home, "tiny", "some night"):
        assert data.command("rollback", "tiny") == 4
    assert "another night of tiny is running: run some night" in capsys.readouterr().err


def test_a_night_that_was_killed_is_closed_before_the_tables_move(four_nights):
    data, (_, _, first, second) = four_nights
    at = data.home.journal("tiny") / second
    journal._update(at, {"outcome": "running"})  # killed between going live and closing
    assert data.command("rollback", "tiny") == 0
    assert data.live_night() == first
    assert journal.read_run(data.home, "tiny", second)["outcome"] == "published"


def test_readers_see_whole_nights_while_it_goes_back_and_forth(four_nights, tmp_path):
    data, nights = four_nights
    home, stop = data.home, tmp_path / "stop"
    command = [sys.executable, "-c", READER, str(home.live("tiny")), str(stop)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [reader.stdout.readline() for reader in readers if reader.stdout] == ["ready\n"] * 2
        for turn in range(16):
            roll_back(home, "tiny", nights[turn % 2])
    finally:
        stop.touch()
        output = [reader.communicate(timeout=60) for reader in readers]
    assert all(reader.returncode == 0 for reader in readers), output
    assert all(int(answers) > 0 for answers, _ in output)


def test_a_generation_that_never_went_live_is_no_way_back(four_nights, capsys):
    data, nights = four_nights
    with planted("publish:before_replace:error"), pytest.raises(Planted):
        data.night("seed=5")
    (never_live,) = set(journal.run_ids(data.home, "tiny")) - set(nights)
    left = data.home.generation("tiny", never_live)
    assert left.exists() and data.live_night() == nights[3]
    assert data.printed(capsys, "status", "tiny", code=3)["rolled_back"] is None, "the newer generation never was live"
    assert data.command("rollback", "tiny", "--to", never_live) == 2
    assert "there is no generation" in capsys.readouterr().err and data.live_night() == nights[3]
    later = data.night("seed=6")
    assert data.printed(capsys, "status", "tiny")["rollback_target"] == nights[3]
    assert data.live_night() == later and not left.exists()
