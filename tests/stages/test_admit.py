"""The input's audit: a source that shrank, aged or comes from the future stops the night before anything is trained."""

import datetime as dt
import shutil
from pathlib import Path

import polars as pl
import pytest

from pipeline.config.run import Run
from pipeline.core import paths
from pipeline.core.errors import Refused
from pipeline.core.stage_call import StageCall, StageName
from pipeline.schemas import tables
from pipeline.sources import incremental
from pipeline.stages import admit
from pipeline.stages.ingest import LAYER
from pipeline.storage import journal, lake, warehouse
from tests.support.nights import ask
from tests.support.stage_runs import make_run, raw
from tests.support.tastes import last_record, one_night, record, write_log

START = dt.datetime(2026, 1, 20)
TIMED = {"columns": {"timestamp": "timestamp"}}


def rows(n: int, day: float = 18) -> pl.DataFrame:
    return raw(*((f"u{place % 7}", f"i{place}", None, day) for place in range(n)))


def untimed(n: int) -> pl.DataFrame:
    return rows(n).with_columns(timestamp=pl.lit(None, tables.TIME))


def night(home, run_id: str, frame: pl.DataFrame, outcome: str | None = "published", **tree) -> tuple[Run, str]:
    """A night that begins on day 19, admits these rows and ends so; its outcome, or why it was refused."""
    tree = {"dataset": {**TIMED, **tree.pop("dataset", {})}, **tree}
    run = make_run(home / "unused" / run_id, home, **tree)  # for its settings
    run = run.model_copy(update={"run_id": run_id, "home_root": home, "started_at": START})
    journal.open_run(run)

    def write(at: Path) -> lake.StageResult:
        frame.write_parquet(at / "interactions.parquet")
        return lake.StageResult(rows_in=frame.height, rows_out=frame.height)

    folder = lake.build(run, lake.Spec(StageCall(StageName.INGEST), "1_raw", 1, {"of": run_id}), write)
    try:
        assert admit.admit_source(run, folder) == folder
    except Refused as reason:
        journal.close_run(run, "refused", str(reason), reason.ids)
        return run, str(reason)
    if outcome:
        journal.close_run(run, outcome)
    return run, "admitted"


def failed(run: Run) -> list[str]:
    checks = journal.read(run.home, run.dataset, tables.CHECKS, run.run_id)
    assert set(checks["check_name"]) == {path.stem for path in (paths.SQL / "checks" / "input").glob("*.sql")}
    return sorted(checks.filter(~pl.col("passed"))["check_name"])


def test_the_first_night_has_nothing_to_compare_with(tmp_path):
    run, output = night(tmp_path, "r1", rows(100))
    assert output == "admitted" and failed(run) == []


@pytest.mark.parametrize(("n", "refused"), [(101, False), (100, True), (3, True), (5000, False)])
def test_a_snapshot_of_a_tenth_is_refused(tmp_path, n, refused):
    night(tmp_path, "r1", rows(1000))
    run, output = night(tmp_path, "r2", rows(n))
    assert ("volume_kept" in failed(run)) == refused == (output != "admitted")
    assert "volume_usual" in failed(run), "half or twice the usual is worth a warning"
    if refused:
        assert "rows_before 1,000" in output and "checks.max_shrink=1" in output and "r1" in output
        assert night(tmp_path, "r3", rows(n), checks={"max_shrink": 1})[1] == "admitted"
        assert night(tmp_path, "r4", rows(n))[1] == "admitted", "once let pass, it is the new measure"


def test_only_published_nights_of_the_same_mode_are_compared_with(tmp_path):
    night(tmp_path, "r1", rows(1000), outcome="crashed")
    night(tmp_path, "r2", rows(1000), dataset={"source": {"mode": "incremental"}})
    assert night(tmp_path, "r3", rows(10))[1] == "admitted"
    night(tmp_path, "r5", rows(1000))
    assert night(tmp_path, "r4", rows(10))[1] == "admitted", "r5 is later"
    assert "volume_kept" in night(tmp_path, "r6", rows(10))[1]


def test_of_incremental_nights_what_is_added_is_compared(tmp_path):
    mode = {"dataset": {"source": {"mode": "incremental"}}}
    for place, n in enumerate([100, 200, 300, 400]):
        assert failed(night(tmp_path, f"r{place}", rows(n), **mode)[0]) == []
    assert failed(night(tmp_path, "r5", rows(410), **mode)[0]) == ["volume_usual"], "a tenth of a usual night's rows"
    assert failed(night(tmp_path, "r6", rows(500), **mode)[0]) == []


def test_files_that_only_a_refused_incremental_night_read_are_marked(tmp_path):
    mode = {"dataset": {"source": {"mode": "incremental"}}}
    layer = (first := night(tmp_path, "r1", rows(50), **mode)[0]).home.lake(first.dataset) / LAYER
    incremental.write_seen(layer, {"a" * 64: "a.csv"}, {})
    assert night(tmp_path, "r2", rows(50), **mode)[1] == "admitted" and not incremental.read_refused(layer)
    incremental.write_seen(layer, {"a" * 64: "a.csv", "b" * 64: "b.csv"}, {})
    output = night(tmp_path, "r3", rows(60, day=40), **mode)[1]
    assert "nothing_from_the_future" in output and "counts no longer once no file has it" in output
    assert incremental.read_refused(layer) == {"b" * 64: "b.csv"} and incremental.read_seen(layer) == {
        "a" * 64: "a.csv"
    }
    assert "no file has it" not in night(tmp_path, "r4", rows(60, day=40))[1], "a snapshot has no such files"


