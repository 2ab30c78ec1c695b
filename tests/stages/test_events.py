"""Event types, withdrawals, caps, quantities and repeats: what becomes of every row, from clean to split."""

import datetime as dt
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.dataset import Events, Feedback, Filter
from pipeline.config.settings import Split
from pipeline.core.errors import ContractError, Refused, SettingsError
from pipeline.preparation import split_checks, splitters
from pipeline.preparation.encoding import encode_rows
from pipeline.preparation.filters import apply_filters
from pipeline.preparation.seen import HIDE
from pipeline.schemas.reasons import Reason
from pipeline.stages import clean, encode, split
from pipeline.storage import journal, lake
from tests.support.stage_runs import DAY, make_run, store

SHOP: dict[str, Any] = {
    "column": "kind", "weights": {"view": 0.1, "cart": 0.4, "purchase": 1.0}, "withdraws": {"remove": ["cart"]},
    "target": ["purchase"],
}  # fmt: skip


def log(*records: tuple) -> pl.DataFrame:
    """Raw rows from (user, item, event type, day[, quantity])."""
    rows = [(*record, None)[:5] for record in records]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "source_kind", "day", "source_pieces"], orient="row")
    frame = frame.cast({"source_pieces": pl.String, "source_kind": pl.String, "day": pl.Float64})
    at = pl.lit(DAY) + pl.duration(microseconds=(pl.col("day") * 86_400e6).cast(pl.Int64))
    return frame.with_columns(rating=pl.lit(None, pl.Float64), timestamp=at.cast(pl.Datetime("us"))).drop("day")


def cleaned(rows: pl.DataFrame, repeats: str | None = None, **events: Any) -> tuple[list[tuple], dict[str, int]]:
    own = Events.model_validate({**SHOP, **events})
    feedback = Feedback.model_validate({"repeats": repeats})
    kept, ledger = apply_filters(rows, feedback, Filter(), 42, events=own)
    assert sum(ledger.values()) == rows.height and ledger[Reason.KEPT] == kept.height
    shown = kept.select(pl.col("user_id", "item_id").cast(pl.String), "event", pl.col("quantity").cast(pl.Float64))
    return shown.rows(), {reason: n for reason, n in ledger.items() if n}


def test_every_row_has_one_reason():
    rows = log(
        ("u", "a", "view", 0), ("u", "a", " view ", 1), ("u", "a", "cart", 2), ("u", "a", "purchase", 3),
        ("u", "a", "remove", 4), ("u", "a", "cart", 5), ("u", "b", "share", 6), ("u", "b", None, 6),
        ("u", "b", "purchase", 7), ("u", "b", "remove", 8),
    )  # fmt: skip
    kept, ledger = cleaned(rows)
    assert kept == [("u", "a", e, 1.0) for e in ("view", "purchase", "cart")] + [("u", "b", "purchase", 1.0)]
    assert ledger == {"kept": 4, "unknown_event": 2, "withdrawn": 1, "withdrawal": 2, "duplicate": 1}


def test_a_withdrawal_cancels_what_is_earlier_in_time_not_in_the_file():
    rows = log(("u", "a", "remove", 5), ("u", "a", "cart", 6), ("u", "a", "cart", 4), ("v", "a", "cart", 1))
    assert cleaned(rows)[1] == {"kept": 2, "withdrawn": 1, "withdrawal": 1}
    untimed = rows.with_columns(timestamp=pl.lit(None, pl.Datetime("us")))  # then the order of the file
    assert cleaned(untimed)[1] == {"kept": 2, "withdrawal": 1, "duplicate": 1}


@pytest.mark.parametrize(
    ("repeats", "quantity"), [(None, 2.0), ("latest", 2.0), ("sum", 6.0), ("count", 3.0), ("max", 3.0)]
)
def test_repeats(repeats, quantity):
    rows = log(
        ("u", "a", "purchase", 0, "1"), ("u", "a", "purchase", 1, "3"), ("u", "a", "view", 2), ("u", "a", "purchase", 3, "2")
    )  # fmt: skip
    kept, ledger = cleaned(rows, repeats, quantity="pieces")
    assert kept == [("u", "a", "view", 1.0), ("u", "a", "purchase", quantity)] and ledger["duplicate"] == 2
    assert len(cleaned(rows, "separate", quantity="pieces")[0]) == 4


