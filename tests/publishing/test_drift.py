"""Drift: how the data differs from the live tables, what is usual for it, and what becomes of the table later."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.publishing import drift
from pipeline.publishing.drift import FEWEST, MEASURES
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse
from tests.support.nights import ask
from tests.support.published_nights import SECRET
from tests.support.tastes import last_record, one_night, write_log

DAY = dt.datetime(2026, 1, 1)


def measured(rows: list[tuple], users: list[str], items: list[str], before: int | None) -> dict[str, float]:
    """3_drift of rows (user, item, rating, days) against live users, items and their number of rows."""
    with warehouse.connect() as con:
        con.execute("create table source_rows (user_id varchar, item_id varchar, rating double, timestamp timestamp)")
        con.execute("create table before_users (user_id varchar)")
        con.execute("create table before_items (item_id varchar)")
        con.execute("create table before_rows (rows bigint)")
        for user, item, rating, days in rows:
            time = None if days is None else DAY + dt.timedelta(days=days)
            con.execute(
                "insert into source_rows values ($u, $i, $r, $t)", {"u": user, "i": item, "r": rating, "t": time}
            )
        con.execute("create view source_items as select item_id, count(*) as rows from source_rows group by item_id")
        for table, ids in (("before_users", users), ("before_items", items)):
            con.execute(f"insert into {table} select unnest($ids)", {"ids": ids}) if ids else None
        if before is not None:
            con.execute("insert into before_rows values ($n)", {"n": before})
        found = warehouse.run_sql(con, "3_drift")
        assert found is not None
        return dict(found.pl().iter_rows())


def test_by_hand():
    rows = [("a", "x", 1.0, 0), ("a", "y", 2.0, 9), ("b", "x", 3.0, 1), ("c", "x", 4.0, 2.5)]
    assert measured(rows, ["a", "b", "gone", "away"], ["x", "old"], 8) == pytest.approx(
        {
            "rows_change": -0.5,
            "users_new": 1 / 3,
            "users_lost": 1 / 2,
            "users_active": 2 / 3,  # a, and c by half a day
            "items_new": 1 / 2,
            "items_lost": 1 / 2,
            "items_top_share": 3 / 4,
            "rows_per_user": 4 / 3,
            "rating_mean": 2.5,
        }
    )
    assert set(measured(rows, [], [], None)) == set(MEASURES) - {
        "rows_change", "users_new", "users_lost", "items_new", "items_lost",
    }  # fmt: skip
    plain = measured([("a", "x", None, None)], ["a"], ["x"], 1)
    assert plain["users_new"] == plain["users_lost"] == plain["rows_change"] == 0
    assert not {"rating_mean", "users_active"} & set(plain)
    assert measured([], ["a"], ["x"], 1).get("users_lost") == 1.0, "all are gone"


def against(value: float, earlier: list[float], measure: str = "users_new") -> dict:
    rows = [
        {"run_id": f"r{n}", "measure": measure, "value": v, "compared_with": None, "usual_low": None,
         "usual_high": None, "nights": 0, "unusual": False}
        for n, v in enumerate(earlier)
    ]  # fmt: skip
    past = pl.DataFrame(rows, schema=tables.DRIFT.schema, orient="row")
    now = pl.DataFrame({"measure": [measure], "value": [value]})
    return drift.compare(now, past).row(0, named=True)


@given(st.lists(st.floats(0, 1), max_size=FEWEST - 1), st.floats(-1e6, 1e6))
def test_too_few_nights_make_nothing_unusual(earlier: list[float], value: float):
    found = against(value, earlier)
    assert (found["unusual"], found["usual_low"], found["nights"]) == (False, None, len(earlier))


@pytest.mark.long
@given(st.lists(st.floats(0, 1e4), min_size=FEWEST, max_size=12), st.floats(0, 1))
def test_what_was_there_before_is_usual_and_what_is_far_away_is_not(earlier: list[float], place: float):
    low, high = min(earlier), max(earlier)
    for value in (low, high, low + place * (high - low)):
        assert not against(value, earlier, "rows_per_user")["unusual"]
    for value in (high + (high - low) + 0.1 * max(high, 1), low - (high - low) - 0.1 * max(high, 1)):
        assert against(value, earlier, "rows_per_user")["unusual"]


def test_a_steady_trend_is_usual_and_a_share_has_no_negative_range():
    trend = list(np.linspace(1, 2, 6))
    assert not against(trend[-1] + 0.2, trend, "rows_per_user")["unusual"]
    found = against(0.0, [0.0, 0.02, 0.01, 0.0, 0.03])
    assert found["usual_low"] == 0 and not found["unusual"]
    assert against(0.2, [0.0] * 5)["unusual"] and not against(0.005, [0.0] * 5)["unusual"]


def test_new_users_beyond_the_bound_stop_the_night_before_anything_is_trained(tmp_path):
    write_log(tmp_path / "data", n_users=60)
    first = one_night(tmp_path)
    assert ask(first, "from drift")["compared_with"].null_count() == 3, "nothing was live"
    text = (tmp_path / "data" / "log.csv").read_text()
    (tmp_path / "data" / "log.csv").write_text(text.replace("\nu00", "\nnew"))
    with pytest.raises(Refused, match=r"drift_bound: 2 bad rows, e\.g\. measure users_"):
        one_night(tmp_path, "[models.ease]\n[checks]\nmax_new_users = 0.1\nmax_lost_users = 0.1\n")
    night = last_record(tmp_path)
    rows = journal.read(first.home, first.dataset, tables.DRIFT, night["run_id"])
    of = dict(rows.select("measure", "value").iter_rows())
    assert of["users_new"] == of["users_lost"] == pytest.approx(10 / 60) and of["items_new"] == of["rows_change"] == 0
    assert set(rows["compared_with"]) == {first.run_id}
    stages = journal.read(first.home, first.dataset, tables.STAGES, night["run_id"])["stage"].to_list()
    assert stages == ["ingest", "admit", "report"]


def test_rollback_gc_and_forget_reach_the_table(four_nights):
    """It has numbers only: a rollback shows it as it was, gc and forget leave it."""
    data, nights = four_nights
    of_all = data.ask("select * from drift order by all")
    assert of_all["run_id"].unique().sort().to_list() == nights
    assert of_all.filter(pl.col("run_id") > nights[0])["compared_with"].to_list()[0] == nights[0]
    assert of_all.filter(measure="users_new")["value"].to_list() == [0.0] * 3
    assert data.command("rollback", "tiny") == 0
    assert data.ask("select * from drift order by all").equals(of_all.filter(pl.col("run_id") < nights[3]))
    assert data.command("rollback", "tiny", "--to", nights[3]) == 0
    assert data.command("gc", "tiny", "--keep-generations", "1", "--keep-lake-nights", "1") == 0
    assert data.ask("select * from drift order by all").equals(of_all)
    assert data.command("forget", "tiny", SECRET) == 0
    assert data.ask("select * from drift order by all").equals(of_all)
    assert journal.read(data.home, "tiny", tables.DRIFT).height == of_all.height
