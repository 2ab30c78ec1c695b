"""Backtests: many nights as of their dates, which go on after a kill and are what single replays are."""

import contextlib
import io
import json
import math
from collections import defaultdict
from pathlib import Path

import pytest

from flows import backtest as line
from flows.cli import backtest as command
from pipeline.core.errors import SettingsError
from pipeline.evaluation.until_next_night import POPULAR, PUBLISHED
from pipeline.schemas.backtest_tables import BACKTEST
from pipeline.storage import journal
from tests.support.published_nights import DAY, RECIPE, SECRET, START, Dataset

RANGE = ("--from", "2023-11-20", "--to", "2023-11-22")
"""Days 6 to 8 of 20."""
GATED = RECIPE.replace("enabled = false", "enabled = true") + "[models.popularity]\n"
METRIC, CUTOFF = "ndcg", 10


def words(data: Dataset, *more: str) -> list[str]:
    return ["replay", str(data.folder / "tiny.toml"), "--recipe", str(data.folder / "gated.toml"),
            "--set", "threads=1", *more]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Three nights, killed in the second and called again: the data set, the answer, and the nights of each call."""
    data = Dataset(tmp_path_factory.mktemp("backtest"))
    (data.folder / "gated.toml").write_text(GATED)
    data.write("a.csv")
    data.write("b.csv", first_day=10)
    begun: list[list[str]] = [[], []]
    conduct = line.conduct

    def counted(run, step):
        begun[-1 if len(begun[0]) == 2 else 0].append(run.run_id)
        return conduct(run, interrupted(step) if len(begun[0]) == 2 and not begun[1] else step)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT"):
            patch.delenv(name, raising=False)
        patch.setattr(line, "conduct", counted)
        assert data.command(*words(data, *RANGE)) == 130
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert data.command(*words(data, *RANGE, "--json")) == 0
    return data, json.loads(printed.getvalue()), begun


def interrupted(step):
    def stop_before_publish(call, stage, *args):
        if call.title == "publish":
            raise KeyboardInterrupt
        return step(call, stage, *args)

    return stop_before_publish


def test_a_killed_backtest_goes_on_where_it_was(done):
    data, answer, (first, second) = done
    nights = [night["run_id"] for night in answer["nights"]]
    assert first == nights[:2] and second == nights[1:], "the second was killed, so it is run again, and no other"
    assert [night["outcome"] for night in answer["nights"]] == ["published"] * 3
    rest = [path.name for path in data.home.replays("tiny").iterdir()]
    named = "2023-11-20_2023-11-22-1d-gated"
    assert sorted(rest) == [".2023-11-20-1d-gated", f"{named}.duckdb", f"{named}.html"]
    assert not any((data.home.replays("tiny") / rest[rest.index(".2023-11-20-1d-gated")]).glob("warehouse/lake/*/*"))
    assert not data.home.live("tiny").exists() and journal.run_ids(data.home, "tiny") == []


def test_a_later_end_goes_on_and_gives_what_a_new_backtest_gives(done, capsys):
    data, _, _ = done
    later = words(data, *RANGE[:3], "2023-11-23")
    begun, conduct = list[str](), line.conduct

    def counted(run, step):
        begun.append(run.run_id)
        return conduct(run, step)

    def stop(test):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line, "conduct", counted)
        longer = data.printed(capsys, *later)
        assert begun == [night["run_id"] for night in longer["nights"]][3:], "one night is new"
        with pytest.MonkeyPatch.context() as interrupted:
            interrupted.setattr(line, "read_source", stop)
            assert data.command(*words(data, *RANGE)) == 130  # an earlier end: nothing that is there is of use
        begun.clear()
        assert data.printed(capsys, *later) == longer and len(begun) == 4


def test_its_tables(done):
    data, answer, _ = done
    file = Path(answer["tables"])
    for table in BACKTEST:
        frame = data.ask(f"from {table.name}", file)
        assert table.check(frame.cast(dict(table.schema))).height, table.name  # type: ignore[arg-type]
        comment = data.ask(f"select comment from duckdb_tables() where table_name = '{table.name}'", file)
        assert comment["comment"].item() == table.doc
    nights = data.ask("from backtest_nights order by as_of", file)
    assert nights["decision"].to_list()[0] == "first" and set(nights["decision"][1:]) <= {"kept", "replaced", "floor"}
    assert nights["rows"].to_list() == [21 * day for day in (6, 7, 8)]
    found = data.ask("select horizon_days, count(distinct run_id) as n from realised group by all order by all", file)
    assert found.rows() == [(1, 3), (7, 3)], "as far as the data reach: 20 days"
    assert data.ask("from quality_over_nights where realised_1 is not null", file)["run_id"].n_unique() == 3
    page = Path(answer["report"]).read_text()
    assert answer["best"] in page and "What each gate decided" in page and SECRET not in page


def test_every_night_is_the_replay_of_its_date(done, capsys):
    """The lists that the backtest compares are those of a single replay, measured by hand on the day after."""
    data, answer, _ = done
    night = answer["nights"][1]
    alone = data.printed(capsys, *words(data, "--as-of", "2023-11-21"))
    file = Path(alone["tables"])
    values = data.ask(f"from backtest_values where run_id = '{night['run_id']}'", Path(answer["tables"]))
    value = dict(values.select("model", "value").iter_rows())
    assert set(value) == {PUBLISHED, POPULAR, "mf", "popularity"} and value[night["champion"]] == value[PUBLISHED]
    lists = data.ask("select user_id, item_id, rank from recommendations", file)
    ranks = {(user, item): rank for user, item, rank in lists.iter_rows()}
    rows = [text.split(",") for name in ("a.csv", "b.csv") for text in (data.folder / name).read_text().split()[1:]]
    known, new = defaultdict(set), defaultdict(set)
    for user, item, _, at in rows:
        day = (int(at) - START) // DAY
        (known if day < 7 else new if day == 7 else defaultdict(set))[user].add(item)
    gains = []
    for user, items in new.items():
        if items - known[user]:
            hits = [ranks.get((user, item), math.inf) for item in items - known[user]]
            ideal = sum(1 / math.log2(n + 2) for n in range(min(len(hits), CUTOFF)))
            gains.append(sum(1 / math.log2(rank + 1) for rank in hits if rank <= CUTOFF) / ideal)
    assert alone["champion"] == night["champion"] and gains
    assert value[PUBLISHED] == pytest.approx(sum(gains) / len(gains)) and values["n"].to_list() == [len(gains)] * 4
    ledger = "select reason, rows from row_ledger where stage = 'ingest' and run_id = '{}' order by all"
    of_both = [
        data.ask(ledger.format(of["run_id"]), Path(of["tables"]))
        for of in (alone, {**night, **{"tables": answer["tables"]}})
    ]
    assert of_both[0].equals(of_both[1])
    # the same keys, so the source that was cut is the source that was read up to the date
    hashes = [data.ask(f"select data_hash, logical_hash from runs where run_id = '{run_id}'", Path(tables)).row(0)
              for run_id, tables in ((alone["run_id"], alone["tables"]), (night["run_id"], answer["tables"]))]  # fmt: skip
    assert hashes[0] == hashes[1]


def test_forget_reaches_its_tables(done):
    data, answer, _ = done
    file = Path(answer["tables"])
    before = data.ask("from backtest_models", file)
    assert data.ask(f"from users where user_id = '{SECRET}'", file).height
    assert data.command("forget", "tiny", SECRET) == 0
    assert not data.ask(f"from users where user_id = '{SECRET}'", file).height
    assert data.ask("from backtest_models", file).equals(before), "sums over users stay"


def test_what_a_later_end_needs_is_said():
    assert "all of its files" in command.later_end("incremental")
    assert "files" not in command.later_end("snapshot")


def test_what_can_not_be_backtested(done, tmp_path, capsys):
    data = done[0]

    def refused(*more: str) -> str:
        assert data.command(*words(data, *more)) == 2
        return capsys.readouterr().err

    assert "give one or the other" in refused("--as-of", "2023-11-21", "--to", "2023-11-23")
    assert "which night" in refused("--from", "2023-11-21") and "which night" in refused()
    assert "--to 'soon' is not a date" in refused("--from", "2023-11-21", "--to", "soon")
    assert "less than two nights" in refused("--from", "2023-11-21", "--to", "2023-11-21")
    assert "--from is outside the data" in refused("--from", "2022-01-01", "--to", "2023-11-21")
    assert "--to is outside the data" in refused("--from", "2023-11-21", "--to", "2024-01-01")
    untimed = tmp_path / "untimed.toml"
    untimed.write_text('name = "untimed"\n[source]\nfiles = ["a.csv"]\n')
    assert data.command("replay", str(untimed), "--data", str(data.folder), *RANGE) == 2
    assert "untimed has no times" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="12h, 1d or 1w"):
        command.interval("1 day")
    assert command.interval("36h").total_seconds() == 1.5 * DAY
