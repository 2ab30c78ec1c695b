"""Realised quality: by hand, against brute force, after a change of taste, and over whole nights."""

import datetime as dt
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import outcome
from pipeline.config.dataset import Events
from pipeline.config.run import Run
from pipeline.core import paths
from pipeline.evaluation import realised
from pipeline.evaluation.realised import CONTRAST, DIFFERENCE, HORIZONS, POPULARITY, PUBLISHED, Lists
from pipeline.reporting.html.sections_data import over_nights
from pipeline.reporting.night import Night
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse
from pipeline.tracking import naming
from tests.support.published_nights import SECRET

END = dt.datetime(2026, 1, 10)
Row = tuple[str, str, float]
"""User, item, days after the end of the data."""


def publish(file: Path, lists: dict[str, list[str]], popular: list[str], sources: dict[str, str] | None = None) -> None:
    """Published tables of a night. `sources`: user to the source of each rank, by first letter; others: all model."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    names = {"m": "model", "f": "fallback", "p": "promoted", "h": "holdback"}
    listed = [
        {"user_id": user, "rank": rank, "item_id": item, "score": 1.0, "model": "m", "run_id": "old",
         "source": names[(sources or {}).get(user, "m" * len(items))[rank - 1]], "generated_at": END, "list_id": user}
        for user, items in lists.items() for rank, item in enumerate(items, 1)
    ]  # fmt: skip
    of_all = [
        {"rank": rank, "item_id": item, "score": 1.0, "window_days": 30, "run_id": "old"}
        for rank, item in enumerate(popular, 1)
    ]
    summary = [{"rows": 1, "users": 1, "items": 1, "density": 1.0, "first_timestamp": END, "last_timestamp": END}]
    with warehouse.connect(file) as con:
        for table, records in (
            (tables.RECOMMENDATIONS, listed), (tables.POPULAR_ITEMS, of_all), (tables.INTERACTIONS_SUMMARY, summary)
        ):  # fmt: skip
            con.execute(table.ddl)
            warehouse.insert(con, table.name, pl.DataFrame(records, schema=table.schema, orient="row"))


def measured(
    run: Run,
    rows: list[Row],
    lists: dict[str, list[str]],
    popular: list[str],
    days: int = 7,
    positive: set | None = None,
    sources: dict[str, str] | None = None,
) -> list[dict]:
    """Rows of `realised` for lists of a night whose data ended at END."""
    file = run.home_root / "old.duckdb"
    publish(file, lists, popular, sources)
    source = pl.DataFrame(
        [(user, item, END + dt.timedelta(days=at)) for user, item, at in rows],
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": tables.TIME},
        orient="row",
    )
    kept = source.filter(pl.struct("user_id", "item_id").map_elements(
        lambda of: positive is None or (of["user_id"], of["item_id"]) in positive, return_dtype=pl.Boolean
    )) if positive is not None else source  # fmt: skip
    with warehouse.connect() as con:
        for name, frame in (("source_rows", source), ("positives", kept.select("user_id", "item_id").unique())):
            con.register("_frame", frame.to_arrow())
            con.execute(f"create table {name} as select *, true as masks, true as is_target from _frame")
        return realised.measure(con, run, Lists("old", file, END, days))


def value(records: list[dict], source: str, metric: str = "ndcg", cutoff: int = 5, segment: str = "all") -> float:
    (found,) = (
        r["value"]
        for r in records
        if (r["list_source"], r["metric"], r["cutoff"], r["segment"]) == (source, metric, cutoff, segment)
    )
    return found


def test_by_hand(run: Run):
    lists = {user: ["a", "b", "c", "d", "e"] for user in ("u", "v", "gone")}
    rows: list[Row] = [
        ("u", "b", 1), ("u", "z", 2),  # one of two, at rank 2
        ("v", "a", -3), ("v", "a", 3), ("v", "c", 6.9), ("v", "d", 7.1),  # a is known, d is too late
        ("new", "a", 1), ("u", "y", -1),
    ]  # fmt: skip
    found = measured(run, rows, lists, ["y", "z", "a", "c", "p"])
    ideal = 1 + 1 / math.log2(3)
    assert value(found, PUBLISHED) == pytest.approx((1 / math.log2(3) / ideal + 1 / math.log2(4)) / 2)
    # popularity: of u without y: z, a, c; of v without a: y, z, c
    assert value(found, POPULARITY) == pytest.approx((1 / ideal + 1 / math.log2(4)) / 2)
    assert value(found, DIFFERENCE) == pytest.approx(value(found, PUBLISHED) - value(found, POPULARITY))
    assert value(found, PUBLISHED, "hit_rate") == 1 and value(found, PUBLISHED, "recall") == 0.75
    assert {r["n"] for r in found} == {2} and {r["segment"] for r in found} == {"all", "model"}
    assert {r["run_id"] for r in found} == {"old"} and {r["measured_by"] for r in found} == {run.run_id}
    frame = pl.DataFrame(found, schema=tables.REALISED.schema, orient="row")
    assert tables.REALISED.check(frame).height == len(found)
    only = measured(run, rows, lists, ["y"], positive={("u", "b")})
    assert value(only, PUBLISHED) == pytest.approx(1 / math.log2(3)) and {r["n"] for r in only} == {1}
    assert measured(run, [("u", "b", -1)], lists, ["y"]) == [], "nobody did anything"


def test_promoted_rows_do_not_decide_the_segment(run: Run):
    """A list is of the source of its other rows; one of promoted rows only is in no segment but `all`."""
    sources = {"u": "pmmmm", "v": "mmmmm", "w": "pffpf", "x": "fffff", "only": "ppppp"}
    lists = {user: ["a", "b", "c", "d", "e"] for user in sources}
    found = measured(run, [(user, "b", 1) for user in lists], lists, ["y"], sources=sources)
    assert {(r["segment"], r["n"]) for r in found} == {("all", 5), ("model", 2), ("fallback", 2)}
    promoted = measured(run, [("only", "b", 1)], lists, ["y"], sources=sources)
    assert {(r["segment"], r["n"]) for r in promoted} == {("all", 1)}


def test_the_champion_is_compared_with_the_holdback(run: Run):
    """Other users have the lists of the holdback; the groups are compared by Welch's interval."""
    users = [f"u{n:02d}" for n in range(60)]
    sources = {user: "hhhhh" if n % 3 == 0 else "mmmmm" for n, user in enumerate(users)}
    lists = {user: list("zbcde") if sources[user][0] == "h" else list("abcde") for user in users}
    rows = [(user, "a" if n % 5 else "y", 1.0) for n, user in enumerate(users)]
    found = measured(run, rows, lists, ["x"], sources=sources)
    assert {(r["segment"], r["n"]) for r in found} == {("all", 60), ("model", 40), ("holdback", 20)}
    own, held = (value(found, PUBLISHED, "recall", segment=name) for name in ("model", "holdback"))
    (contrast,) = (r for r in found if (r["list_source"], r["metric"], r["cutoff"]) == (CONTRAST, "recall", 5))
    assert contrast["value"] == pytest.approx(own - held) and held == 0 < contrast["ci_low"]
    hits = np.array([n % 5 > 0 for n in range(60) if n % 3])
    half = 2.02 * math.sqrt(hits.var(ddof=1) / 40)
    assert contrast["ci_high"] - contrast["value"] == pytest.approx(half, rel=0.01) and contrast["n"] == 60
    frame = pl.DataFrame(found, schema=tables.REALISED.schema, orient="row")
    assert tables.REALISED.check(frame).height == len(found)
    logged = naming.realised(frame)
    assert logged["realised_7d_published_recall_at_5"] == value(found, PUBLISHED, "recall")
    assert logged["realised_7d_holdback_recall_at_5"] == held and "realised_7d_popularity_ndcg_at_10" not in logged
    alone = measured(run, rows, lists, ["x"], sources=dict.fromkeys(users, "mmmmm"))
    assert CONTRAST not in {r["list_source"] for r in alone}


