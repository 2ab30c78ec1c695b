"""Clicks on published lists: by hand over two nights, by list and by user and time, with everything that is dropped."""

import datetime as dt
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.dataset import Impressions
from pipeline.config.run import Run
from pipeline.evaluation import impressions
from pipeline.reporting.html.sections_models import clicks
from pipeline.reporting.night import Night
from pipeline.schemas import tables
from pipeline.storage import forgotten_users, journal, state_files, warehouse
from pipeline.storage.generations import kept_generations

MADE = [dt.datetime(2026, 1, 1, 3), dt.datetime(2026, 1, 2, 3)]
NIGHTS = [f"2026010{n}T030000.000Z-aaaa" for n in (1, 2)]


@pytest.fixture
def two_nights(run: Run) -> Run:
    """Two generations with lists of u and v; the third night counts."""
    for night, made in zip(NIGHTS, MADE, strict=True):
        old = run.model_copy(update={"run_id": night})
        journal.open_run(old)
        journal.close_run(old, "published")
        file = run.home.generation(run.dataset, night)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"user_id": user, "rank": rank, "item_id": item, "score": 1.0, "source": source, "model": "m", "run_id": night,
             "generated_at": made, "list_id": f"{user}{night[7]}"}
            for user, items in (("u", "abc"), ("v", "cba"))
            for rank, item in enumerate(items, 1)
            for source in ["explore" if item == "c" else "holdback" if user == "v" else "model"]
        ]  # fmt: skip
        named = pl.DataFrame(rows[:2], schema=tables.RECOMMENDATIONS.schema, orient="row").with_columns(
            list=pl.lit("home"), list_id=pl.lit(f"home{night[7]}")
        )
        with warehouse.connect(file) as con:
            for table in (tables.RECOMMENDATIONS, tables.RECOMMENDATIONS_IN):
                con.execute(table.ddl)
            frame = pl.DataFrame(rows, schema=tables.RECOMMENDATIONS.schema, orient="row")
            warehouse.insert(con, tables.RECOMMENDATIONS.name, frame)
            warehouse.insert(con, tables.RECOMMENDATIONS_IN.name, named.select(list(tables.RECOMMENDATIONS_IN.columns)))
    return run


def counted(run: Run, text: str, **keys: str) -> tuple[dict, dict[str, int]]:
    """(shown, clicked) by night's day, list, source and place; and the ledger."""
    run.data.mkdir(parents=True, exist_ok=True)
    (run.data / "shown.csv").write_text(text)
    of = Impressions.model_validate({"files": ["shown.csv"], **keys})
    dataset = run.settings.dataset.model_copy(update={"impressions": of})
    run = run.model_copy(update={"settings": run.settings.model_copy(update={"dataset": dataset})})
    rows = impressions.measure(run)
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER, run.run_id).filter(stage="impressions")
    found = {
        (int(r["run_id"][7]), r["list"], r["source"], r["place"]): (r["shown"], r["clicked"]) for r in rows.to_dicts()
    }
    assert tables.REALISED_CLICKS.check(rows).height == len(found)
    assert not (run.home.lake(run.dataset) / "1_raw" / ".scratch-impressions").exists()
    return found, dict(ledger.select("reason", "rows").iter_rows())


BY_LIST = """list,item_id,clicked,visible
u1,a,1,1
u1,a,0,1
u1,b,0,1
v1,c,1,1
v2,b,2,1
home2,a,1,1
u1,z,1,1
foreign,a,1,1
u2,a,0,0
u2,a,maybe,1
,a,1,1
"""


def test_by_list_every_row_is_counted_or_dropped_with_its_reason(two_nights: Run):
    found, ledger = counted(two_nights, BY_LIST, list_id="list", shown_if="visible = 1")
    assert found[1, "", "all", 0] == (4, 2) and found[1, "", "all", 1] == (3, 2)
    assert found[1, "", "model", 1] == (2, 1) and found[1, "", "explore", 1] == (1, 1)
    assert found[1, "", "model", 0] == (3, 1) and found[2, "", "holdback", 2] == (1, 1)
    assert found[2, "home", "all", 0] == (1, 1) and (2, "home", "all", 2) not in found
    assert ledger == {"kept": 6, "unknown_list": 2, "not_in_list": 1, "not_shown": 1, "rating_not_a_number": 1}
    assert sum(ledger.values()) == len(BY_LIST.splitlines()) - 1
    (note,) = (n for n in journal.notes(two_nights.home, two_nights.dataset, two_nights.run_id) if "impressions" in n)
    assert "6 of 11 rows count" in note and "unknown_list 2" in note
    (shown,) = clicks(Night(two_nights.home, two_nights.dataset, two_nights.run_id))
    (points,) = shown["spec"]["datasets"].values()
    assert [(p["place"], p["source"], p["shown"], p["clicked"]) for p in points] == [
        (1, "explore", 1, 1), (1, "model", 2, 1), (2, "holdback", 1, 1), (2, "model", 1, 0)
    ]  # fmt: skip
    assert shown["more"] == "3 of 5 shown items were clicked."


BY_USER = """who,at,item_id,clicked
u,2026-01-01 02:59:59,a,1
u,2026-01-01 03:00:00,a,1
u,2026-01-02 02:59:59,b,0
u,2026-01-02 03:00:00,b,1
v,2026-01-05 00:00:00,c,0
nobody,2026-01-05 00:00:00,c,0
"""


