"""Churn: overlap of tonight's lists with the published ones, by formula and in whole nights."""

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import Refused
from pipeline.publishing import churn
from pipeline.schemas import tables
from pipeline.storage import journal, warehouse
from tests.support.nights import ask
from tests.support.tastes import BAD, GOOD, last_record, one_night, record, write_log

OFF = "[gate]\nenabled = false\n"


def rbo(one: list, other: list, p: float) -> float:
    """Webber, Moffat and Zobel 2010, eq. 32, word for word."""
    short, long = sorted((one, other), key=len)
    s, l = len(short), len(long)  # noqa: E741

    def x(d: int) -> int:
        return len(set(short[:d]) & set(long[:d]))

    sums = sum(x(d) / d * p**d for d in range(1, l + 1))
    sums += sum(x(s) * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * sums + ((x(l) - x(s)) / l + x(s) / s) * p**l


def measured(now: dict[str, list], before: dict[str, list], fallback: str = "", p: float = 0.9) -> dict[str, dict]:
    """Rows of the churn table by segment; users are as active as their place."""
    with warehouse.scratch() as con:
        con.execute("attach ':memory:' as measured; use measured")
        for table in (tables.RECOMMENDATIONS, tables.USERS):
            con.execute(table.ddl)
        con.execute("create table before_lists (user_id varchar, rank integer, item_id varchar)")
        for place, (user, items) in enumerate(now.items()):
            con.execute(f"insert into users values ('{user}', {place}, null, null)")
            source = "fallback" if user in fallback else "model"
            for rank, item in enumerate(items, start=1):
                row = f"('{user}', {rank}, '{item}', 0, '{source}', 'm', 'r', now(), 'l')"
                con.execute(f"insert into recommendations values {row}")
        for user, items in before.items():
            for rank, item in enumerate(items, start=1):
                con.execute(f"insert into before_lists values ('{user}', {rank}, '{item}')")
        rows = {row["segment"]: row for row in churn.measure(con, p).to_dicts()}
        con.execute("use memory; detach measured")
        return rows


def test_by_hand():
    everybody = measured({"u": ["a", "b", "c"]}, {"u": ["b", "a", "d"]}, p=0.5)["all"]
    assert everybody["jaccard"] == pytest.approx(2 / 4)
    # overlaps 0, 2, 2 at depths 1 to 3: Σ X_d/d p^d = 0 + 1/4 + 2/3/8; then X_3/3 p^3
    assert everybody["rbo"] == pytest.approx((1 / 4 + 2 / 3 / 8) + 2 / 3 / 8)
    assert (everybody["items_entered"], everybody["items_left"], everybody["cutoff"]) == (1, 1, 3)


def test_the_same_lists_and_quite_other_ones():
    same = measured({"u": ["a", "b"]}, {"u": ["a", "b"]})["all"]
    assert (same["jaccard"], same["rbo"]) == pytest.approx((1, 1))
    other = measured({"u": ["a", "b"]}, {"u": ["c", "d"]})["all"]
    assert (other["jaccard"], other["rbo"], other["items_entered"], other["items_left"]) == (0, 0, 2, 2)


@pytest.mark.long
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.9, 0.98]))
def test_rbo_and_jaccard_are_those_of_the_definition(seed, p):
    draw = random.Random(seed)

    def lists() -> dict[str, list]:
        return {f"u{n}": draw.sample("abcdefghijkl", draw.choice([1, 3, 6, 6])) for n in range(7)}

    now, before = lists(), lists()
    found = measured(now, before, p=p)["all"]
    depth = min(max(map(len, now.values())), max(map(len, before.values())))
    pairs = [(now[user][:depth], before[user][:depth]) for user in now]
    assert found["jaccard"] == pytest.approx(sum(len({*a} & {*b}) / len({*a} | {*b}) for a, b in pairs) / 7)
    assert found["rbo"] == pytest.approx(sum(rbo(a, b, p) for a, b in pairs) / 7)
    assert found["cutoff"] == depth and found["n"] == 7


def test_only_users_of_both_nights_count_and_a_longer_list_is_cut():
    found = measured({"old": ["a", "b", "c"], "new": ["x", "y", "z"]}, {"old": ["a", "b"], "gone": ["q", "r"]})
    assert found["all"]["n"] == 1 and found["all"]["cutoff"] == 2 and found["all"]["jaccard"] == 1
    assert found["all"]["items_entered"] == found["all"]["items_left"] == 0