def test_returns_reduce_sums_and_are_nothing_else():
    rows = log(
        ("u", "a", "purchase", 0, "2"), ("u", "a", "purchase", 1, "-2"), ("u", "b", "purchase", 2, "3"),
        ("u", "b", "purchase", 3, "-1"), ("u", "c", "purchase", 4, "many"), ("u", "d", "purchase", 5, ""),
    )  # fmt: skip
    kept, ledger = cleaned(rows.with_columns(pl.col("source_pieces").replace({"": None})), "sum", quantity="pieces")
    assert kept == [("u", "b", "purchase", 2.0), ("u", "d", "purchase", 1.0)]
    assert ledger == {"kept": 2, "quantity_unreadable": 1, "quantity_not_positive": 1, "duplicate": 2}
    kept, ledger = cleaned(rows, "latest", quantity="pieces")
    assert ledger["quantity_not_positive"] == 2 and ("u", "a", "purchase", 2.0) in kept


def test_a_cap_keeps_the_first_of_a_day_and_every_target():
    views = [("bot", f"i{n}", "view", n / 100) for n in range(20)]
    rows = log(*views, ("bot", "i0", "purchase", 0.9), ("bot", "z", "view", 1.5), ("u", "a", "view", 0))
    kept, ledger = cleaned(rows, caps={"per_user_per_day": 5})
    assert ledger == {"kept": 8, "over_daily_cap": 15}
    assert {item for user, item, *_ in kept if user == "bot"} == {"z", *(f"i{n}" for n in range(5))}
    with pytest.raises(SettingsError, match="no times"):
        cleaned(rows.with_columns(timestamp=pl.lit(None, pl.Datetime("us"))), caps={"per_user_per_day": 5})


def test_weight_0_is_not_learnt_from_but_may_mask():
    rows = log(("u", "a", "view", 0), ("u", "b", "seen", 1), ("u", "c", "purchase", 2))
    weights = {"view": 0.0, "seen": 0.0, "purchase": 1.0}
    own = Events.model_validate({"column": "kind", "weights": weights, "mask": ["seen", "purchase"]})
    kept, ledger = apply_filters(rows, Feedback(), Filter(), 42, events=own)
    assert ledger[Reason.EVENT_NOT_LEARNT] == 1
    assert kept.select("event", "positive", "target", "masks").rows() == [
        ("seen", False, False, True), ("purchase", True, True, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": ["buy"]}, "target: 'buy' is not in weights"),
        ({"mask": ["buy"]}, "mask: 'buy' is not in weights"),
        ({"withdraws": {"remove": ["buy"]}}, "withdraws: 'buy' is not in weights"),
        ({"withdraws": {"view": ["cart"]}}, "'view' cancels events, so it has no weight"),
        ({"weights": {"view": 0.0}, "target": [], "withdraws": {}}, "one of them above 0"),
        ({"weights": {"view": 1, "purchase": 0, "cart": 1}}, "'purchase' has weight 0"),
    ],
)
def test_contradictions_in_settings_are_named(change, message):
    with pytest.raises(ValidationError, match=message):
        Events.model_validate({**SHOP, **change})


def test_one_unknown_row_of_many_is_named_by_its_number(tmp_path):
    rows = log(*((f"u{n}", "a", "purchase", n) for n in range(2999)), ("u", "b", "wish", 1))
    run = make_run(tmp_path, dataset={"events": SHOP}, checks={"max_unknown_events": 0.0001})
    with pytest.raises(Refused, match=r"1 of 3,000 rows has .*wish 1; .* checks.max_unknown_events = 0.01%"):
        clean.clean_interactions(run, store(run, rows))


