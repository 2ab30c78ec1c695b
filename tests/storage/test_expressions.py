"""Expressions in settings: what is allowed, what it means, and that it means what conditions meant before."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SettingsError
from pipeline.storage import expressions, warehouse
from tests.support.old_conditions import condition

ROWS = pl.DataFrame(
    {"rating": [-1.0, 3.0, None, 4.0, math.nan], "user": ["a", "b", "c", "d", "e"]}
).with_columns(rated=pl.col("rating").is_not_null())  # fmt: skip


def passing(text: str, rows: pl.DataFrame = ROWS) -> str:
    """Users whose rows pass."""
    kept = expressions.passing(expressions.parse(text, "keep_if"), rows)
    assert kept.dtype == pl.Boolean and kept.null_count() == 0 and len(kept) == rows.height
    return "".join(rows["user"].filter(kept))


@pytest.mark.parametrize(
    ("text", "users"),
    [
        ("rating >= 3", "bde"), ("rating == -1", "a"), ("rating != 4", "abe"), ("rated", "abde"), ("not rated", "c"),
        ("NOT (rating >= 3)", "a"), ("rating between 3 and 4", "bd"), ("rating in (3, 4)", "bd"), ("Rating is null", "c"),
        ("user like 'A' collate nocase", "a"), ("case when rated then rating > 3 end", "de"), ("null", ""),
        ("coalesce(rating, 5) > 4", "ce"), ("list_contains(['a', 'b'], user)", "ab"), ("1 < 2", "abcde"),
        ("split_part(user || '-x', '-', 1) = 'b'", "b"), ("try_cast(user as integer) is null", "abcde"),
        ("rating > 3 -- better than 3", "de"), ("rating /* stars */ > 3", "de"), ("user = ''';--'", ""),
    ],
)  # fmt: skip
def test_an_expression_passes_rows_for_which_it_is_true(text, users):
    assert passing(text) == users


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"), ("rating", "gives DOUBLE"), ("rating >", "can't be parsed"), ("rating\0", "control char"),
        ("rating as x", "can't be parsed"), ("rating > 3, rated", "not one expression|can't be parsed"),
        ("rating > 3; rated", "not one expression|can't be parsed"), ("rated) or (rated", "can't be parsed"),
        ("distinct rated", "not one expression"), ("rated from range(3)", "not one expression"),
        ("rated order by 1", "not one expression"), ("rated limit 1", "not one expression"),
        ("rated union select true", "not one expression"), ("(select true)", "subquery"), ("rated where true", "not one"),
        ("exists(from range(3))", "subquery"), ("user in (from range(3))", "subquery"),
        ("sum(rating) > 1", "sum.. is not allowed"), ("row_number() over () > 1", "window"),
        ("list_filter([1], x -> x > 1) = [1]", "lambda"), ("unnest([true])", "unnest.. is not allowed"),
        ("columns(*) > 1", "star"), ("$1 > 3", "parameter"), ("default", "default"), ("grouping(rated)", "grouping"),
        ("random() > 0.5", "random.. is not allowed"), ("uuid() = user", "is not allowed"),
        ("now() > timestamp '2020-01-01'", "the night's date is night_date"), ("current_date > null", "night_date"),
        ("age(timestamp '2020-01-01') > interval 1 day", "night_date"), ("current_localtime() is null", "not allowed"),
        ("nextval('s') > 1", "is not allowed"), ("sleep_ms(1) > 1", "is not allowed"), ("error('x')", "is not allowed"),
        ("write_log('x') is null", "is not allowed"), ("current_setting('threads') > 1", "is not allowed"),
        ("getvariable('x') is null", "is not allowed"), ("read_text('/etc/hostname') is null", "is not allowed"),
        ("len(range(10)) > 1", "is not allowed"),
        ("main.abs(rating) > 1", "schema"), ("absolute(rating) > 1", "there is no function absolute"),
        ("ratng > 3", "no column 'ratng' .did you mean 'rating'"), ("rating.x > 3", "Cannot extract field"),
        ("rating > interval 1 day", "Cannot compare|Binder"), ("not " * 4000 + "rated", "can't be parsed|longer than"),
        ("(" * 3000 + "rated" + ")" * 3000, "can't be parsed"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_named(text, problem):
    with pytest.raises(SettingsError, match=f"(?s)^keep_if = .*({problem}).*true-or-false expression"):
        passing(text)


def test_a_column_of_0_and_1_is_true_or_false():
    rows = pl.DataFrame({"user": ["a", "b", "c"], "is_new": [1, 0, None], "pieces": [1, 0, 2]})
    assert (passing("is_new", rows), passing("not is_new", rows), passing("is_new = 1", rows)) == ("a", "b", "a")
    with pytest.raises(SettingsError, match="numbers other than 0 and 1"):
        passing("pieces", rows)


def test_a_value_that_cannot_be_used_is_not_shown():
    with pytest.raises(SettingsError, match="try_cast") as caught:
        passing("user::integer > 3", pl.DataFrame({"user": ["a-secret-id"]}))
    assert "secret" not in str(caught.value)


LISTS = pl.DataFrame({"user": ["a", "b"], "Kinds": [["x"], []], "two words": [["it's"], ["y"]], "price": ["1", "?"]})


@pytest.mark.parametrize(
    ("text", "instead", "users"),
    [
        ("kinds = 'x'", "list_contains(kinds, 'x')", "a"), ("'x' <> kinds", "not list_contains(kinds, 'x')", "b"),
        ("kinds in ('x', 'y')", "list_has_any(kinds, ['x', 'y'])", "a"),
        ("kinds not in ('x', 'y')", "not list_has_any(kinds, ['x', 'y'])", "b"),
        ("\"two words\" = 'it''s'", "list_contains(\"two words\", 'it''s')", "a"),
        ("kinds like 'x%'", "list_contains(kinds, 'value')", ""), ("kinds", "list_contains(kinds, 'value')", ""),
    ],
)  # fmt: skip
def test_a_list_that_is_compared_like_one_value_is_shown_how(text, instead, users):
    with pytest.raises(SettingsError, match="is a list: write ") as caught:
        passing(text, LISTS)
    assert f"is a list: write {instead};" in str(caught.value) and passing(instead, LISTS) == users


@pytest.mark.parametrize("text", ["price::integer = 1", "list_contains(kinds, 'x') and price::integer = 1"])
def test_another_mistake_is_not_blamed_on_a_list(text):
    with pytest.raises(SettingsError, match="try_cast") as caught:
        passing(text, LISTS.with_columns(Kinds=pl.Series([["x"], ["x"]])))
    assert "is a list" not in str(caught.value)


def test_every_allowed_function_is_one_of_duckdb_s_and_no_other_kind():
    allowed = expressions.allowed_functions()
    with warehouse.connect() as con:
        kinds = "SELECT lower(function_name), function_type FROM duckdb_functions() WHERE stability IS DISTINCT FROM "
        others = {name for name, kind in con.sql(f"{kinds} 'CONSISTENT'").fetchall() if kind != "macro"}
        known = {name for (name,) in con.sql("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()}
    assert allowed <= known and not allowed & others and {"lower", "abs", "list_contains"} <= allowed


def test_rows_are_evaluated_in_batches_and_keep_their_order(monkeypatch):
    rows = pl.DataFrame({"n": pl.int_range(10_000, eager=True)})
    asked = expressions.parse("n % 7 = 3", "keep_if")
    whole = expressions.passing(asked, rows)
    monkeypatch.setattr(expressions, "BATCH", 999)
    assert expressions.passing(asked, rows).equals(whole) and whole.to_list() == [n % 7 == 3 for n in range(10_000)]
    assert expressions.passing(asked, rows.head(0)).to_list() == []


def test_the_sandbox_reaches_no_file_and_cannot_be_unlocked():
    with warehouse.open_sandbox("100MiB") as con:
        for statement in ("FROM read_text('/etc/hostname')", "SET threads = 4", "ATTACH '/tmp/x.duckdb'"):
            with pytest.raises(warehouse.DatabaseError):
                con.sql(statement).fetchall()
        assert con.sql("SELECT current_setting('memory_limit')").fetchall() == [("100.0 MiB",)]


# ── the same as before ──
numbers = st.one_of(
    st.integers(-10, 10), st.floats(-10, 10, allow_nan=False), st.sampled_from([0.1, 0.3, 1e-320, 2**53 + 1, 10**18 + 1]),
    st.integers(10**18, 10**30), st.decimals(-10, 10, places=15, allow_nan=False),
)  # fmt: skip
compared = st.builds("rating {} {}".format, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers)
conditions = st.recursive(
    st.one_of(compared, st.just("rated")),
    lambda inner: st.one_of(
        st.builds("not {}".format, inner), st.builds("({})".format, inner),
        st.builds("{} {} {}".format, inner, st.sampled_from(["and", "or"]), inner),
    ),
    max_leaves=6,
)  # fmt: skip
ratings = st.lists(st.one_of(st.none(), st.floats(), numbers.map(float)), max_size=20)


@settings(max_examples=80, deadline=None)
@given(conditions, ratings)
def test_conditions_on_ratings_mean_what_they_meant_before(text, values):
    rows = pl.DataFrame({"rating": [*values, None, -0.0, 0.1 + 0.2, math.inf, math.nan]}, schema={"rating": pl.Float64})
    rows = rows.with_columns(rated=pl.col("rating").is_not_null())
    before = rows.select(condition(text, "keep_if").alias("passes"))["passes"]
    assert expressions.passing(expressions.parse(text, "keep_if"), rows).equals(before)
