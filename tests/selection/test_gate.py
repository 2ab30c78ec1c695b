"""The gate: what is published stays until a challenger gains significantly, and nobody loses to popularity."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.publishing import Gate
from pipeline.config.settings import BASELINE, INCUMBENT, Select
from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.selection import fit_cost, gate, incumbent
from pipeline.selection.comparison import ValidationResults, by_segment
from pipeline.selection.gain import FEWEST_USERS, error_rate, interval
from pipeline.selection.incumbent import Configuration, Contest, find_baseline, published_configuration
from pipeline.selection.list_changes import ListChanges
from pipeline.storage import journal
from tests.support.metrics import N, figures
from tests.support.nights import ask
from tests.support.tastes import BAD, GOOD, first_night, one_night, record, write_log

ACTIVITY = pl.DataFrame({"user_idx": np.arange(N, dtype=np.int32), "n_interactions": np.arange(N)})


SECONDS = {"new": 2.0, "old": 10.0, "other": 4.0}


def judged(
    contest: Contest,
    metric: str = "ndcg",
    settings: Gate | None = None,
    changes: ListChanges | None = None,
    **shifts,
) -> dict:
    by_user = figures(**shifts)
    values = {label: float(frame["value"].mean()) for label, frame in by_user.items()}  # type: ignore[arg-type]
    select = Select(metric=metric, protocol="error" if metric == "rmse" else "full")
    results = ValidationResults(values, by_user, ACTIVITY, SECONDS, changes or {})
    return gate.judge(settings or Gate(), select, results, contest, seed=1).record()


def contest(incumbent: str | None = "old", baseline: str | None = None, **families: str) -> Contest:
    """`baseline` is one that the gate has added."""
    known = {label: Configuration(family=family) for label, family in families.items()}
    return Contest(known, {baseline: None} if baseline else {}, incumbent, "r0", baseline)  # type: ignore[dict-item]


def test_a_better_challenger_replaces_the_incumbent():
    verdict = judged(contest(), new=0.03, old=0.0)
    assert (verdict["decision"], verdict["published"]) == ("replaced", "new")
    numbers = verdict["against_incumbent"]
    assert numbers["ci_low"] < numbers["value"] < numbers["ci_high"] and numbers["n"] == N
    assert numbers["value"] == pytest.approx(0.03, abs=0.01) and numbers["p_value"] < 0.01
    assert {segment["segment"] for segment in verdict["segments"]} == {"activity_low", "activity_mid", "activity_high"}


def test_a_worse_challenger_does_not():
    verdict = judged(contest(), new=-0.03, old=0.0)
    assert (verdict["decision"], verdict["published"]) == ("kept", "old")
    assert "old (the incumbent)" not in verdict["text"] and "the incumbent old stays" in verdict["text"]


def test_better_by_chance_is_not_enough():
    lucky = next(seed for seed in range(50) if 0 < _difference(seed) < 0.001)
    for settings in (Gate(), Gate(margin=0.05), Gate(nights=1)):
        close = judged(contest(), settings=settings, seed=lucky, new=0.0, old=0.0)
        assert (close["decision"], close["published"]) == ("kept", "old")
        gain = close["gain"]
        assert gain["ci_low"] < 0 < gain["value"] == pytest.approx(close["against_incumbent"]["value"])
        assert "this interval is not above 0" in close["text"]
        assert f"1 challenger on {settings.nights} nights" in close["text"]


def test_the_level_is_corrected_for_challengers_and_nights():
    """0.05 x 2 / 30 nights, one-sided; never above 0.025, that of one ordinary interval."""
    assert error_rate(Gate(), 1) == pytest.approx(0.1 / 30)
    assert error_rate(Gate(), 4) == pytest.approx(0.1 / 120)
    assert error_rate(Gate(nights=1), 1) == pytest.approx(0.025) == error_rate(Gate(nights=1), 0)
    four = judged(contest(), new=0.03, a=0.0, b=0.0, c=0.0, old=0.0)["gain"]
    one = judged(contest(), new=0.03, old=0.0)["gain"]
    assert (four["challengers"], one["challengers"]) == (4, 1) and four["level"] > one["level"]


@given(st.integers(FEWEST_USERS, 200), st.integers(0, 2**32), st.floats(1e-4, 0.1))
def test_an_interval_is_around_the_mean_and_wider_at_a_stricter_level(n: int, seed: int, alpha: float):
    changes = np.random.default_rng(seed).normal(size=(3, n))
    mean, low, high = interval(changes, alpha)
    assert (low < mean).all() and (mean < high).all() and mean == pytest.approx(changes.mean(1))
    _, stricter, _ = interval(changes, alpha / 2)
    assert (stricter < low).all()
    _, alone, _ = interval(changes[0], alpha)
    assert alone == pytest.approx(low[0])


@pytest.mark.parametrize("n", [1, 2, FEWEST_USERS - 1])
def test_a_few_users_show_nothing(n):
    assert interval(np.ones((2, n)), 0.01)[1].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("n", [FEWEST_USERS, 20])
def test_few_users_find_hardly_more_false_gains_than_the_level(n):
    """Of changes with three values, which is not what the t interval is made for; of two users it would be 9 %."""
    changes = np.random.default_rng(n).choice([-1.0, 0.0, 1.0], (100_000, n))
    assert (interval(changes, 0.1 / 30)[1] > 0).mean() < 2 * 0.1 / 30


def test_a_gain_that_is_too_small_is_not_taken():
    small = judged(contest(), settings=Gate(min_gain=0.2), new=0.03, old=0.0)
    assert small["published"] == "old" and "above the gain of" in small["text"]
    assert small["gain"]["ci_low"] > 0 and small["gain"]["needed"] == pytest.approx(0.05, abs=0.01)
    errors = judged(contest(), "rmse", Gate(min_gain=0.5), new=-0.03, old=0.0)
    assert errors["published"] == "old"
    rmse2 = errors["gain"]["needed"] / (1 - 0.5**2)  # half of the error is a quarter of its square
    assert errors["gain"]["allowed_loss"] == pytest.approx(rmse2 * (1.01**2 - 1))


def test_a_cheaper_equal_replaces_the_incumbent_only_where_the_recipe_says_so():
    equal: dict[str, Any] = {"new": -0.0005, "old": 0.0}
    assert judged(contest(), settings=Gate(margin=0.05), **equal)["published"] == "old"
    cheaper = Gate(margin=0.05, prefer="cheaper")
    verdict = judged(contest(), settings=cheaper, **equal)
    assert (verdict["decision"], verdict["published"]) == ("replaced", "new")
    assert "its fit takes 2 s instead of 10 s and it loses at most" in verdict["text"]
    strict = judged(contest(), settings=Gate(margin=0.0, prefer="cheaper"), **equal)
    assert strict["published"] == "old", "not shown to be equal"
    assert judged(contest(), settings=Gate(margin=0.05, prefer="cheaper", max_cost=0.1), **equal)["published"] == "old"
    assert judged(contest(), settings=cheaper, new=-0.05, old=0.0)["published"] == "old", "cheaper, but worse"
    harm = np.where(np.arange(N) < N // 3, -0.05, 0.025)
    assert judged(contest(), settings=cheaper, new=harm, old=0.0)["published"] == "old"


def test_a_cheaper_one_behind_the_best_challenger_is_seen():
    cheaper = Gate(margin=0.05, prefer="cheaper")
    verdict = judged(contest("old"), settings=cheaper, dear=0.001, new=0.0, old=0.0)
    assert (verdict["published"], verdict["challenger"], verdict["gain"]["challengers"]) == ("new", "new", 2)
    assert judged(contest("old"), settings=cheaper, dear=0.03, new=0.0, old=0.0)["published"] == "dear"


def test_two_models_within_the_margin_do_not_take_turns():
    """`old` is better by less than the margin, beyond doubt, and costs more: either way `new` is published."""
    shifts: dict[str, Any] = {"new": 0.0, "old": 0.02}
    cheaper = Gate(margin=0.15, prefer="cheaper")
    assert judged(contest("old"), settings=cheaper, **shifts)["published"] == "new"
    back = judged(contest("new"), settings=cheaper, **shifts)
    assert (back["published"], back["challenger"]) == ("new", "old") and back["gain"]["ci_low"] > 0
    assert judged(contest("new"), settings=Gate(margin=0.15), **shifts)["published"] == "old"


STEADIER = Gate(margin=0.05, prefer="steadier")


def list_changes(users: int = 400, **means: float) -> dict[str, np.ndarray]:
    """1 - Jaccard of the same users, around a mean."""
    draw = np.random.default_rng(users)
    return {label: np.clip(draw.normal(mean, 0.1, users), 0, 1) for label, mean in means.items()}


def test_a_steadier_equal_replaces_the_incumbent_only_where_the_recipe_says_so():
    equal: dict[str, Any] = {"new": -0.0005, "old": 0.0, "changes": list_changes(new=0.2, old=0.7)}
    verdict = judged(contest(), settings=STEADIER, **equal)
    assert (verdict["decision"], verdict["published"]) == ("replaced", "new")
    assert "it changes the published lists by" in verdict["text"] and "400 users" in verdict["text"]
    cost = verdict["cost"]
    assert (cost["of"], cost["lower"], cost["higher"], cost["n"]) == ("lists", True, False, 400)
    assert cost["ci_low"] < cost["challenger"] - cost["incumbent"] < cost["ci_high"] < 0
    for other in (Gate(margin=0.05), Gate(margin=0.05, prefer="cheaper", max_cost=0.1)):
        assert judged(contest(), settings=other, **equal)["published"] == "old"
    assert "cost" not in judged(contest(), settings=Gate(margin=0.05), **equal)
    for changes in (list_changes(new=0.2, old=0.39), list_changes(1, new=0.2, old=0.7), {}):
        kept = judged(contest(), settings=STEADIER, **{**equal, "changes": changes})
        assert kept["published"] == "old", "not clearly less, one user, or not known"
    assert judged(contest(), settings=STEADIER, **{**equal, "new": -0.05})["published"] == "old", "it is worse"


def test_a_gain_within_the_margin_is_not_worth_other_lists():
    changes = list_changes(new=0.7, old=0.1)
    small: dict[str, Any] = {"new": 0.02, "old": 0.0, "changes": changes}
    steadier = Gate(margin=0.15, prefer="steadier")
    kept = judged(contest(), settings=steadier, **small)
    assert kept["published"] == "old" and kept["gain"]["ci_low"] > 0
    assert "that it needs, as it changes the published lists by" in kept["text"]
    assert judged(contest(), settings=Gate(margin=0.15), **small)["published"] == "new"
    assert judged(contest(), settings=steadier, **{**small, "new": 0.06})["published"] == "new", (
        "a gain that is worth it"
    )


def _difference(seed: int) -> float:
    both = figures(seed, new=0.0, old=0.0)
    return float(both["new"]["value"].mean() - both["old"]["value"].mean())  # type: ignore[operator]


def test_a_harmed_segment_stops_a_challenger():
    shift = np.where(np.arange(N) < N // 3, -0.05, 0.08)  # the least active third pays for the others
    verdict = judged(contest(), new=shift, old=0.0)
    assert (verdict["decision"], verdict["published"]) == ("kept", "old")
    assert "new harms activity_low" in verdict["text"]
    assert [s["segment"] for s in verdict["segments"] if s["harmed"]] == ["activity_low"]
    tolerant = judged(contest(), settings=Gate(min_segment_users=N), new=shift, old=0.0)
    assert tolerant["published"] == "new" and tolerant["segments"] == []


def test_lower_is_better_for_errors():
    assert judged(contest(), "rmse", new=-0.03, old=0.0)["decision"] == "replaced"
    assert judged(contest(), "rmse", new=0.03, old=0.0)["decision"] == "kept"


def test_who_loses_to_popularity_is_not_published():
    of = {"new": "mf", "old": "ease", "popular": "popularity"}
    both = judged(contest("old", "popular", **of), new=0.05, old=0.0, popular=0.1)
    assert (both["decision"], both["published"]) == ("floor", "popular")
    assert "new loses to popular" in both["text"] and "the incumbent old loses to popular" in both["text"]
    assert both["against_floor"]["ci_high"] < 0
    first = judged(contest(None, "popular", **of), new=-0.05, popular=0.0)
    assert (first["decision"], first["published"]) == ("floor", "popular")
    level = judged(contest(None, "popular", **of), new=0.0, popular=0.0)
    assert level["published"] in ("new", "popular") and level["decision"] == "first"
    rescued = judged(contest("old", "popular", **of), new=0.001, old=0.0, popular=0.05)
    assert rescued["published"] == "popular"


def test_a_winner_that_loses_to_popularity_gives_way_to_the_other():
    shift = np.where(np.arange(N) < N // 3, -0.03, 0.10)  # harms a segment, yet beats popularity
    of = {"new": "mf", "old": "ease", "popular": "popularity"}
    verdict = judged(contest("old", "popular", **of), new=shift, old=-0.05, popular=0.0)
    assert verdict["published"] == "new", verdict["text"]


def test_the_record_of_a_verdict_keeps_its_keys_and_values():
    shift = np.where(np.arange(N) < N // 3, -0.03, 0.10)
    of = {"new": "mf", "old": "ease", "popular": "popularity"}
    verdict = judged(contest("old", "popular", **of), new=shift, old=-0.05, popular=0.0)
    golden = json.loads(Path(__file__).with_name("verdict.json").read_text())
    assert flat(verdict) == pytest.approx(flat(golden))


def flat(record: dict, prefix: str = "") -> dict:
    """Scalar values by dotted key."""
    found = {}
    for key, value in record.items():
        nested = dict(enumerate(value)) if isinstance(value, list) else value
        found |= flat(nested, f"{prefix}{key}.") if isinstance(nested, dict) else {f"{prefix}{key}": value}
    return found


def test_segments_are_thirds_by_activity_and_the_cold():
    frame = figures(a=0.0)["a"].with_columns(warm=pl.col("user_idx") >= 30).join(ACTIVITY, on="user_idx")
    parts = dict(by_segment(frame))
    assert [part.height for part in parts.values()] == [290, 290, 290, 30]
    assert parts["activity_low"]["n_interactions"].max() < parts["activity_mid"]["n_interactions"].min()


def test_nights_in_a_row(tmp_path):
    first = first_night(tmp_path)
    verdict = record(first)["gate"]
    assert (verdict["decision"], verdict["published"], verdict["floor"]) == ("first", "ease", BASELINE)
    assert verdict["against_floor"]["value"] > 0.1

    worse = one_night(tmp_path, BAD)  # the recipe changes to a worse family: what is published stays
    verdict = record(worse)["gate"]
    assert (verdict["decision"], verdict["published"], verdict["challenger"]) == ("kept", INCUMBENT, "worse")
    assert verdict["against_incumbent"]["ci_high"] < 0
    lists = "select user_id, rank, item_id from recommendations order by 1, 2"
    assert set(ask(worse, "select distinct model from recommendations")["model"]) == {INCUMBENT}
    assert record(worse)["champion_configuration"] == record(first)["champion_configuration"]
    fresh = one_night(_beside(tmp_path, "fresh"))
    assert ask(worse, lists).equals(ask(fresh, lists)), "the incumbent is fitted on tonight's rows like anybody"

    again = one_night(tmp_path, BAD + GOOD)  # tonight's recipe has that configuration: nothing is fitted twice
    assert record(again)["gate"]["incumbent"] == "ease" and record(again)["champion"] == "ease"
    stages = journal.read(again.home, again.dataset, tables.STAGES, again.run_id)["stage"]
    assert not any(INCUMBENT in stage for stage in stages)
    assert any(note.startswith("gate: ease") or "the incumbent ease stays" in note for note in _notes(again))


def test_a_better_recipe_takes_over_and_its_hash_is_that_of_a_fresh_home(tmp_path):
    write_log(tmp_path / "data")
    one_night(tmp_path, BAD, "gate.enabled=false")
    better = one_night(tmp_path, GOOD)
    assert (record(better)["gate"]["decision"], record(better)["champion"]) == ("replaced", "ease")
    assert INCUMBENT in set(ask(better, "select distinct model from metrics")["model"])
    fresh = one_night(_beside(tmp_path, "fresh"), GOOD)
    assert record(fresh)["logical_hash"] == record(better)["logical_hash"]


def test_a_model_that_loses_to_popularity_is_not_published_on_the_first_night(tmp_path):
    draw = random.Random(0)
    pairs = [(u, i) for u in range(150) for i in [*draw.sample(range(20), 8), *draw.sample(range(20, 120), 2)]]
    draw.shuffle(pairs)  # 20 hits for everybody, 100 items of the tail
    rows = [f"u{user},i{item},{1_600_000_000 + 600 * n}" for n, (user, item) in enumerate(pairs)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "log.csv").write_text("\n".join(["user,item,timestamp", *rows, ""]))
    run = one_night(tmp_path, BAD)
    assert record(run)["gate"]["decision"] == "floor" and record(run)["champion"] == BASELINE
    assert set(ask(run, "select distinct model from recommendations")["model"]) == {BASELINE}
    tomorrow = one_night(tmp_path, BAD)
    assert record(tomorrow)["gate"]["floor"] == INCUMBENT, "the baseline of last night is not fitted twice"
    assert record(tomorrow)["champion"] == INCUMBENT


BLEND = GOOD + "[models.item_knn]\n[models.blend]\nof = ['ease', 'item_knn']\nweights = { ease = 3, item_knn = 1 }\n"


def test_a_published_blend_is_held_against_tonight(tmp_path):
    first = first_night(tmp_path, BLEND + "[gate]\nenabled = false\n")
    made = incumbent.configuration_of(_fit(first, "blend-train-"))
    seconds = [fit_cost.seconds_of(_fit(first, f"{label}-train-")) or 0 for label in ("blend", "ease", "item_knn")]
    assert seconds[0] >= sum(seconds[1:]) > 0, "a blend costs what its members cost"
    journal.update_run(first, champion="blend", champion_configuration=made.model_dump())

    second = one_night(tmp_path, BAD)  # neither it nor its members are in the recipe
    verdict = record(second)["gate"]
    assert (verdict["decision"], verdict["published"]) == ("kept", INCUMBENT)
    again = incumbent.configuration_of(_fit(second, f"{INCUMBENT}-train-"))
    assert again.hyperparameters["weights"] == {f"{INCUMBENT}_ease": 0.75, f"{INCUMBENT}_item_knn": 0.25}
    assert again.same_as(made) and not again.same_as(incumbent.configuration_of(_fit(second, "worse-train-")))
    measured = set(ask(second, f"select model from metrics where run_id = '{second.run_id}'")["model"])
    assert measured == {"worse", INCUMBENT, BASELINE}, "members on their own do not take part"

    third = one_night(tmp_path, BAD + GOOD)  # one member is fitted tonight anyway
    assert record(third)["gate"]["incumbent"] == INCUMBENT
    stages = journal.read(third.home, third.dataset, tables.STAGES, third.run_id)["stage"].to_list()
    assert f"train {INCUMBENT}_item_knn" in stages and f"train {INCUMBENT}_ease" not in stages
    assert not any(f"{INCUMBENT}_{INCUMBENT}" in stage for stage in stages)

    fourth = one_night(tmp_path, BLEND)  # tonight's recipe has that blend
    assert record(fourth)["gate"]["incumbent"] == "blend"


def test_a_published_blend_stays_out_where_a_member_fails(tmp_path):
    first = first_night(tmp_path, BLEND + "[gate]\nenabled = false\n")
    made = incumbent.configuration_of(_fit(first, "blend-train-"))
    journal.update_run(first, champion="blend", champion_configuration=made.model_dump())

    def fails(call, stage, *args):
        if call.label == f"{INCUMBENT}_ease":
            raise MemoryError("out of memory")
        return stage(*args)

    run = one_night(tmp_path, "[models.ials]\nepochs = 2\nembedding_dim = 4\n", step=fails)
    assert record(run)["champion"] == "ials" and f"{INCUMBENT}_ease" in record(run)["left_out"]
    assert not any(INCUMBENT in name.name for name in _fits(run) if "item_knn" not in name.name)


def test_the_gate_can_be_off(tmp_path):
    first_night(tmp_path)
    off = one_night(tmp_path, BAD + "[gate]\nenabled = false\n")
    assert record(off)["champion"] == "worse" and record(off)["gate"]["decision"] == "off"
    assert set(ask(off, f"select model from metrics where run_id = '{off.run_id}'")["model"]) == {"worse"}


@pytest.mark.parametrize("stored", [{"family": "gone"}, {"family": "ease", "hyperparameters": {"lamda": 3}}])
def test_an_incumbent_that_cant_be_fitted_any_more_is_told(tmp_path, stored):
    first = first_night(tmp_path)
    journal.update_run(first, champion_configuration=stored)
    second = one_night(tmp_path, BAD)
    assert record(second)["gate"]["incumbent"] is None and record(second)["champion"] in ("worse", BASELINE)
    assert any(f"published by night {first.run_id} can't compete" in note for note in _notes(second))


def test_an_incumbent_that_fails_tonight_lets_the_challenger_go_on(tmp_path):
    first_night(tmp_path)

    def fails(call, stage, *args):
        if call.label == INCUMBENT:
            raise MemoryError("out of memory")
        return stage(*args)

    run = one_night(tmp_path, "[models.ials]\nepochs = 2\nembedding_dim = 4\n", step=fails)
    assert record(run)["gate"]["decision"] == "unopposed" and record(run)["champion"] == "ials"
    assert "the incumbent ease could not be evaluated" in record(run)["gate"]["text"]
    assert INCUMBENT in record(run)["left_out"]


def test_a_night_without_a_configuration_in_its_journal(run):
    assert published_configuration(run, None) == (None, None)
    assert published_configuration(run, run.run_id)[1] is not None
    assert published_configuration(run, "no such night")[1] is not None


def test_the_floor_has_a_window_where_there_are_times(run):
    timed = run.settings.model_copy(
        update={"dataset": run.settings.dataset.model_copy(update={"columns": _columns("timestamp")})}
    )
    night = run.model_copy(update={"settings": timed})
    whole, recent = (Configuration(family="popularity", hyperparameters={"window_days": d}) for d in (None, 7.0))
    ease = Configuration(family="ease")
    assert find_baseline(night, {"p": whole, "r": recent, "ease": ease}) == ("r", None)
    assert find_baseline(run, {"p": whole, "r": recent, "ease": ease}) == ("p", None)
    added = find_baseline(night, {"p": whole, "ease": ease})[1]
    assert added is not None and added.hyperparameters == {"window_days": 30.0}
    added = find_baseline(run, {"ease": ease})[1]
    assert added is not None and added.hyperparameters == {}
    assert find_baseline(night, {"p": whole}) == ("p", None), "nothing but popularity needs no other"


def _fits(run) -> list[Path]:
    folders = (run.home.lake(run.dataset) / "5_models").iterdir()
    return [folder for folder in folders if not folder.name.startswith(".")]


def _fit(run, head: str) -> Path:
    """The one fit on train of a label."""
    (found,) = (folder for folder in _fits(run) if re.fullmatch(rf"{head}[0-9a-f]+", folder.name))
    return found


def _columns(timestamp: str):
    from pipeline.config.dataset import Columns

    return Columns(timestamp=timestamp)


def _beside(folder, name: str):
    """A folder with the same data and a home of its own."""
    other = folder / name
    other.mkdir()
    (other / "data").symlink_to(folder / "data")
    return other


def _notes(run) -> list[str]:
    return journal.notes(Home(run.home_root), run.dataset, run.run_id)
