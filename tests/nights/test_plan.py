"""`run --plan`: it changes nothing, and the night that follows does what it planned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.cli import main
from flows.left_out import left_out
from flows.plan import CACHED, OPEN, TO_DO, Plan
from flows.prepare import prepare
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall, StageName
from pipeline.models.base import FitSize
from pipeline.preparation import capacity
from pipeline.schemas import tables
from pipeline.sources import row_estimate
from pipeline.storage import journal
from tests.support.published_nights import Dataset, without_mlflow, without_report_file

ROWS = 210
"""Of the source."""
MANY = """[split]
kind = "leave_one_out"
[models.mf]
embedding_dim = 4
epochs = 1
[models.mf.search]
l2 = [0.01, 0.1]
[models.ease]
[models.both]
family = "blend"
[search]
trials = 2
"""

BLENDED = """[split]
kind = "leave_one_out"
[models.sasrec]
epochs = 1
[models.ease]
[models.both]
family = "blend"
"""
"""On this data the blend is better than what it is made of."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    made = Dataset(tmp_path / "d")
    made.write()
    return made


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file and folder, with content and times."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_bytes() if path.is_file() else None
        )
        for path in [folder, *folder.rglob("*")]
    }  # fmt: skip


def words_of(data: Dataset, *words: str) -> list[str]:
    return ["run", str(data.folder / "tiny.toml"), "--recipe", str(data.folder / "cheap.toml"),
            "--set", "threads=1", *words]  # fmt: skip


def plan(data: Dataset, capsys: pytest.CaptureFixture, *words: str) -> dict:
    """What `--plan --json` prints; the folder is as it was."""
    before = snapshot(data.folder)
    capsys.readouterr()
    assert data.command(*words_of(data, "--plan", "--json", *words)) == 0
    printed = capsys.readouterr()
    assert snapshot(data.folder) == before and not printed.err
    return json.loads(printed.out)


def states(planned: dict) -> dict[str, str]:
    return {stage["stage"]: stage["state"] for stage in planned["stages"]}


def did(data: Dataset, *words: str) -> dict[str, bool]:
    """A night as the command runs it: its stages in order, and whether each was there already."""
    assert data.command(*words_of(data, "--no-prefect", *words)) == 0
    home = Home(data.home_root)
    stages = journal.read(home, "tiny", tables.STAGES, journal.run_ids(home, "tiny")[-1])
    return dict(zip(stages["stage"], stages["skipped"], strict=True))


def holds(planned: dict, done: dict[str, bool]) -> None:
    """The night did what was planned, in that order; all that was called cached was, and no more than that.

    Of the refit of a blend the plan does not tell the members.
    """
    *members, champion = [title for title in done if title.endswith(" on all")]
    done = {title: skipped for title, skipped in done.items() if title not in members}
    expected = {champion if "champion" in title else title: state for title, state in states(planned).items()}
    for untimed in ("select", "register"):  # the latter without MLflow
        expected.pop(untimed)
    assert list(expected) == list(done)
    for title, state in expected.items():
        assert state == OPEN or (state == CACHED) == done[title], title


def test_on_a_machine_without_a_home_everything_is_to_do(data: Dataset, capsys):
    planned = plan(data, capsys)
    assert not data.home_root.exists()
    assert CACHED not in states(planned).values()
    assert list(states(planned))[:8] == [
        "ingest", "admit", "clean", "encode", "split", "profile", "train mf", "evaluate mf"
    ]  # fmt: skip
    assert all(stage["minutes"] is None for stage in planned["stages"] if stage["stage"] != "select")
    assert planned["home"] == str(data.home_root) and planned["recipe"] == "cheap"
    assert planned["overrides"] == ["threads=1"] and planned["budget_minutes"] is None