def test_the_alarm_sends_a_message(run: Run, monkeypatch: pytest.MonkeyPatch):
    sent: list[str] = []
    monkeypatch.setattr(outcome.notifications, "send", lambda text, about: sent.append(text) or [])
    check = {"check_name": outcome.ALARM, "severity": "warn", "bad_rows": 0, "passed": True}
    assert (paths.SQL / "checks" / "output" / f"{outcome.ALARM}.sql").exists()
    journal.append(run, tables.CHECKS, [check])
    outcome.alarm(run)
    assert sent == []
    journal.append(run, tables.CHECKS, [check | {"bad_rows": 1, "passed": False}])
    outcome.alarm(run)
    assert len(sent) == 1 and "worse than popularity" in sent[0]
    outcome.alarm(run.model_copy(update={"as_of": END}))
    assert len(sent) == 1, "a replay sends nothing"


EVENTS = {"column": "kind", "weights": {"view": 0.1, "purchase": 1.0}, "target": ["purchase"]}


@pytest.mark.parametrize(
    ("events", "n", "recall"),
    [
        (None, 4, (1 + 0 + 0.5 + 0) / 4),  # every new item; what u viewed is known
        (EVENTS, 3, (1 + 1 + 1) / 3),  # new purchases; a view before hides none of them
        (EVENTS | {"mask": ["view", "purchase"]}, 2, 1.0),  # the purchase of v was viewed before
    ],
)
def test_only_events_of_the_target_count(run: Run, tmp_path: Path, events: dict | None, n: int, recall: float):
    run = run.model_copy(
        update={"settings": run.settings.model_copy(
            update={"dataset": run.settings.dataset.model_copy(update={"events": events and Events(**events)})}
        )}
    )  # fmt: skip
    old = run.model_copy(update={"run_id": "20251231T000000.000Z-aaaa"})
    journal.open_run(old)
    journal.close_run(old, "published")
    publish(run.home.generation(run.dataset, old.run_id), {user: ["a", "b"] for user in "uvwx"}, ["y"])
    log = [
        ("u", "a", " purchase ", 1), ("v", "b", "view", -1), ("v", "b", "purchase", 1), ("v", "z", "view", 1),
        ("w", "a", "purchase", 1), ("w", "z", "view", 1), ("x", "z", "view", 1), ("x", "a", "purchase", -1),
        ("x", "a", "purchase", 1), ("x", "y", None, 8),
    ]  # fmt: skip
    rows = pl.DataFrame(log, schema=["user_id", "item_id", "source_kind", "at"], orient="row").with_columns(
        timestamp=pl.lit(END).cast(tables.TIME) + pl.duration(days="at")
    )
    rows.write_parquet(tmp_path / "interactions.parquet")
    encoded = tmp_path / "encoded"
    encoded.mkdir()
    for name in ("user", "item"):
        index = rows.select(pl.col(f"{name}_id").unique().sort()).with_row_index(f"{name}_idx")
        index.write_parquet(encoded / f"{name}s.parquet")
        rows = rows.join(index, on=f"{name}_id")
    target = pl.col("source_kind").str.strip_chars() == "purchase"
    rows = rows.select("user_idx", "item_idx", positive=True, target=target)
    rows.write_parquet(encoded / "interactions.parquet")
    found = [r for r in realised.measure_earlier_lists(run, tmp_path, encoded) if r["horizon_days"] == 7]
    assert {r["n"] for r in found} == {n} and value(found, PUBLISHED, "recall") == pytest.approx(recall)