def test_segments():
    now = {user: ["a", "b"] for user in "uvwxyz"}
    found = measured(now, {**now, "z": ["c", "d"]}, fallback="u")
    assert set(found) == {"all", "activity_low", "activity_mid", "activity_high", "model", "fallback"}
    assert [found[f"activity_{part}"]["jaccard"] for part in ("low", "mid", "high")] == [1, 1, 0.5]
    assert (found["fallback"]["n"], found["model"]["n"]) == (1, 5)
    assert sum(found[f"activity_{part}"]["n"] for part in ("low", "mid", "high")) == found["all"]["n"] == 6


def test_no_lists_no_churn():
    assert measured({}, {}) == {} and measured({"u": ["a"]}, {"v": ["b"]}) == {}


def test_a_bound_refuses_once_and_acceptance_lets_through(tmp_path):
    write_log(tmp_path / "data", n_users=90)
    first = one_night(tmp_path)
    before = ask(first, "select * from recommendations order by user_id, rank")
    assert ask(first, "from churn").is_empty(), "there was nothing to compare with"

    bound = BAD + OFF + "[churn]\nmax_change = 0.3\n"
    with pytest.raises(Refused, match=r"churn_bound: .*--accept-churn"):
        one_night(tmp_path, bound)
    assert last_record(tmp_path)["outcome"] == "refused" and "churn_bound" in last_record(tmp_path)["reason"]
    assert ask(first, "select * from recommendations order by user_id, rank").equals(before)

    accepted = one_night(tmp_path, bound, "churn.accept=true")
    assert record(accepted)["outcome"] == "published"
    rows = ask(accepted, f"from churn where run_id = '{accepted.run_id}'")
    tables.CHURN.check(rows)
    everybody = rows.filter(segment="all").row(0, named=True)
    assert everybody["jaccard"] < 0.7 and everybody["rbo"] < 0.7 and everybody["n"] == 90
    assert everybody["compared_with"] == first.run_id
    notes = journal.notes(accepted.home, accepted.dataset, accepted.run_id)
    assert any("churn.max_change" in note and "accepted" in note for note in notes)
    refused = ask(accepted, "select check_name from checks where severity = 'error' and not passed")
    assert refused["check_name"].to_list() == ["churn_bound"], "checks of the refused night are published later"

    same = one_night(tmp_path, bound)
    rows = journal.read(same.home, same.dataset, tables.CHURN, same.run_id)
    assert set(rows["jaccard"]) == {1.0} and rows["rbo"].to_list() == pytest.approx([1.0] * rows.height)
    assert set(rows["items_entered"]) == set(rows["items_left"]) == {0}


def test_by_default_it_only_warns_and_a_broken_live_file_stops_nobody(tmp_path):
    write_log(tmp_path / "data", n_users=90)
    first = one_night(tmp_path)
    with warehouse.connect(first.home.live(first.dataset), read_only=True) as reader:  # held open through the night
        reader.sql("select count(*) from users").fetchall()
        changed = one_night(tmp_path, BAD + OFF, "churn.warn_change=0.2")
    notes = journal.notes(changed.home, changed.dataset, changed.run_id)
    assert any(note.startswith("warning: churn_usual") for note in notes)
    generation = changed.home.generation(changed.dataset, changed.run_id)
    generation.chmod(0o640)
    generation.write_bytes(b"no database")  # the live name is the same file
    repaired = one_night(tmp_path, GOOD)
    notes = journal.notes(repaired.home, repaired.dataset, repaired.run_id)
    assert any(note.startswith(f"churn: the published tables of {changed.run_id} can't be read") for note in notes)
    assert ask(repaired, "select count(*) n from recommendations")["n"][0] == 450


def test_churn_is_no_part_of_the_logical_hash(tmp_path):
    write_log(tmp_path / "data", n_users=90)
    hashes = [record(one_night(tmp_path, models + OFF))["logical_hash"] for models in (GOOD, BAD, GOOD)]
    assert hashes[0] == hashes[2] != hashes[1]


def test_the_table_says_what_it_is():
    assert isinstance(tables.CHURN.schema["rbo"], pl.Float64) and "churn" in tables.CHURN.ddl