def test_freshness_warns_and_refuses_only_where_a_bound_is_set(tmp_path):
    assert failed(night(tmp_path, "r1", rows(50, day=1))[0]) == []
    old, output = night(tmp_path, "r2", rows(50, day=-40))
    assert failed(old) == ["fresh"] and output == "admitted"
    assert any("age_days 59" in note for note in journal.notes(old.home, old.dataset, "r2"))
    bound = {"checks": {"max_age_days": 10}}
    assert failed(night(tmp_path, "r3", rows(50, day=11), **bound)[0]) == []
    stale, output = night(tmp_path, "r4", rows(50, day=5), **bound)
    assert failed(stale) == ["fresh_enough"] and "checks.max_age_days" in output


def test_rows_from_the_future_are_refused(tmp_path):
    assert night(tmp_path, "r1", rows(50, day=19.9))[1] == "admitted", "a time zone ahead"
    mixed = pl.concat([rows(50), raw(("early bird", "i1", None, 400))])
    run, output = night(tmp_path, "r2", mixed)
    assert failed(run) == ["nothing_from_the_future"] and "early bird" not in output and "timestamp_unit" in output
    record = journal.read_run(run.home, run.dataset, run.run_id)
    assert journal.ids_of(record) == {"user_id": ["early bird"], "item_id": ["i1"]}, "apart from the prose"
    assert "early bird" not in str(journal.read(run.home, run.dataset, tables.RUNS).rows()), "nor in what is published"
    assert night(tmp_path, "r3", mixed, checks={"max_future_days": 1000})[1] == "admitted"


@pytest.mark.parametrize(
    ("record", "dataset"),
    [
        ((None, "i1", None, 18), {}),
        (("u1", "", None, 18), {}),
        (("u1", "i1", float("nan"), 18), {}),
        (("u1", "i1", None, None), {}),
        (("u1", "i1", None, 18), {"columns": {}}),
    ],
    ids=["no user", "empty item", "nan rating", "no time", "a time nobody asked for"],
)
def test_columns_keep_their_contract(tmp_path, record, dataset):
    planted = rows(3) if dataset == {} else untimed(3)
    user, item, rating, day = record
    bad = raw(("u", "i", rating, day)).with_columns(user_id=pl.lit(user, pl.String), item_id=pl.lit(item, pl.String))
    run, output = night(tmp_path, "r1", pl.concat([planted, bad]), dataset=dataset)
    assert failed(run) == ["columns_filled"] and "1 bad row" in output


def test_a_time_column_that_is_gone_is_reported(tmp_path):
    night(tmp_path, "r1", rows(20))
    run, output = night(tmp_path, "r2", untimed(20), dataset={"columns": {}})
    assert failed(run) == ["columns_kept"] and output == "admitted"


def test_more_rejects_than_usual_are_reported():
    with warehouse.connect() as con:
        for name in ("tonight", "earlier_nights"):
            con.execute(tables.INPUTS.ddl.split(";")[0].replace("TABLE inputs", f"TABLE {name}"))
        query = warehouse.read_sql(paths.SQL / "checks" / "input" / "rejects_usual.sql")
        con.execute("insert into earlier_nights values ('r1', 'snapshot', 990, 10, null, false, false)")
        con.execute("insert into tonight values ('r2', 'snapshot', 970, 30, null, false, false)")
        assert con.sql(query).fetchall() == []
        con.execute("update tonight set rows = 960, rejected = 40")
        assert con.sql(query).fetchall() == [(40, 0.04, 0.01)]
        con.execute("delete from earlier_nights")
        assert con.sql(query).fetchall() == []


def test_a_night_on_a_tenth_of_the_data_leaves_the_tables_as_they_were(tmp_path):
    n = write_log(tmp_path / "data", n_users=60)
    first = one_night(tmp_path)
    before = ask(first, "select * from recommendations order by user_id, rank")
    log = tmp_path / "data" / "log.csv"
    shutil.copy(log, tmp_path / "whole.csv")
    log.write_text("\n".join([*log.read_text().splitlines()[: n // 12 + 1], ""]))
    with pytest.raises(Refused, match="volume_kept"):
        one_night(tmp_path)
    night = last_record(tmp_path)
    assert night["outcome"] == "refused" and "the source is not fit for a night" in night["reason"]
    stages = journal.read(first.home, first.dataset, tables.STAGES, night["run_id"])["stage"].to_list()
    assert stages == ["ingest", "admit", "report"], "nothing was trained"
    assert ask(first, "select * from recommendations order by user_id, rank").equals(before)

    log.write_text("user,item,timestamp\n")
    with pytest.raises(Refused, match="no data lines"):
        one_night(tmp_path)
    shutil.copy(tmp_path / "whole.csv", log)
    again = one_night(tmp_path)
    assert record(again)["logical_hash"] == record(first)["logical_hash"]
    refused = ask(again, "select run_id, check_name from checks where severity = 'error' and not passed")
    assert refused.rows() == [(night["run_id"], "volume_kept")], "refused nights' checks are published later"


def test_activity_that_was_never_seen_is_a_warning(tmp_path):
    """It needs five published nights; a refused one does not count."""
    for number in range(4):
        night(tmp_path, f"r{number}", rows(70))
    night(tmp_path, "r4", rows(70), outcome="refused")
    run, said = night(tmp_path, "r5", rows(130))
    assert said == "admitted" and "drift_usual" not in failed(run)
    run, said = night(tmp_path, "r6", rows(300))
    assert said == "admitted" and "drift_usual" in failed(run)
    (note,) = (note for note in journal.notes(run.home, run.dataset, run.run_id) if "drift_usual" in note)
    assert "measure rows_per_user, value 42.86" in note
    found = journal.read(run.home, run.dataset, tables.DRIFT, run.run_id)
    assert found.filter("unusual")["measure"].to_list() == ["rows_per_user"] and found["nights"].to_list() == [5] * 3