ids = st.sampled_from("abcdefgh")


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_as_by_brute_force(tmp_path_factory, data: st.DataObject):
    run = Run.model_validate(
        {"run_id": "r", "home_root": tmp_path_factory.mktemp("brute"), "data": Path(), "started_at": END,
         "settings": {"dataset": {"name": "tiny"}, "models": {"popularity": {}}}}
    )  # fmt: skip
    journal.open_run(run)
    users = st.sampled_from("UVW")
    rows = data.draw(st.lists(st.tuples(users, ids, st.integers(-3, 9).map(lambda day: day + 0.5)), max_size=25))
    lists = data.draw(st.dictionaries(users, st.permutations("abcdefgh").map(lambda items: items[:5]), min_size=1))
    popular = data.draw(st.permutations("abcdefgh"))[:6]
    first: dict[tuple[str, str], float] = {}
    for user, item, at in rows:
        first[user, item] = min(at, first.get((user, item), at))
    truth, known = defaultdict(set), defaultdict(set)
    for (user, item), at in first.items():
        if at <= 0:
            known[user].add(item)
        elif at <= 7 and user in lists:
            truth[user].add(item)
    hits = {PUBLISHED: [], POPULARITY: []}
    for user, items in truth.items():
        own = [item for item in popular if item not in known[user]]
        for source, listed in ((PUBLISHED, lists[user]), (POPULARITY, own)):
            hits[source].append(len(items & set(listed[:5])) / len(items))
    found = measured(run, rows, lists, popular)
    for source, values in hits.items():
        if values:
            assert value(found, source, "recall") == pytest.approx(np.mean(values))
        else:
            assert found == []