def test_unknown_types_are_a_warning_or_a_refusal(tmp_path):
    rows = log(*((f"u{n}", "a", "purchase", n) for n in range(8)), ("u", "b", "wish", 1), ("u", "c", "wish", 1))
    for limit in (None, 0.1):
        home = tmp_path / str(limit)
        run = make_run(home, dataset={"events": SHOP}, checks={"max_unknown_events": limit})
        if limit:
            with pytest.raises(Refused, match=r"20.0% .*wish 2; that is more than checks.max_unknown_events = 10.0%"):
                clean.clean_interactions(run, store(run, rows))
            continue
        folder = clean.clean_interactions(run, store(run, rows))
        notes = " ".join(journal.notes(run.home, run.dataset, run.run_id))
        assert "20.0% of the rows have an event type that is not in [events]: wish 2" in notes
        assert "the target purchase has 8 of 10 rows" in notes
        found = lake.info(folder)["events"]
        assert found["unknown"] == {"wish": 2} and found["unknown_rows"] == 2


def test_the_funnel_counts_types_and_contradictions(tmp_path):
    rows = log(
        ("u", "a", "view", 0), ("u", "a", "cart", 1), ("u", "a", "remove", 2), ("u", "b", "remove", 3),
        ("u", "c", "purchase", 4), ("u", "c", "remove", 5), ("v", "a", "view", 1),
    )  # fmt: skip
    run = make_run(tmp_path, dataset={"events": SHOP})
    found = lake.info(clean.clean_interactions(run, store(run, rows)))["events"]
    counts = {kind["event"]: (kind["rows"], kind["users"], kind["items"]) for kind in found["types"]}
    assert counts == {"remove": (3, 1, 3), "view": (2, 2, 1), "cart": (1, 1, 1), "purchase": (1, 1, 1)}
    assert (found["pairs"], found["pairs_of_several_types"]) == (4, 2)
    assert (found["pairs_withdrawn_and_target"], found["withdrawals_of_nothing"]) == (1, 2)


def test_weights_do_not_change_keys_of_data_and_no_events_change_none(tmp_path):
    def key(name: str, **dataset: Any) -> str:
        run = make_run(tmp_path / name, dataset=dataset)
        return clean.spec(run, tmp_path).key

    plain, shop = key("a"), key("b", events=SHOP)
    assert plain == key("c", events=None) != shop
    assert shop == key("d", events={**SHOP, "weights": {"view": 0.5, "cart": 0.4, "purchase": 2.0}, "search": True})
    assert shop != key("e", events={**SHOP, "weights": {"view": 0.0, "cart": 0.4, "purchase": 2.0}})
    assert key("f", feedback={"repeats": "sum"}) not in (plain, key("g", feedback={"repeats": "count"}))


# ── splits ──
EVENTS = st.tuples(
    st.sampled_from("uvwx"), st.sampled_from("abcde"), st.sampled_from(["view", "cart", "purchase"]), st.integers(0, 30)
)


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    st.lists(EVENTS, min_size=8, max_size=60),
    st.sampled_from([None, "separate"]),
    st.sampled_from(["global_time", "leave_one_out", "random"]),
    st.sampled_from([None, ["view", "purchase"], []]),
)
def test_no_split_leaks(records, repeats, kind, mask):
    """Held out are only targets that a list may have, and nothing to learn from is later than what is to be found."""
    own = Events.model_validate({**SHOP, "mask": mask})
    feedback = Feedback.model_validate({"repeats": repeats})
    kept, _ = apply_filters(log(*records, ("u", "z", "view", 0)), feedback, Filter(), 42, events=own)
    rows, users, items = encode_rows(kept, 42, own.kinds)
    wanted = Split.model_validate({"kind": kind, "valid": 0.2, "test": 0.2})
    labels = splitters.label_rows(rows, splitters.Draw(users["user_id"], items["item_id"], 42), kind, wanted)
    rows, _ = splitters.without_repeated_targets(rows, labels, kind, HIDE)
    train, valid, test = (rows.filter(labels == label) for label in range(3))
    split_checks.assert_no_leak(train, valid, test, kind)
    assert train.height + valid.height + test.height == rows.height
    for held, earlier in ((valid, train), (test, pl.concat([train, valid]))):
        pairs = held.filter("target").select("user_idx", "item_idx")
        masked = earlier.filter("masks").select("user_idx", "item_idx")
        assert pairs.is_unique().all() and pairs.join(masked, on=["user_idx", "item_idx"]).is_empty()
        assert set(held.filter("target")["event"]) <= {own.kinds.index("purchase")}


