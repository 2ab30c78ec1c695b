"""clean: every raw row ends with exactly one reason."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.dataset import Columns, Feedback, Filter
from pipeline.core.errors import Refused, SettingsError
from pipeline.preparation.filters import apply_filters
from pipeline.preparation.row_names import RowNames
from pipeline.publishing.item_tables import popular_items
from pipeline.schemas import tables
from pipeline.sources.extra_columns import stored_name
from pipeline.stages import clean, export
from pipeline.storage import journal
from tests.support.data_sets import data_set
from tests.support.stage_runs import make_run, raw, store


def cleaned(rows: pl.DataFrame, **settings):
    """Kept rows as tuples, and the ledger."""
    feedback = Feedback(**{k: v for k, v in settings.items() if k in Feedback.model_fields})
    filters = Filter(**{k: v for k, v in settings.items() if k in Filter.model_fields})
    frame, ledger = apply_filters(rows, feedback, filters, seed=settings.get("seed", 42))
    return frame, {str(reason): n for reason, n in ledger.items() if n}


def pairs(frame: pl.DataFrame) -> list[tuple]:
    return frame.select("user_id", "item_id", "rating").rows()


def test_the_latest_of_a_pair_stays_and_at_equal_times_the_last_line():
    frame, ledger = cleaned(raw(("u", "a", 1, 5), ("u", "a", 2, 3), ("u", "b", 3, 1), ("u", "b", 4, 1)))
    assert pairs(frame) == [("u", "a", 1.0), ("u", "b", 4.0)]
    assert ledger == {"kept": 2, "duplicate": 2}


def test_of_untimed_duplicates_the_last_line_stays_and_any_time_beats_none():
    frame, _ = cleaned(raw(("u", "a", 1, None), ("u", "a", 2, None), ("v", "a", 3, 0), ("v", "a", 4, None)))
    assert pairs(frame) == [("u", "a", 2.0), ("v", "a", 3.0)]


def test_a_pair_is_its_user_and_its_item_not_their_text_joined():
    frame, _ = cleaned(raw(("1", "23", 1, 0), ("12", "3", 1, 0), ("23", "1", 1, 0)))
    assert frame.height == 3


def test_duplicates_go_before_conditions_so_a_lowered_rating_counts():
    frame, ledger = cleaned(raw(("u", "a", 5, 0), ("u", "a", 1, 9), ("u", "b", 4, 1)), keep_if="rating >= 3")
    assert pairs(frame) == [("u", "b", 4.0)]
    assert ledger == {"kept": 1, "duplicate": 1, "keep_if": 1}


def test_positive_if_marks_and_keeps():
    frame, _ = cleaned(raw(("u", "a", 5, 0), ("u", "b", 3, 0), ("u", "c", None, 0)), positive_if="rating >= 4")
    assert frame["positive"].to_list() == [True, False, False]


NAMED = RowNames(Columns(user="visitor", item="sku", rating="stars"), dt.date(2026, 1, 3))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("rating >= 3", "bc"), ("stars >= 3", "bc"), ("not rated", "d"), ("user = 'v' and item <> 'd'", "bc"),
        ("visitor = 'u' or sku = 'b'", "ab"), ("timestamp < timestamp '2026-01-02'", "ab"),
        ("timestamp >= night_date - 1", "cd"), ("user_id || item_id = 'vc'", "c"),
    ],
)  # fmt: skip
def test_conditions_name_columns_by_role_or_as_the_source_does(text, kept):
    rows = raw(("u", "a", 1, 0), ("v", "b", 3, 0), ("v", "c", 5, 1), ("v", "d", None, 3))
    frame, ledger = apply_filters(rows, Feedback(keep_if=text), Filter(), 42, names=NAMED)
    assert "".join(frame["item_id"]) == kept and ledger["keep_if"] == 4 - len(kept)


def test_conditions_name_other_columns_of_the_source_with_the_type_of_all_their_values():
    rows = raw(("u", "a", 1, 0), ("u", "a", 2, 1), ("v", "b", 3, 0), ("w", "c", 5, 1)).with_columns(
        pl.Series("source_price", ["2", "x", "10", None], dtype=pl.Categorical), source_Sold=pl.Series([1, 2, 0, None])
    )
    text, _ = cleaned(rows, keep_if="price < '2'")
    assert pairs(text) == [("v", "b", 3.0)], "the first row is a duplicate, but its price is a value of the column"
    number, _ = cleaned(rows[[0, 2, 3]], keep_if="price < 3 or sold is null")
    assert pairs(number) == [("u", "a", 1.0), ("w", "c", 5.0)]
    assert number.columns == [*rows.columns, "positive"]


def test_a_condition_names_only_columns_that_there_are():
    with pytest.raises(SettingsError, match=r"keep_if = 'ratng > 3': the source has no column 'ratng' .did you mean"):
        cleaned(raw(("u", "a", 1, 0)), keep_if="ratng > 3")
    with pytest.raises(SettingsError, match="no column 'night_date'"):
        cleaned(raw(("u", "a", 1, 0)), keep_if="night_date > date '2026-01-01'")


def test_only_conditions_on_the_night_s_date_depend_on_it(tmp_path):
    keys = []
    for number, text in enumerate(("rating > 3", "rating > 3", "timestamp > night_date - 30", "night_date IS NULL")):
        run = make_run(tmp_path / str(number), dataset={"feedback": {"keep_if": text}})
        keys.append(clean.spec(run, tmp_path).settings)
    assert keys[0] == keys[1] and "night_date" not in keys[0]
    assert keys[2]["night_date"] == keys[3]["night_date"] == run.started_at.date()


def test_the_core_is_a_fixed_point():
    # d's only other user is v; without v (one row) it falls below two, and then w does
    rows = raw(("u", "a", 1, 0), ("u", "b", 1, 0), ("x", "a", 1, 0), ("x", "b", 1, 0),
               ("v", "d", 1, 0), ("w", "d", 1, 0), ("w", "a", 1, 0))  # fmt: skip
    frame, ledger = cleaned(rows, min_user_interactions=2, min_item_interactions=2)
    assert set(frame["user_id"]) == {"u", "x"}
    assert ledger == {"kept": 4, "below_min_interactions": 3}


def test_sampled_users_are_the_same_on_later_nights():
    rows = raw(*[(f"u{i % 200}", f"i{i}", 1, 0) for i in range(400)])
    tonight, ledger = cleaned(rows, user_fraction=0.3)
    later, _ = cleaned(pl.concat([raw(("new", "i1", 1, 0)), rows.reverse()]), user_fraction=0.3)
    other, _ = cleaned(rows, user_fraction=0.3, seed=43)
    assert set(later["user_id"]) - {"new"} == set(tonight["user_id"]) != set(other["user_id"])
    assert 35 < tonight["user_id"].n_unique() < 85
    assert ledger["user_not_sampled"] + ledger["kept"] == 400
    assert (tonight["user_id"].value_counts()["count"] == 2).all()


ids = st.sampled_from(["u1", "u2", "u3", "é", "", "u 1"])
rows_of = st.lists(
    st.tuples(ids, ids, st.one_of(st.none(), st.integers(1, 5)), st.one_of(st.none(), st.integers(0, 3))),
    max_size=40,
)


@pytest.mark.long
@settings(deadline=None)
@given(rows_of, st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.4, 1.0]))
def test_every_row_has_one_reason_and_what_stays_keeps_every_promise(records, min_user, min_item, fraction):
    settings = {
        "min_user_interactions": min_user,
        "min_item_interactions": min_item,
        "user_fraction": fraction,
    }
    rows = raw(*records)
    try:
        frame, ledger = cleaned(rows, keep_if="rating >= 2 or not rated", **settings)
    except Refused:
        return
    assert sum(ledger.values()) == rows.height
    assert ledger["kept"] == frame.height
    tables.CLEAN.check(frame)  # with its key
    assert frame["user_id"].value_counts()["count"].min() >= min_user
    assert frame["item_id"].value_counts()["count"].min() >= min_item
    again, _ = cleaned(frame.drop("positive"), keep_if="rating >= 2 or not rated", **settings)
    assert again.equals(frame)


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        (
            {"keep_if": "rating > 9"},
            "no row is left of 3 valid source rows: duplicate removed 1, keep_if removed 2",
        ),
        ({"min_user_interactions": 5}, "below_min_interactions removed 2"),
        ({"user_fraction": 1e-12}, "user_not_sampled removed 2"),
        ({"positive_if": "rating > 9"}, "none of 2 kept rows is positive"),
    ],
)
def test_nothing_left_is_refused_with_the_filter_at_fault(settings, output):
    with pytest.raises(Refused, match=output):
        cleaned(raw(("u", "a", 1, 0), ("u", "a", 2, 0), ("u", "b", 3, 1)), **settings)


def test_no_rows_at_all_are_refused():
    with pytest.raises(Refused, match="there were none"):
        cleaned(raw())


def test_the_stage_writes_the_contract_and_the_ledger(tmp_path):
    run = make_run(tmp_path, dataset={"feedback": {"keep_if": "rating >= 2"}})
    folder = clean.clean_interactions(run, store(run, raw(("u", "a", 1, 0), ("u", "b", 2, 0), ("v", "b", 3, 0))))
    frame = pl.read_parquet(folder / "interactions.parquet")
    assert tables.CLEAN.check(frame).height == 2
    assert folder.parent.name == "2_clean"
    ledger = journal.read(run.home, run.dataset, tables.ROW_LEDGER).filter(pl.col("stage") == "clean")
    assert ledger["rows"].sum() == 3


def test_seeds_matter_for_the_folder_only_where_users_are_sampled(tmp_path):
    rows = raw(*[(f"u{i}", "a", 1, 0) for i in range(50)])
    names = {}
    for fraction in (1.0, 0.5):
        for seed in (1, 2):
            run = make_run(tmp_path / f"{fraction}{seed}", seed=seed, dataset={"filter": {"user_fraction": fraction}})
            names[fraction, seed] = clean.clean_interactions(run, store(run, rows)).name
    assert names[1.0, 1] == names[1.0, 2]
    assert names[0.5, 1] != names[0.5, 2]


def test_ten_core_of_lastfm_against_a_plain_loop():
    rows = pl.read_csv(
        data_set("lastfm-hetrec") / "user_artists.dat",
        separator="\t",
        schema_overrides=[pl.String, pl.String, pl.Float64],
    ).rename({"userID": "user_id", "artistID": "item_id", "weight": "rating"})
    rows = tables.RAW.check(rows.with_columns(timestamp=pl.lit(None, tables.TIME)))
    frame, ledger = cleaned(rows, min_user_interactions=10, min_item_interactions=10)
    expected, before = rows, -1
    while expected.height != before:
        before = expected.height
        expected = expected.filter(pl.len().over("user_id") >= 10).filter(pl.len().over("item_id") >= 10)
    assert frame.drop("positive").equals(expected)
    assert 0 < ledger["kept"] < rows.height == sum(ledger.values()) == 92_834


@pytest.mark.parametrize(
    ("condition", "missing", "note"),
    [
        (None, None, "warning: clean: 2 of 4 rows with a rating of 0 or below count as positive"),
        ("rated", None, "clean: 2 of 4 rows with a rating of 0 or below count as positive, by positive_if = 'rated'"),
        ("rating > 0", None, None),
        (None, "keep_if", None),
    ],
)
def test_non_positive_rows_that_count_as_positive_are_said_each_night(tmp_path, condition, missing, note):
    feedback = {"positive_if": condition, "keep_if": "rating > 0" if missing else None}
    rows = raw(("u", "a", -1, 0), ("u", "b", 0, 0), ("u", "c", 1, 0), ("v", "a", None, 0))
    run = make_run(tmp_path, dataset={"feedback": feedback})
    for _ in range(2):  # the second time from the lake
        clean.clean_interactions(run, store(run, rows))
    found = journal.notes(run.home, "three", run.run_id)
    assert len(found) == 2 * (note is not None) and all(each.startswith(note or "") for each in found)


@pytest.mark.parametrize("key", ["positive_if", "keep_if"])
@pytest.mark.parametrize(("condition", "items"), [(None, ["a", "b", "c"]), ("rating > 0", ["b"])])
def test_only_positive_rows_that_are_kept_make_an_item_popular(tmp_path, key, condition, items):
    run = make_run(tmp_path, dataset={"feedback": {key: condition}, "columns": {"rating": "vote"}})
    rows = raw(("u", "a", -1, 0), ("v", "a", -1, 0), ("u", "b", 1, 0), ("v", "c", None, 0))
    popular = popular_items(export.positive_rows(run, rows), [], 10)
    assert sorted(popular["item_id"]) == items


def test_with_event_types_only_those_of_the_target_make_an_item_popular(tmp_path):
    """Neither views nor purchases that were sent back."""
    events = {"column": "kind", "weights": {"view": 0.1, "buy": 1}, "withdraws": {"return": ["buy"]}}
    run = make_run(tmp_path, dataset={"events": events, "columns": {"timestamp": "t"}})
    rows = raw(("u", "seen", None, 0), ("v", "seen", None, 1), ("u", "kept", None, 2), ("u", "back", None, 2),
               ("u", "back", None, 3), ("v", "back", None, 4))  # fmt: skip
    rows = rows.with_columns(pl.Series(stored_name("kind"), ["view", "view", "buy", " buy ", "return", "buy"]))
    popular = popular_items(export.positive_rows(run, rows), [], 10)
    assert dict(popular.select("item_id", "score").rows()) == {"back": 1.0, "kept": 1.0}