def test_a_change_of_taste_is_a_warning(run: Run):
    """Users turn to what is popular now; the lists know nothing of it."""
    lists = {f"u{n}": ["a", "b", "c", "d", "e", *map(str, range(5))] for n in range(60)}
    taste = [(user, "xyz"[n % 3], 1.0 + n % 5) for n, user in enumerate(lists)]
    found = measured(run, taste, lists, ["x", "y", "z"])
    assert value(found, PUBLISHED, cutoff=10) == 0 < value(found, POPULARITY, cutoff=10)
    (note,) = journal.notes(run.home, run.dataset, run.run_id)
    assert note.startswith("warning: the lists of night old were worse than popularity on what 60 users did")
    measured(run, [(user, "a", 1.0) for user in lists], lists, ["x"])
    assert len(journal.notes(run.home, run.dataset, run.run_id)) == 1, "good lists are no warning"


def test_over_nights(four_nights):
    """Nothing on the same data; ten days later 1 and 7 days are known. Rollback, gc and forget reach the table."""
    data, nights = four_nights
    assert data.ask("from realised").is_empty()
    data.write("b.csv", first_day=10)
    fifth = data.night()
    found = data.ask("select * from realised order by all")
    assert set(found["horizon_days"]) == {1, 7} < set(HORIZONS) and set(found["run_id"]) == {nights[3]}
    assert set(found["measured_by"]) == {fifth} and found["value"].is_between(-1, 1).all()
    view = data.ask("from realised_over_nights where metric = 'ndcg' and cutoff = 10")
    assert view["horizon_days"].to_list() == [1, 7] and view["champion"].unique().to_list() == ["mf"]
    assert (view["published"] - view["popularity"]).to_list() == pytest.approx(view["difference"].to_list())
    quality = data.ask("from quality_over_nights where metric = 'ndcg' and cutoff = 10 order by run_id")
    assert quality["realised_7"].to_list()[3:] == [view["published"][1], None] and quality.height == 5
    (shown,) = (
        c for c in over_nights(Night(data.home, "tiny", fifth))["charts"] if "in the 7 days after" in c["title"]
    )
    (points,) = shown["spec"]["datasets"].values()
    assert [point["list_source"] for point in points] == [POPULARITY, PUBLISHED]
    assert shown["spec"]["layer"][0]["encoding"]["color"]["legend"], "two colours need a legend"
    assert data.command("rollback", "tiny") == 0 and data.ask("from realised").is_empty(), "as it was then"
    assert data.command("rollback", "tiny", "--to", fifth) == 0
    assert data.command("gc", "tiny", "--keep-generations", "1") == 0
    assert data.command("forget", "tiny", SECRET) == 0
    assert data.ask("select * from realised order by all").equals(found)