def test_leave_one_out_holds_out_the_last_purchase_and_forgets_what_came_later():
    rows = log(
        ("u", "a", "view", 0), ("u", "a", "purchase", 1), ("u", "b", "view", 2), ("u", "b", "purchase", 3),
        ("u", "c", "view", 4), ("v", "a", "view", 0), ("v", "b", "purchase", 1), ("w", "a", "purchase", 0),
    )  # fmt: skip
    own = Events.model_validate(SHOP)
    encoded, *_ = encode_rows(apply_filters(rows, Feedback(), Filter(), 42, events=own)[0], 42, own.kinds)
    labels = splitters.leave_one_out(encoded, valid=True)
    assert labels.tolist() == [0, 1, 1, 2, 2, 0, 2, 0]


def test_a_pair_that_the_mask_hides_is_a_leak():
    rows = pl.DataFrame(
        {"user_idx": [0], "item_idx": [0], "timestamp": [DAY], "target": [True], "masks": [True]},
        schema_overrides={"user_idx": pl.Int32, "item_idx": pl.Int32, "timestamp": pl.Datetime("us")},
    )
    later = rows.with_columns(pl.col("timestamp") + dt.timedelta(days=1))
    with pytest.raises(ContractError, match="masked by an earlier split"):
        split_checks.assert_no_leak(rows, later.clear(), later, "global_time")
    split_checks.assert_no_leak(rows.with_columns(masks=False), later.clear(), later, "global_time")


def test_a_repeated_purchase_is_not_held_out_unless_nothing_is_masked(tmp_path):
    rows = log(
        *((f"u{n}", "a", "purchase", 0) for n in range(6)), *((f"u{n}", "b", "purchase", 5) for n in range(3)),
        *((f"u{n}", "a", "purchase", 10) for n in range(6)), ("u0", "c", "purchase", 10),
    )  # fmt: skip
    for mask, held in ((None, 1), ([], 7)):
        run = make_run(
            tmp_path / str(held), dataset={"events": {**SHOP, "mask": mask}, "feedback": {"repeats": "separate"}},
            split={"kind": "global_time", "valid": 0, "test": 0.4},
        )  # fmt: skip
        folder = split.split_interactions(run, encode.encode_ids(run, clean.clean_interactions(run, store(run, rows))))
        info = lake.info(folder)
        assert info["targets"]["test"] == held and info["repeated_targets"] == 7 - held
        assert pl.read_parquet(folder / "test.parquet")["target"].sum() == held


@pytest.mark.parametrize("kind", ["leave_one_out", "random", "global_time"])
@pytest.mark.parametrize("minutes", [5, 30 * 60])
def test_a_view_minutes_before_the_purchase_gives_it_away(tmp_path, kind: str, minutes: int):
    """Views stay in the history of what is held out by user; a cut in time has few of them, and no warning."""
    rows = []
    for user in range(12):
        for place, item in enumerate("abcd"):
            bought = 3 * place + user / 24
            rows.append((f"u{user:02d}", item, "view", bought - minutes / 1440))
            rows.append((f"u{user:02d}", item, "purchase", bought))
    wanted = {"kind": kind, "valid": 0.2, "test": 0.2}
    run = make_run(tmp_path, dataset={"events": SHOP}, split=wanted)
    folder = split.split_interactions(
        run, encode.encode_ids(run, clean.clean_interactions(run, store(run, log(*rows))))
    )
    parts = {name: pl.read_parquet(folder / f"{name}.parquet") for name in splitters.SPLITS}
    expected = {}
    for name, before in (("valid", ["train"]), ("test", ["train", "valid"])):
        views = pl.concat([parts[part].filter(~pl.col("target")) for part in before])
        earlier = set(views.select("user_idx", "item_idx").rows())
        held = parts[name].filter("target").select("user_idx", "item_idx").rows()
        expected[name] = (sum(pair in earlier for pair in held) if minutes < 1440 else 0, len(held))
    found = split_checks.announced(parts)
    assert found == expected and all(held for _, held in found.values())
    warned = [note for note in journal.notes(run.home, "three", "r1") if "follow an event of another" in note]
    assert bool(warned) == (
        kind != "global_time" and any(near >= 0.2 * held and near for near, held in expected.values())
    )
    assert warned or kind != "leave_one_out" or minutes > 1440
    if warned:
        assert 'Set split.kind = "global_time"' in warned[0]