def test_by_user_and_time_the_list_of_that_time_counts(two_nights: Run):
    keys = {"user": "who", "timestamp": "at", "timestamp_unit": "iso"}
    found, ledger = counted(two_nights, BY_USER, **keys)
    assert found[1, "", "all", 0] == (2, 1) and found[2, "", "all", 0] == (2, 1)
    assert found[2, "", "model", 2] == (1, 1) and found[2, "", "explore", 1] == (1, 0)
    assert ledger == {"kept": 4, "unknown_list": 2}
    forgotten_users.add(two_nights.home, two_nights.dataset, "u")
    again = two_nights.model_copy(update={"run_id": "20260104T030000.000Z-aaaa"})
    journal.open_run(again)
    found, ledger = counted(again, BY_USER, **keys)
    assert set(found) == {(2, "", "all", 0), (2, "", "explore", 0), (2, "", "all", 1), (2, "", "explore", 1)}
    assert ledger == {"kept": 1, "unknown_list": 1, "forgotten": 4}
    texts = [path.read_text() for path in journal.folder(again).iterdir() if path.suffix == ".jsonl"]
    assert not any('"v"' in text or "nobody" in text for text in texts), "only counts are kept"


def test_a_damaged_generation_is_noted_and_the_others_count(two_nights: Run):
    two_nights.home.generation(two_nights.dataset, NIGHTS[1]).write_bytes(b"no database")
    found, ledger = counted(two_nights, BY_USER, user="who", timestamp="at", timestamp_unit="iso")
    assert {night for night, *_ in found} == {1} and ledger["kept"]
    notes = journal.notes(two_nights.home, two_nights.dataset, two_nights.run_id)
    assert any(f"generation {NIGHTS[1]} can't be read" in text for text in notes)


def test_after_a_rollback_the_lists_count_that_are_live_again(two_nights: Run):
    text = "who,at,item_id,clicked\n" + "".join(
        f"u,2026-01-0{day} 12:00:00,{item},1\n" for day, item in ((1, "a"), (2, "b"), (4, "a"), (6, "c"))
    )
    records = [
        {"operation": "rollback", "at": "2026-01-03T00:00:00+00:00", "from": NIGHTS[1], "to": NIGHTS[0]},
        {"operation": "rollback", "at": "2026-01-05T02:00:00+02:00", "from": NIGHTS[0], "to": NIGHTS[1]},
    ]
    state_files.append_records(two_nights.home.operations(two_nights.dataset), records)
    found, ledger = counted(two_nights, text, user="who", timestamp="at", timestamp_unit="iso")
    assert {key: n for key, n in found.items() if key[2:] == ("all", 0)} == {
        (1, "", "all", 0): (2, 2), (2, "", "all", 0): (2, 2)
    }  # fmt: skip
    assert found[1, "", "all", 1] == (2, 2) and found[2, "", "all", 3] == (1, 1) and ledger == {"kept": 4}


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from("ABC")), max_size=8))
def test_one_generation_is_live_at_a_time_from_the_first_on(rollbacks: list[tuple[int, str]]):
    start = dt.datetime(2026, 1, 1)
    made = {"A": start, "B": start + dt.timedelta(hours=30), "C": None}
    log = [{"at": (start + dt.timedelta(hours=at)).isoformat(), "to": to} for at, to in sorted(rollbacks)]
    log = [*log, {"at": "when?", "to": "A"}, {"operation": "rollback"}]
    spans = impressions.live_times(made, log)
    for hour in range(100):
        now = start + dt.timedelta(hours=hour, minutes=30)
        before = [(0, "A"), *((30, "B"),) * (hour >= 30), *(one for one in sorted(rollbacks) if one[0] <= hour)]
        (live,) = (run_id for run_id, own in spans.items() if any(a <= now < b for a, b in own))
        latest = max(at for at, _ in before)
        assert live in [run_id for at, run_id in before if at == latest]


def test_a_generation_that_is_gone_ends_the_time_of_the_one_before():
    """After a rollback to an old night, `gc` leaves a gap: what was shown in it was no list that is kept."""
    days = [dt.datetime(2026, 1, day) for day in range(1, 7)]
    made: dict[str, dt.datetime | None] = {"A": days[0], "D": days[3]}
    rollbacks = [{"at": days[4].isoformat(), "to": "A"}]
    spans = impressions.live_times(made, rollbacks, {"B": days[1], "C": days[2]})
    assert spans == {"A": [(days[0], days[1]), (days[4], dt.datetime.max)], "D": [(days[3], days[4])]}


def test_a_night_whose_generation_is_removed_has_its_time_in_the_journal(two_nights: Run):
    kept = kept_generations(two_nights.home, two_nights.dataset)
    assert impressions.published_before(two_nights, kept) == {}
    runs = journal.read(two_nights.home, two_nights.dataset, tables.RUNS).filter(outcome="published")
    (first,) = runs.sort("run_id").head(1).select("run_id", "finished_at").iter_rows()
    assert impressions.published_before(two_nights, [*runs["run_id"]][1:]) == dict([first])


def test_what_can_not_be_read_is_a_warning_and_no_night_fails(two_nights: Run):
    found, ledger = counted(two_nights, "list,clicked\nu1,1\n", list_id="list")
    assert found == {} == ledger
    (note,) = (n for n in journal.notes(two_nights.home, two_nights.dataset, two_nights.run_id) if "impressions" in n)
    assert note.startswith("warning: impressions are not counted") and "item_id" in note
    with pytest.raises(ValueError, match="either by list_id, or by user and timestamp"):
        Impressions(files=["a.csv"], user="who")


@given(clicked=st.integers(0, 50), more=st.integers(0, 50))
def test_wilson(clicked: int, more: int):
    low, high = impressions.wilson(clicked, clicked + more)
    n = clicked + more
    assert 0 <= low <= high <= 1
    if n:
        assert low <= clicked / n <= high
        for end in {low, high} - {0.0, 1.0}:  # the ends are the rates at which the score test just rejects
            assert abs(clicked / n - end) == pytest.approx(impressions.Z * math.sqrt(end * (1 - end) / n), rel=1e-6)