def test_an_error_is_printed_and_not_journaled(tmp_path, monkeypatch):
    def broken(plan: Plan, call: StageCall, *inputs):
        if call.stage is StageName.TRAIN:
            raise ValueError("planted")
        return TO_DO, plan.unknown(call)

    monkeypatch.setattr(Plan, "look", broken)
    with pytest.raises(ValueError, match="planted"):
        Plan(prepare(home=str(tmp_path), look_only=True))
    assert not list(tmp_path.iterdir())


def test_the_built_in_sample_is_not_even_made(tmp_path, capsys):
    assert main(["--home", str(tmp_path / "home"), "run", "--plan"]) == 0
    output = capsys.readouterr().out
    assert "night of sample, recipe nightly" in output and "no past night has timed" in output
    assert not (tmp_path / "home").exists()


def test_the_night_does_what_was_planned(data: Dataset, capsys):
    holds(plan(data, capsys), did(data))
    again = plan(data, capsys)
    assert states(again)["train mf"] == states(again)["evaluate mf"] == CACHED
    assert states(again)["admit"] == TO_DO, "it depends on the clock"
    holds(again, did(data))


def test_refits_of_other_models_than_the_champion_are_planned(data: Dataset, capsys):
    """The runner-up's for the holdback, and those whose lists the gate compares."""
    recipe = data.folder / "cheap.toml"
    recipe.write_text(recipe.read_text() + "[models.popularity]\n[export.holdback]\nshare = 0.5\n")
    assert "train the challengers on all" not in states(plan(data, capsys))
    planned, done = plan(data, capsys), did(data)
    assert states(planned)["train the runner-up on all"] == OPEN
    titles = list(done)
    refits = [title for title in titles if title.endswith(" on all")]
    assert len(refits) == 2 and list(states(planned)).index("train the runner-up on all") == titles.index(refits[1]) + 1
    minutes = {stage["stage"]: stage["minutes"] for stage in plan(data, capsys)["stages"]}
    assert minutes["train the runner-up on all"] is not None is not minutes["train the champion on all"]
    steadier = states(plan(data, capsys, "--set", "gate.enabled=true", "--set", "gate.prefer=steadier"))
    assert steadier["train the challengers on all"] == OPEN


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (None, "clicks.csv"),
        ("user,item_id,clicked", "dataset.impressions.list_id"),
        ("list,item_id,clicked,visible", None),
        ("list,item_id,clicked", "visible"),
    ],
)
def test_impressions_that_can_not_be_counted_are_a_warning_of_the_plan(
    data: Dataset, capsys, lines: str | None, problem: str | None
):
    toml = data.folder / "tiny.toml"
    of = '[impressions]\nfiles = ["clicks.csv"]\nlist_id = "list"\nshown_if = "visible = 1"\n'
    toml.write_text(toml.read_text().replace('"*.csv"', '"a.csv"') + of)
    if lines:
        (data.folder / "clicks.csv").write_text(f"{lines}\n")
    warnings = plan(data, capsys)["warnings"]
    assert len(warnings) == (problem is not None)
    if problem:
        assert problem in warnings[0] and data.command(*words_of(data, "--plan")) == 0
        assert f"warning: {warnings[0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("models.mf.embedding_dim=3", "train mf"),
        ("evaluation.cutoffs=[5,10]", "evaluate mf"),
        ("split.kind=random", "split"),
        ('dataset.feedback.keep_if="rating >= 2"', "clean"),
        ("dataset.columns.rating=rating", None),
    ],
)
def test_a_change_is_followed_from_where_it_matters(four_nights, capsys, override: str, first: str | None):
    data, _ = four_nights
    assert CACHED in states(plan(data, capsys, "--set", "seed=3")).values()
    planned = plan(data, capsys, "--set", "seed=3", "--set", override)
    kept = [title for title, state in states(planned).items() if state != CACHED and title != "admit"]
    assert kept[0] == (first or "leaks")
    holds(planned, did(data, "--set", "seed=3", "--set", override))


