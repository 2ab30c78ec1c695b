"""Items that a user has already: hidden, allowed, or allowed after some days; from the split to the published lists."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import conductor, outcome
from flows.prepare import prepare
from pipeline.config.settings import Settings, Split
from pipeline.core.errors import Refused, SettingsError
from pipeline.preparation import splitters
from pipeline.preparation.seen import SeenRule, hidden, hiding_condition
from pipeline.stages import audit
from pipeline.storage import journal, warehouse
from tests.support.grocery import LAPSED, REGULAR, Grocery
from tests.support.nights import without_report
from tests.support.published_nights import without_mlflow
from tests.support.stage_runs import raw


def publish(shop: Grocery, *overrides: str):
    run = shop.prepare(*overrides)
    assert conductor.conduct(run, without_report) == "published"
    return run


@pytest.fixture(scope="module")
def grocery(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        yield Grocery(tmp_path_factory.mktemp("grocery"))


@pytest.fixture(scope="module")
def allowed(grocery):
    return publish(grocery)


@pytest.fixture(scope="module")
def hiding(grocery, allowed):
    return publish(grocery, "hide_days=30")


def lists(grocery: Grocery, run) -> pl.DataFrame:
    return grocery.ask("select * from recommendations", grocery.home.generation("tiny", run.run_id))


def has(found: pl.DataFrame, user: str, item: str) -> bool:
    return bool(found.filter(user_id=user, item_id=item).height)


def test_the_repeat_buyers_milk_is_listed(grocery, allowed):
    found = lists(grocery, allowed)
    assert has(found, REGULAR, "milk")
    own = grocery.rows().group_by("user").agg(pl.col("item").mode().first())
    share = sum(has(found, user, item) for user, item in own.iter_rows()) / own.height
    assert share > 0.9, f"{share:.0%} of the staples are in the lists"


def test_what_was_bought_in_the_last_days_is_not(grocery, hiding):
    found, rows = lists(grocery, hiding), grocery.rows()
    assert not has(found, REGULAR, "milk") and has(found, LAPSED, "milk")
    recent = rows.filter(pl.col("t") > pl.col("t").max() - 30 * 86_400).select(user_id="user", item_id="item")
    assert found.join(recent, on=["user_id", "item_id"]).is_empty()
    assert found.join(rows.select(user_id="user", item_id="item"), on=["user_id", "item_id"]).height  # older ones are


def test_the_baseline_of_repeats_takes_part_and_wins(grocery, allowed):
    path = grocery.home.generation("tiny", allowed.run_id)
    metrics = grocery.ask("from metrics where metric = 'ndcg' and cutoff = 10 and segment = 'all'", path)
    for split in ("valid", "test"):
        for protocol in ("full", "sampled_99"):
            value = dict(metrics.filter(split=split, protocol=protocol).select("model", "value").iter_rows())
            assert value["repeats"] > value["ease"] > 0, (split, protocol, value)
            assert value["repeats"] > 1.3 * value["popularity"] > 0, (split, protocol, value)
    compared = grocery.ask("select distinct model, other from comparisons", path)
    assert set(compared["other"]) == {"repeats"} and set(compared["model"]) == {"ease", "popularity"}
    notes = journal.notes(grocery.home, "tiny", allowed.run_id)
    assert any("events to find in test" in note and "repeat earlier ones" in note for note in notes), notes


def test_the_rule_is_explained(grocery, hiding, capsys):
    if grocery.live_night() != hiding.run_id:
        assert grocery.command("rollback", "tiny", "--to", hiding.run_id) == 0
    answer = grocery.printed(capsys, "explain", "tiny", REGULAR, "milk")
    assert answer["masked"] and answer["seen"]
    assert not grocery.printed(capsys, "explain", "tiny", LAPSED, "milk")["masked"]
    for user, text in (
        (REGULAR, "in the last 30 days (hide_days)"),
        (LAPSED, "may repeat it, longer ago than hide_days"),
    ):
        assert grocery.command("explain", "tiny", user, "milk") == 0 and text in capsys.readouterr().out


def test_the_audit_refuses_what_the_rule_hides(grocery, allowed, monkeypatch):
    monkeypatch.setattr(audit, "hiding_condition", lambda settings: "true")
    monkeypatch.setattr(outcome, "report_shortly", lambda run: None)
    with pytest.raises(Refused, match="nothing_seen"):
        conductor.conduct(grocery.prepare(), without_report)  # the same lists


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["seen=hide", "hide_days=3"], "hide_days goes with"),
        (["dataset.feedback.repeats=latest"], "needs the rows of a user and item one by one"),
        (["split.kind=published"], "published split"),
        (["seen=sometimes"], "seen"),
    ],
)
def test_settings_that_contradict_each_other(grocery, overrides, problem):
    with pytest.raises(SettingsError, match=problem):
        grocery.prepare(*overrides)


def test_days_need_times(grocery, tmp_path):
    toml = (grocery.folder / "tiny.toml").read_text().replace('timestamp = "t"', "")
    (tmp_path / "untimed.toml").write_text(toml)
    with pytest.raises(SettingsError, match="this data set has no times"):
        prepare(
            str(tmp_path / "untimed.toml"), str(grocery.folder / "cheap.toml"), str(grocery.folder),
            str(tmp_path / "home"), ["hide_days=3", "split.kind=random"],
        )  # fmt: skip


def test_untimed_rows_are_held_out_one_by_one():
    rows = pl.DataFrame(
        [(user, item, n < 8) for user in range(40) for item in range(2) for n in range(10)],
        schema={"user_idx": pl.Int32, "item_idx": pl.Int32, "target": pl.Boolean}, orient="row",
    )  # fmt: skip
    users, items = pl.Series([f"x{n}" for n in range(40)]), pl.Series(["i0", "i1"])
    for by in ("user", "row"):
        wanted = Split.model_validate({"kind": "random", "valid": 0.2, "test": 0.2, "by": by})
        labelled = rows.with_columns(
            label=pl.Series(splitters.random_repeats(rows, splitters.Draw(users, items, 42), wanted))
        )
        shares = labelled.filter("target")["label"].value_counts(normalize=True)
        assert dict(shares.iter_rows()) == pytest.approx({0: 0.6, 1: 0.2, 2: 0.2}, abs=0.02)
        by_pair = labelled.filter("target").group_by("user_idx", "item_idx").agg(pl.col("label").unique())
        assert by_pair.filter(pl.col("label").list.len() > 1).height > 0.8 * by_pair.height  # in several splits
        assert labelled.filter(~pl.col("target"))["label"].max() == 0  # a purchase of each pair is in train


ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 40)), min_size=1, max_size=12)
RULES = st.sampled_from([SeenRule(), SeenRule(True), SeenRule(True, 1), SeenRule(True, 7), SeenRule(True, 400)])


@settings(max_examples=25, deadline=None)
@given(ROWS, RULES)
def test_lists_audit_and_evaluation_hide_the_same(records, rule):
    rows = raw(*((user, item, None, day) for user, item, day in records))
    newest = rows["timestamp"].max()
    assert isinstance(newest, dt.datetime)
    tree = {"seen": "allow", "hide_days": rule.hide_days} if rule.allow else {}
    dataset = {"name": "x", "columns": {"timestamp": "t"}}
    tree_of = Settings.model_validate({"dataset": dataset, "models": {"popularity": {}}, **tree})
    listed = hidden(rows, pl.int_range(rows.height, eager=True), tree_of, newest)
    with warehouse.connect() as con:
        con.register("source_rows", rows.with_row_index("row").to_arrow())
        until = con.sql(
            f"select {rule.masks_until()} > $newest from source_rows order by row", params={"newest": newest}
        )
        assert [masks for (masks,) in until.fetchall()] == listed.to_list()
        audited = con.sql(f"select row from source_rows where {hiding_condition(tree_of)} order by row").fetchall()
    assert listed.arg_true().to_list() == [row for (row,) in audited]
    encoded = rows.select(
        user_idx=pl.lit(0), timestamp=pl.col("timestamp"), masks=pl.lit(True), target=pl.lit(True)
    )  # fmt: skip
    held = encoded.head(1).with_columns(timestamp=pl.lit(newest))
    for kind in ("global_time", "leave_one_out"):
        assert rule.masking(encoded, held, kind).to_list() == listed.to_list()
