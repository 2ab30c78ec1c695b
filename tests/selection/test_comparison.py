"""Models held against the best on valid: the numbers, their correction, and what readers of a night see of them."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import leaderboard, main
from pipeline.core.bootstrap import paired_difference
from pipeline.evaluation import per_user
from pipeline.publishing.logical_hash import hash_tables
from pipeline.reporting.html.sections_data import BETTER, LIKE_THE_BEST, leaderboards
from pipeline.reporting.night import Night
from pipeline.schemas import tables
from pipeline.selection.comparison import against, holm
from pipeline.storage import journal, warehouse
from tests.support.metrics import figures
from tests.support.nights import ask
from tests.support.tastes import BAD, GOOD, one_night, record, write_log

RECIPE = f"[models.ease]\nl2 = 5.0\n[models.near]\nfamily = 'ease'\nl2 = 5.2\n[models.popularity]\n{BAD}"


def test_one_comparison_is_that_of_the_gate():
    by_user = figures(a=0.01, b=0.0)
    found = against(by_user, "b", "ndcg", seed=5, confidence=0.95)
    values = {label: frame.sort("user_idx")["value"].to_torch() for label, frame in by_user.items()}
    assert found == {"a": paired_difference(values["a"], values["b"], seed=5)}


def test_many_at_once_are_each_alone():
    """But for p-values, which know how many there are; a model of other users is compared on those of both."""
    by_user = figures(best=0.0, a=-0.004, b=-0.001, c=-0.05)
    by_user["few"] = by_user["a"].filter(pl.col("user_idx") % 3 > 0)
    by_user["cold"] = by_user["a"].with_columns(warm=pl.lit(False))
    found = against(by_user, "best", "ndcg", seed=5, confidence=0.9)
    assert set(found) == {"a", "b", "c", "few"} and found["few"].n == 600
    for label, of in found.items():
        two = {name: by_user[name] for name in (label, "best")}
        alone = against(two, "best", "ndcg", seed=5, confidence=0.9)[label]
        assert (of.value, of.ci_low, of.ci_high, of.n) == pytest.approx(
            (alone.value, alone.ci_low, alone.ci_high, alone.n)
        )
        assert of.p_value >= alone.p_value
    assert found["c"].p_value < 0.05 < found["b"].p_value and found["c"].ci_high < 0


def test_errors_count_the_other_way_and_users_by_their_rows():
    by_user = figures(best=0.0, worse=0.03)
    assert against(by_user, "best", "rmse", seed=1, confidence=0.95)["worse"].value == pytest.approx(-0.03, abs=0.005)
    doubled = {label: frame.with_columns(n=pl.col("user_idx") % 2 * 3 + 1) for label, frame in by_user.items()}
    weight = doubled["best"]["n"] / doubled["best"]["n"].sum()
    expected = ((doubled["worse"]["value"] - doubled["best"]["value"]) * weight).sum()
    assert against(doubled, "best", "ndcg", seed=1, confidence=0.95)["worse"].value == pytest.approx(expected)


def test_holm_by_hand():
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_the_order_and_is_no_more_than_bonferroni(p_values: list[float]):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) or q == pytest.approx(p)
    assert [adjusted[at] for at in np.argsort(p_values, kind="stable")] == sorted(adjusted)


@pytest.mark.long
def test_among_equal_models_a_real_difference_is_rarely_found():
    """In 5 % of the nights at most, however many models; without the correction it would be in a third of them."""
    false = 0
    for night in range(60):
        by_user = {
            label: frame.head(300) for label, frame in figures(night, **dict.fromkeys("abcdefghij", 0.0)).items()
        }
        found = against(by_user, "a", "ndcg", seed=night, confidence=0.95)
        false += any(of.p_value <= 0.05 for of in found.values())
    assert false <= 8  # of 60 x 5 % = 3 expected, more in 2 % of the cases


@pytest.mark.long
def test_a_hundred_thousand_users_and_twenty_models_take_seconds():
    draw, users = np.random.default_rng(0), np.arange(100_000, dtype=np.int32)
    by_user = {
        f"m{i}": pl.DataFrame({"user_idx": users, "value": draw.random(len(users))}).with_columns(
            n=pl.lit(1, pl.Int64), warm=pl.lit(True)
        )
        for i in range(20)
    }
    started = time.process_time()
    assert len(against(by_user, "m0", "ndcg", seed=0, confidence=0.95)) == 19
    assert time.process_time() - started < 20  # 3 s on an idle core


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("comparing")
    write_log(folder / "data")
    return one_night(folder, RECIPE)


def test_a_night_holds_every_model_against_the_best_on_valid(night):
    rows, values = ask(night, "from comparisons order by all"), record(night)["choice"]["values"]
    best = max(values, key=values.get)
    assert best in ("ease", "near") and set(rows["other"]) == {best}, "on test, too"
    for split in ("valid", "test"):
        of = rows.filter(split=split)
        assert set(of["model"]) == set(values) - {best}
        real = dict(zip(of["model"], of["is_real"], strict=True))
        assert real["worse"] and not real["near" if best == "ease" else "ease"]
        figure = "segment = 'all' and metric = 'ndcg' and cutoff = 10"
        known = ask(night, f"select model, value, n from metrics where {figure} and split = '{split}'")
        figures_of = {model: (value, n) for model, value, n in known.rows()}
        for row in of.iter_rows(named=True):
            assert row["difference"] == pytest.approx(figures_of[row["model"]][0] - figures_of[best][0])
            assert row["ci_low"] <= row["difference"] <= row["ci_high"] and row["n"] == figures_of[row["model"]][1]


def test_the_leaderboards_show_it(night):
    board = ask(night, "from leaderboard where split = 'test'")
    words, decides = leaderboard.compared(board)
    assert decides.rows() == [("ndcg", 10)]
    of = dict(zip(words["model"], words["against_best"], strict=True))
    assert sorted(of[label] for label in ("ease", "near")) == ["best", "like"] and of["worse"] == "worse"
    assert board.filter(metric="recall")["compared_with"].null_count() == board.filter(metric="recall").height
    older = leaderboard.compared(board.drop("compared_with", "difference", "is_real"))
    assert [frame.height for frame in older] == [0, 0], "of a night before these"
    shown = leaderboards(Night(night.home, night.dataset, night.run_id))
    for drawn in shown:
        marks = {row["model"]: row["mark"] for row in drawn["tables"][0]["rows"]}
        assert sorted(marks[label] for label in ("ease", "near")) == ["", LIKE_THE_BEST] and not marks["worse"]
        assert "the best on valid, by ndcg@10 of 2" in drawn["compared"] and BETTER not in drawn["compared"]


def test_people_see_what_fits_a_terminal(night, capsys):
    words = ["--home", str(night.home_root), "leaderboard", night.dataset]
    assert main([*words, "--json"]) == 0
    board = pl.DataFrame(json.loads(capsys.readouterr().out))
    assert {"gini@10", "novelty@10", "split", "protocol", "against_best"} <= set(board.columns)
    assert main(words) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "model", "champion", "ndcg@10", "recall@10", "hit_rate@10", "coverage@10", "n", "against_best",
    ]  # fmt: skip
    assert max(map(len, [head, *rows])) <= 100 and [row.split()[0] for row in rows] == board["model"].to_list()
    assert ["yes" in row.split() for row in rows] == board["champion"].to_list() and board["champion"].sum() == 1


def test_the_figure_that_selects_is_first(night, capsys, monkeypatch):
    """Whatever it is: of errors the lowest is the best; other protocols stand apart."""
    about = {"champion": False, "split": "test", "ci_low": None, "ci_high": None, "n": 9, "difference": -0.1}
    rows = [
        ("full", "mrr", 5, 0.2, 0.3, None),
        ("full", "ndcg", 10, 0.4, 0.1, None),
        ("error", "mae", 0, 0.7, 0.6, "a"),
    ]
    board = pl.DataFrame(
        [
            {**about, "model": model, "protocol": protocol, "metric": metric, "cutoff": cutoff, "value": value}
            | {"compared_with": best if model == "b" else None, "is_real": True}
            for protocol, metric, cutoff, *values, best in rows
            for model, value in zip("ab", values, strict=True)
        ]
    ).with_columns(pl.col("compared_with").cast(pl.String))

    def shown(frame: pl.DataFrame) -> list[list[str]]:
        monkeypatch.setattr(leaderboard, "query", lambda *_: frame)
        assert main(["leaderboard", night.dataset]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    head, first, *_ = shown(board)
    assert head[2:5] == ["protocol", "mae", "ndcg@10"]
    assert first[0] == "b", "its error is lower"
    select = pl.when(metric="mrr", model="b").then(pl.lit("a"))
    head, first, *_ = shown(board.filter(protocol="full").with_columns(compared_with=select))
    assert head[2] == "mrr@5" and "ndcg@10" not in head and first[0] == "b"
    head, first, *_ = shown(board.filter(metric="mrr"))
    assert head[2:4] == ["n", "against_best"], "no figure of the usual ones; --all has it"


def test_standings_are_the_leaderboard_at_a_glance(night):
    found = ask(night, "from standings where figure = 'ndcg@10'")
    assert found["model"].is_unique().all() and found["champion"].sum() == 1
    for split in ("valid", "test"):
        board = ask(night, f"from leaderboard where split = '{split}' and metric = 'ndcg' and cutoff = 10")
        assert dict(zip(found["model"], found[split], strict=True)) == {
            row["model"]: round(row["value"], 4) for row in board.iter_rows(named=True)
        }
    words, _ = leaderboard.compared(ask(night, "from leaderboard where split = 'test'"))
    assert dict(found.select("model", "against_best").iter_rows()) == dict(
        words.select("model", "against_best").iter_rows()
    )
    assert found["test"].is_sorted(descending=True)


def test_nothing_is_shown_where_nothing_was_compared(night, tmp_path):
    alone = Night(night.home, night.dataset, night.run_id)
    alone.__dict__["metrics"] = alone.metrics
    at = night.home.journal(night.dataset) / night.run_id / "comparisons.jsonl"
    kept = at.rename(tmp_path / at.name)
    try:
        assert [board["compared"] for board in leaderboards(alone)] == ["", ""]
    finally:
        shutil.copy(kept, at)


def test_the_logical_hash_leaves_comparisons_out(night, tmp_path):
    """What the gate lets take part next to the recipe's models is one of them; the figures themselves count."""
    copy = shutil.copy(night.home.live(night.dataset), tmp_path / "copy.duckdb")
    copy.chmod(0o600)
    with warehouse.connect(copy) as con:
        before = hash_tables(con, night.run_id)
        assert before == record(night)["logical_hash"]
        con.execute("UPDATE comparisons SET difference = 9, other = 'incumbent'")
        assert hash_tables(con, night.run_id) == before
        con.execute("UPDATE metrics SET value = 9")
        assert hash_tables(con, night.run_id) != before


def test_one_model_alone_is_not_compared(tmp_path):
    write_log(tmp_path / "data", n_users=60)
    run = one_night(tmp_path, GOOD, "gate.enabled=false")
    assert journal.read(run.home, run.dataset, tables.COMPARISONS, run.run_id).is_empty()
    assert ask(run, "select count(*) n from leaderboard where is_real is not null")["n"][0] == 0


def test_values_by_user_are_kept_of_both_splits(night):
    for folder in (night.home.lake(night.dataset) / "6_metrics").glob("[!.]*"):
        valid, test = (pl.read_parquet(folder / name) for name in per_user.FILES.values())
        assert valid.height and test.height and not valid.equals(test)
