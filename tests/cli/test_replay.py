"""A night as it would have been: repeatable, and out of reach of everything that is live."""

import hashlib
import re
from pathlib import Path

import polars as pl
import pytest

from flows.cli import replay
from flows.step import plainly
from pipeline.core.errors import SettingsError
from pipeline.core.stage_call import StageCall, StageName
from pipeline.storage import forgotten_users, journal, operation_log
from tests.support.published_nights import SECRET, Dataset, without_mlflow

AS_OF = "2023-11-20"  # six of the ten days are before


def replayed(data: Dataset, capsys, *words: str) -> dict:
    recipe = str(data.folder / "cheap.toml")
    what = ("replay", str(data.folder / "tiny.toml"), "--recipe", recipe, "--set", "threads=1")
    return data.printed(capsys, *what, *(words or ("--as-of", AS_OF)))


def state(home: Path) -> dict[str, str]:
    """Content of every file that the real nights own; operations are on record."""
    parts = [home / "warehouse" / name for name in ("tiny.duckdb", "generations", "journal", "lake")] + [
        home / "mlflow"
    ]
    files = [f for part in parts for f in ([part] if part.is_file() else part.rglob("*")) if f.is_file()]
    kept = [f for f in files if f.name not in ("operations.jsonl", "tiny.lock")]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in kept}


def test_the_same_replay_twice_is_the_same_night_and_touches_nothing(four_nights, capsys):
    data, _ = four_nights
    before = state(data.home_root)
    one, two = replayed(data, capsys), replayed(data, capsys)
    assert state(data.home_root) == before
    assert one["logical_hash"] == two["logical_hash"] and one["run_id"] != two["run_id"]
    assert one["tables"] == two["tables"] and Path(one["tables"]).name == f"{AS_OF}-cheap.duckdb"
    assert [path.name for path in data.home.replays("tiny").iterdir()] == [f"{AS_OF}-cheap.duckdb"], "no other rest"
    summary = data.ask("select rows, last_timestamp from interactions_summary", Path(two["tables"]))
    assert summary["rows"].item() == 6 * 21 and str(summary["last_timestamp"].item()) < AS_OF
    ledger = data.ask("select reason, rows from row_ledger where stage = 'ingest'", Path(two["tables"]))
    assert dict(ledger.rows()) == {"kept": 6 * 21, "after_as_of": 4 * 21}
    assert data.ask("select count(distinct run_id) as n from runs", Path(two["tables"]))["n"].item() == 1
    assert [entry["logical_hash"] for entry in operation_log.read(data.home, "tiny", "replay")] == [
        one["logical_hash"]
    ] * 2


def test_a_replay_is_the_night_that_read_only_that_much(four_nights, tmp_path, capsys):
    data, _ = four_nights
    of_then = Dataset(tmp_path / "then")
    of_then.write()
    source = of_then.folder / "a.csv"
    lines = source.read_text().splitlines()
    early = [text for text in lines[1:] if int(text.rsplit(",", 1)[1]) < 1_700_438_400]  # AS_OF, in seconds
    source.write_text("\n".join([lines[0], *early, ""]))
    of_then.night()
    then, now = of_then.home.live("tiny"), Path(replayed(data, capsys)["tables"])
    for table in ("recommendations", "users", "items", "popular_items", "user_vectors", "metrics", "similar_items"):
        frames = [data.ask(f"from {table}", path) for path in (then, now)]
        frames = [
            frame.drop([n for n in ("run_id", "generated_at", "list_id") if n in frame.columns]) for frame in frames
        ]
        first, second = (frame.sort([c for c in frame.columns if frame[c].dtype != pl.List]) for frame in frames)
        assert first.equals(second), table


def test_files_of_earlier_nights_that_are_gone_take_part(tmp_path, monkeypatch, capsys):
    without_mlflow(monkeypatch)
    data = Dataset(tmp_path / "data", "incremental")
    for day in (0, 10):
        data.write(f"{day:02d}.csv", first_day=day)
        data.night()
        (data.folder / f"{day:02d}.csv").unlink()
    before = state(data.home_root)
    output = replayed(data, capsys, "--as-of", "2023-11-29T00:00:00")
    assert state(data.home_root) == before
    assert data.ask("select rows from interactions_summary", Path(output["tables"]))["rows"].item() == 15 * 21


def test_a_killed_replay_goes_on_and_ends_the_same(four_nights, monkeypatch, capsys):
    data, _ = four_nights
    whole = replayed(data, capsys)["logical_hash"]
    conduct = replay.conduct
    words = ("replay", str(data.folder / "tiny.toml"), "--recipe", str(data.folder / "cheap.toml"), "--as-of", AS_OF)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "conduct", lambda run: conduct(run, interrupted(plainly)))
        assert data.command(*words) == 130
    (work,) = data.home.replays("tiny").glob(".*")
    capsys.readouterr()
    assert data.command(*words) == 0
    assert re.search(r"train mf +[0-9]+ rows +there already", capsys.readouterr().err)
    assert not work.exists()
    hashes = [entry["logical_hash"] for entry in operation_log.read(data.home, "tiny", "replay")]
    assert hashes == [whole, whole]


def interrupted(step):
    def stop_after_train(call, stage, *args):
        made = step(call, stage, *args)
        if call == StageCall(StageName.TRAIN, "mf"):
            raise KeyboardInterrupt
        return made

    return stop_after_train


def test_forgotten_users_are_in_no_replay_not_even_one_that_runs(four_nights, monkeypatch, capsys):
    data, _ = four_nights
    path = Path(replayed(data, capsys)["tables"])
    assert data.ask(f"select 1 from users where user_id = '{SECRET}'", path).height
    assert data.command("forget", "tiny", SECRET) == 0
    assert not data.ask(f"select 1 from users where user_id = '{SECRET}'", path).height
    again = replayed(data, capsys)
    assert data.ask("select count(*) as n from users", Path(again["tables"]))["n"].item() == 20

    conduct = replay.conduct

    def meanwhile(run):
        outcome = conduct(run)
        forgotten_users.add(data.home, "tiny", "u01")
        return outcome

    monkeypatch.setattr(replay, "conduct", meanwhile)
    words = ("replay", str(data.folder / "tiny.toml"), "--recipe", str(data.folder / "cheap.toml"))
    assert data.command(*words, "--as-of", "2023-11-21") == 3
    assert "was forgotten while the replay ran" in capsys.readouterr().err
    assert not list(data.home.replays("tiny").glob("*2023-11-21*"))


def test_what_can_not_be_replayed(four_nights, tmp_path, capsys):
    data, _ = four_nights
    words = ("replay", str(data.folder / "tiny.toml"), "--recipe", str(data.folder / "cheap.toml"), "--as-of")
    assert data.command(*words, "yesterday") == 2 and "is not a date" in capsys.readouterr().err
    assert data.command(*words, "1999-01-01") == 3
    assert "no interaction is before 1999-01-01" in capsys.readouterr().err
    untimed = tmp_path / "untimed.toml"
    untimed.write_text('name = "untimed"\n[source]\nfiles = ["a.csv"]\n')
    assert data.command("replay", str(untimed), "--data", str(data.folder), "--as-of", AS_OF) == 2
    assert "untimed has no times" in capsys.readouterr().err
    assert data.live_night() == journal.run_ids(data.home, "tiny")[-1]


def test_moments_are_utc():
    assert str(replay.moment("2026-11-22T03:00:00+01:00")) == "2026-11-22 02:00:00"
    assert str(replay.moment("2026-11-22")) == "2026-11-22 00:00:00"
    with pytest.raises(SettingsError):
        replay.moment("22.11.2026")