def test_new_data_means_all_stages_and_a_flipped_byte_one_stage(four_nights, capsys):
    data, _ = four_nights
    for parquet in (data.home.lake("tiny") / "3_encoded").glob("*/interactions.parquet"):
        content = bytearray(parquet.read_bytes())
        content[len(content) // 2] ^= 1
        parquet.write_bytes(content)
    output = states(plan(data, capsys, "--set", "seed=3"))
    assert (output["clean"], output["encode"]) == (CACHED, TO_DO)
    data.write("b.csv", first_day=10)
    assert CACHED not in states(plan(data, capsys, "--set", "seed=3")).values()


def test_searches_blends_and_the_gate(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text(MANY)
    first = plan(data, capsys)
    holds(first, did(data))
    assert "evaluate popularity_floor" in states(first) and "train incumbent" not in states(first)
    again = plan(data, capsys)
    assert {states(again)[f"{stage} both"] for stage in ("train", "evaluate")} == {CACHED}
    assert states(again)["train mf tuned"] == CACHED and "train incumbent" not in states(again)
    holds(again, did(data))


def test_members_that_metrics_choose_are_not_predicted(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text(MANY + "[models.item_knn]\n")
    few = ["--set", "models.both.most=2"]
    did(data, *few)
    again = plan(data, capsys, *few)
    assert (states(again)["train both"], states(again)["train item_knn"]) == (OPEN, CACHED)
    holds(again, did(data, *few))


def test_another_recipe_meets_the_incumbent(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text('[split]\nkind = "leave_one_out"\n[models.ease]\nl2 = 5.0\n')
    did(data)
    planned = plan(data, capsys, "--set", "models.ease.l2=7.0")
    assert (states(planned)["train ease"], states(planned)["evaluate incumbent"]) == (TO_DO, TO_DO)
    assert states(planned)["evaluate popularity_floor"] == CACHED
    holds(planned, did(data, "--set", "models.ease.l2=7.0"))


def test_a_published_blend_is_made_again_of_its_members(data: Dataset, capsys):
    """But for those that the night fits anyway."""
    (data.folder / "cheap.toml").write_text(BLENDED)
    did(data, "--set", "gate.enabled=false")
    record = journal.read_run(Home(data.home_root), "tiny", journal.run_ids(Home(data.home_root), "tiny")[-1])
    assert record["champion"] == "both"
    data.write("b.csv", first_day=3)
    same = plan(data, capsys)
    assert "evaluate incumbent" not in states(same), "it is the recipe's own blend"
    changed = ["--set", "models.sasrec.embedding_dim=8"]
    planned = plan(data, capsys, *changed)
    added = [title for title in states(planned) if "incumbent" in title]
    assert added == ["train incumbent_sasrec", "train incumbent", "evaluate incumbent"], "ease is fitted anyway"
    holds(planned, did(data, *changed))
    holds(plan(data, capsys, *changed), did(data, *changed))  # through the line to its end: everything is there
    again = ["--set", "models.sasrec.embedding_dim=12"]
    planned = plan(data, capsys, *again)
    assert states(planned)["train sasrec"] == TO_DO
    assert {states(planned)[title] for title in added} == {CACHED}, "members too are asked of the lake"
    holds(planned, did(data, *again))


def test_what_metrics_may_make_the_published_blend_is_open(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text(BLENDED)
    did(data, "--set", "gate.enabled=false")
    changed = ["--set", "models.both.most=2", "--set", "models.sasrec.embedding_dim=8"]
    output = states(plan(data, capsys, *changed))
    assert {output[title] for title in ("train incumbent_sasrec", "train incumbent")} == {OPEN}
    assert output["evaluate popularity_floor"] == TO_DO
    holds(plan(data, capsys, *changed), did(data, *changed))


def test_a_fit_for_the_test_of_its_own(data: Dataset, capsys):
    recipe = '[split]\nkind = "leave_one_out"\n[models.ease]\n[models.mf]\nepochs = 1\n[models.b]\nfamily = "blend"\n'
    (data.folder / "cheap.toml").write_text(recipe + '[evaluation]\nfit_for_test = "train+valid"\n')
    assert "train mf on train+valid" in states(plan(data, capsys))
    did(data)
    output = states(plan(data, capsys))
    assert output["train mf on train+valid"] == CACHED
    assert output["train b on train+valid"] == OPEN, "its members may have to be fitted again"


def test_a_budget_is_shown_and_searches_get_what_it_leaves(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text(MANY + "[budget]\nminutes = 5\n")
    for _ in range(2):  # the second time the first fits are there
        planned = plan(data, capsys)
        assert planned["budget_minutes"] == 5 and states(planned)["search mf"] == TO_DO
        titles = list(states(planned))
        assert titles.index("evaluate ease") < titles.index("search mf") < titles.index("train both")
        assert data.command(*words_of(data, "--plan")) == 0
        output = capsys.readouterr()
        assert "budget   5 minutes" in output.out and "rest of the budget" in output.out and not output.err
        did(data, "--until", "train", "--set", "budget.minutes=1")


def test_minutes_are_the_median_of_past_nights(four_nights, capsys):
    data, nights = four_nights
    home = Home(data.home_root)
    for night, seconds in zip(nights, (60.0, 6.0, 120.0, 600.0), strict=True):
        run = journal.load_run(home, "tiny", night)
        record = {"stage": "train mf", "seconds": seconds, "rows_in": 1, "rows_out": 1, "skipped": False}
        journal.append(run, tables.STAGES, [record])
    planned = plan(data, capsys, "--set", "seed=9")
    minutes = {stage["stage"]: stage["minutes"] for stage in planned["stages"]}
    assert minutes["train mf"] == 1.5 and minutes["select"] == 0
    assert minutes["train the champion on all"] is not None
    assert planned["minutes"] == pytest.approx(sum(m for m in minutes.values() if m is not None), abs=1e-3)
    cached = plan(data, capsys, "--set", "seed=3")
    assert {s["minutes"] for s in cached["stages"] if s["state"] == CACHED} == {0}
    assert data.command(*words_of(data, "--plan", "--set", "seed=9")) == 0
    assert "train mf                     to do   1.5 min" in capsys.readouterr().out


@pytest.mark.parametrize("until", ["ingest", "split", "train", "evaluate", "leaks"])
def test_until_ends_the_plan_where_it_ends_the_night(data: Dataset, capsys, until: str):
    titles = list(states(plan(data, capsys, "--until", until)))
    done = list(did(data, "--until", until))
    assert [title for title in titles if title != "select"] == done


def test_what_a_night_would_refuse_to_read_the_plan_does_too(data: Dataset, capsys):
    toml = str(data.folder / "tiny.toml")
    for words, output in (
        ([toml, "--data", str(data.folder / "nowhere")], "found no *.csv"),
        ([toml, "--set", "splt.kind=auto"], "did you mean 'split'"),
        (["tinny"], "no data set is called 'tinny'"),
    ):
        assert data.command("run", "--plan", *words) == 2
        printed = capsys.readouterr()
        assert output in printed.err and not printed.out
    assert not data.home_root.exists()


def test_settings_of_the_environment_are_shown(data: Dataset, capsys, monkeypatch):
    monkeypatch.setenv("NIGHTRECS_SPLIT__KIND", "random")
    assert plan(data, capsys)["overrides"] == ["NIGHTRECS_SPLIT__KIND=random", "threads=1"]


def test_the_plan_says_what_fits(data: Dataset, capsys):
    memory = plan(data, capsys)["memory"]
    assert (memory["rows_from"], memory["fits"], memory["rows"]) == ("source", True, pytest.approx(ROWS, rel=0.1))
    assert data.command(*words_of(data, "--plan", "--rows", "2e9")) == 0
    shown = capsys.readouterr().out
    assert "2,000,000,000: 186 GiB of memory" in shown and "use a machine of 384 GiB" in shown
    assert "about 196 GiB for lists of all users" in shown
    assert "of the source as it is, not of so many rows" in shown
    assert data.command(*words_of(data, "--rows", "5")) == 2
    assert "--plan" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        data.command(*words_of(data, "--plan", "--rows", "many"))
    assert "2e7" in capsys.readouterr().err


def test_the_plan_says_which_models_a_night_leaves_out_for_their_memory(data: Dataset, capsys):
    (data.folder / "cheap.toml").write_text('[split]\nkind = "leave_one_out"\n[models.popularity]\n[models.ease]\n')
    little = ("--set", "models.ease.max_side=3")
    assert plan(data, capsys, *little)["left_out"] is None, "the split is not there yet"
    assert data.command(*words_of(data, "--plan", "--rows", "1e8")) == 0
    assert "known after --until split" in capsys.readouterr().out
    assert "train ease" not in did(data, *little)
    home = Home(data.home_root)
    notes = " ".join(journal.notes(home, "tiny", journal.run_ids(home, "tiny")[-1]))
    planned = plan(data, capsys, *little)
    assert [each["model"] for each in planned["left_out"]] == ["ease"] and planned["left_out"][0]["why"] in notes
    assert plan(data, capsys)["left_out"] == []
    many = plan(data, capsys, "--rows", str(1000 * ROWS), *little)
    assert {name: many["size"][name] / n for name, n in planned["size"].items()} == {
        "users": 1000, "items": 1, "train_rows": 1000,
    }  # fmt: skip
    assert data.command(*words_of(data, "--plan", *little)) == 0
    assert "  without  ease: ease solves min(users, items)" in capsys.readouterr().out
    run = prepare(str(data.folder / "tiny.toml"), str(data.folder / "cheap.toml"), home=home.root, look_only=True)
    at_1e8 = FitSize(users=690_000, items=27_000, rows=10**8, memory=4 * 10**9)
    assert [(each.model, "5.8 GB of matrices" in each.why) for each in left_out(run, at_1e8)] == [("ease", True)]
    assert not left_out(run, replace(at_1e8, memory=6 * 10**9))


def test_rows_that_do_not_fit_are_refused_before_they_are_read(data: Dataset, monkeypatch, capsys):
    monkeypatch.setattr(capacity, "total_memory", lambda: 2 * 60 * ROWS)
    assert data.command(*words_of(data, "--plan")) == 2
    assert "not enough" in capsys.readouterr().out
    assert data.command(*words_of(data, "--no-prefect")) == 2
    assert "user_fraction" in capsys.readouterr().err
    assert not journal.run_ids(Home(data.home_root), "tiny")
    assert data.command(*words_of(data, "--no-prefect", "--until", "ingest")) == 0, "ingest holds no rows in memory"
    assert data.command(*words_of(data, "--no-prefect", "--until", "clean", "--set", "memory_limit=1GB")) == 0


def test_clean_checks_the_exact_number_of_rows(data: Dataset, monkeypatch, capsys):
    monkeypatch.setattr(row_estimate, "estimate", lambda *_: None)
    monkeypatch.setattr(capacity, "total_memory", lambda: 2 * 60 * ROWS)
    assert data.command(*words_of(data, "--no-prefect", "--until", "split")) == 2
    assert f"{ROWS} rows need" in capsys.readouterr().err


def test_the_plan_names_what_several_machines_fit(data: Dataset, capsys):
    assert "hosts" not in plan(data, capsys)
    (data.folder / "cheap.toml").write_text(
        '[split]\nkind = "leave_one_out"\n[models.ease]\n[models.ials]\n[models.mf]\n'
    )
    together = ("--set", "scale.engine=ray", "--set", "scale.hosts=3")
    assert plan(data, capsys, *together)["hosts"] == {"machines": 3, "models": ["ials", "mf"]}
    assert data.command(*words_of(data, "--plan", *together)) == 0
    assert "  hosts    3 machines fit together: ials, mf\n" in capsys.readouterr().out
