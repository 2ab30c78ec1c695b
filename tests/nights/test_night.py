"""Whole nights on the built-in sample, in this process: what is published, resumed, refused."""

import json
from pathlib import Path

import polars as pl
import pytest

from flows import conductor as line
from flows.cli import main
from flows.prepare import prepare
from pipeline.core.errors import Refused, SettingsError
from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.stages import evaluate
from pipeline.storage import journal, warehouse
from pipeline.storage.lock import lock
from pipeline.tracking import server
from tests.support.nights import CHEAP, QUICK, ask
from tests.support.published_nights import without_mlflow, without_report_file

LEARNT = "[models.mf]\nepochs = 2\nembedding_dim = 4\n[models.ials]\nepochs = 2\n"


def one_night(home: Path, *overrides: str, until: str | None = None, step=line.plainly, dataset: str = "sample"):
    """A night of the recipe `nightly`."""
    run = prepare(dataset, "nightly", None, str(home), [*QUICK, *overrides])
    return run, line.conduct(run, step, until)


def cheap_night(
    home: Path,
    *overrides: str,
    until: str | None = None,
    step=line.plainly,
    models: str = CHEAP,
    dataset: str = "sample",
):
    """A night with a few small models."""
    recipe = home.parent / f"{home.name}.toml"
    recipe.write_text(models)
    run = prepare(dataset, str(recipe), None, str(home), ["threads=1", *overrides])
    return run, line.conduct(run, step, until)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """A home with one published night of the sample."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        run, outcome = one_night(home)
    assert outcome == "published"
    return run


ON_REQUEST = (
    "recommendations_in", "recommendations_by", "reasons", "trending_items", "audiences", "attribute_audiences",
    "fallback_items", "realised_clicks",
)  # fmt: skip
"""Tables that a night fills only if its recipe or data set has a section for them."""


def test_every_published_table_keeps_its_contract(published):
    for table in tables.PUBLISHED:
        frame = ask(published, f"select * from {table.name}")
        table.check(frame)
        may_be_empty = (tables.USER_VECTORS, tables.ITEM_VECTORS, tables.PREDICTIONS)  # no family here predicts ratings
        may_be_empty += (tables.CHURN, tables.SUPPRESSED, tables.USER_ATTRIBUTES)  # first night; no rules, no [users]
        may_be_empty += (tables.REALISED,)  # no earlier night
        assert frame.height or table in may_be_empty or table.name in ON_REQUEST, f"{table.name} is empty"


def test_every_view_answers(published):
    with warehouse.connect(published.home.live("sample"), read_only=True) as con:
        views = [name for (name,) in con.sql("select view_name from duckdb_views() where not internal").fetchall()]
        assert {
            "leaderboard",
            "recommendations_titled",
            "similar_items_titled",
            "coverage",
            "freshness",
        } <= set(views)
        for view in views:
            may_be_empty = ("predictions_titled", "realised_over_nights", *(f"{name}_titled" for name in ON_REQUEST))
            assert con.sql(f"select * from {view}").fetchall() or view in may_be_empty


def test_every_user_gets_twenty_unseen_items(published):
    lists = ask(published, "select user_id, count(*) n, count(distinct item_id) d from recommendations group by 1")
    assert lists.height == ask(published, "select count(*) n from users")["n"][0]
    assert set(lists["n"]) == {20} and set(lists["d"]) == {20}


def test_the_ledger_accounts_for_every_source_line(published):
    ledger = ask(published, "select * from row_ledger")
    lines = (published.data / "interactions.csv").read_text().splitlines()
    of = {stage: ledger.filter(stage=stage) for stage in ("ingest", "clean", "split")}
    assert of["ingest"]["rows"].sum() == len(lines) - 1
    for earlier, later in (("ingest", "clean"), ("clean", "split")):
        assert of[later]["rows"].sum() == of[earlier].filter(reason="kept")["rows"].sum()
    rejected = ask(published, "select * from rejected_rows order by line")
    assert rejected.height == of["ingest"].filter(pl.col("reason") != "kept")["rows"].sum() > 0
    for row in rejected.iter_rows(named=True):
        assert row["raw"] == lines[row["line"] - 1]


def test_personal_families_beat_popularity(published):
    board = ask(
        published,
        "select model, value from leaderboard where split = 'test' and metric = 'ndcg' and cutoff = 10",
    )
    values = dict(zip(board["model"], board["value"], strict=True))
    assert values["ease"] > 1.3 * values["popularity"]


def test_the_champion_is_the_best_on_valid(published):
    board = ask(
        published,
        "from leaderboard select value, champion where split = 'valid' and metric = 'ndcg' and cutoff = 10",
    )
    assert board.sort("value")["champion"].to_list()[-1] is True


def test_mlflow_has_the_night_and_serves_the_published_lists(published):
    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(server.tracking_uri(published.home))
    runs = mlflow.search_runs(experiment_names=["sample"], output_format="list")
    kinds = sorted(run.data.tags["nightrecs.kind"] for run in runs)
    assert kinds == ["family"] * 5 + ["night"]
    (night,) = (run for run in runs if run.data.tags["nightrecs.kind"] == "night")
    gate = json.loads(night.data.tags["nightrecs.gate"])
    assert (gate["decision"], gate["published"]) == ("first", night.data.tags["nightrecs.champion"])
    assert gate["against_floor"]["ci_low"] > 0 and gate["floor"] == "popularity_recent"
    mf = next(run for run in runs if run.info.run_name == "mf")
    assert {"test_full_ndcg_at_10", "valid_full_ndcg_at_10", "loss"} <= set(mf.data.metrics)
    assert mf.data.params["embedding_dim"]
    champion = mlflow.pyfunc.load_model("models:/sample@champion")
    users = ask(published, "select user_id from users order by 1 limit 5")["user_id"].to_list()
    served = champion.predict(pd.DataFrame({"user_id": [*users, "a new user"]}))
    names = ", ".join(f"'{user}'" for user in users)
    listed = ask(
        published,
        f"select user_id, rank, item_id from recommendations where user_id in ({names}) order by 1, 2",
    )
    assert pl.DataFrame(served[served.user_id != "a new user"][["user_id", "rank", "item_id"]]).rows() == listed.rows()
    assert set(served[served.user_id == "a new user"]["source"]) == {"fallback"}
    assert len(champion.predict(pd.DataFrame({"user_id": users[:1]}), params={"top_n": 3})) == 3


def test_same_seed_in_two_homes_gives_the_same_hash(tmp_path, monkeypatch):
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)

    def hash_of(home: str, *overrides: str) -> str:
        run, _ = cheap_night(tmp_path / home, "dataset.filter.user_fraction=0.3", *overrides, models=LEARNT)
        return journal.read_run(run.home, "sample", run.run_id)["logical_hash"]

    first = hash_of("one")
    assert hash_of("two") == first
    assert hash_of("two", "seed=7") != first


def test_a_night_goes_on_where_the_last_one_stopped(tmp_path, monkeypatch):
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    _, outcome = cheap_night(tmp_path, until="split")
    assert outcome == "stopped"

    def dies(call, stage, *args):
        if stage is evaluate.evaluate_model:
            raise KeyboardInterrupt
        return stage(*args)

    with pytest.raises(KeyboardInterrupt):
        cheap_night(tmp_path, step=dies)
    run, outcome = cheap_night(tmp_path)
    assert outcome == "published"
    stages = ask(run, f"select stage, skipped from stages where run_id = '{run.run_id}'")
    skipped = dict(zip(stages["stage"], stages["skipped"], strict=True))
    assert all(skipped[stage] for stage in ("ingest", "clean", "encode", "split", "train popularity"))
    assert not skipped["evaluate popularity"]
    assert ask(run, "select outcome from runs order by run_id")["outcome"].to_list() == [
        "stopped",
        "crashed",
        "published",
    ]


def test_a_family_that_crashes_is_left_out(tmp_path, monkeypatch):
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)

    def crashes(call, stage, *args):
        if call.label == "ease":
            raise MemoryError("out of memory")
        return stage(*args)

    run, outcome = cheap_night(tmp_path, step=crashes, models=CHEAP + "[models.item_knn]\n")
    assert outcome == "published"
    assert "ease failed (MemoryError): out of memory" in journal.notes(run.home, "sample", run.run_id)
    assert set(ask(run, "select distinct model from metrics")["model"]) == {
        "popularity",
        "popularity_floor",
        "item_knn",
    }


def test_a_failed_audit_refuses_and_leaves_the_old_tables(published, monkeypatch, capsys):
    before = ask(published, "select run_id from freshness")["run_id"][0]
    bad = warehouse.read_sql

    def planted(path):
        text = bad(path)
        return text.replace("count(*) > 1", "count(*) > 0") if path.stem == "no_duplicates" else text

    without_report_file(monkeypatch)
    monkeypatch.setattr(warehouse, "read_sql", planted)
    with pytest.raises(Refused, match="no_duplicates: "):
        one_night(published.home_root)
    assert ask(published, "select run_id from freshness")["run_id"][0] == before
    last = journal.run_ids(published.home, "sample")[-1]
    assert journal.read_run(published.home, "sample", last)["outcome"] == "refused"
    checks = journal.read(published.home, "sample", tables.CHECKS, last)
    assert checks.filter(check_name="no_duplicates")["passed"].to_list() == [False]


def test_a_time_split_of_untimed_data_is_a_settings_error(tmp_path, monkeypatch):
    without_mlflow(monkeypatch)
    without_report_file(monkeypatch)
    (tmp_path / "a.csv").write_text(
        "user,item\n" + "".join(f"u{u},i{i}\n" for u in range(30) for i in range(u % 7 + 3))
    )
    toml = tmp_path / "untimed.toml"
    toml.write_text('name = "untimed"\n[source]\nfiles = ["a.csv"]\n')
    with pytest.raises(SettingsError, match="time"):
        one_night(tmp_path / "home", "split.kind=global_time", dataset=str(toml))
    run, outcome = one_night(tmp_path / "home", dataset=str(toml))
    assert outcome == "published"
    assert "random" in journal.read_run(run.home, "untimed", run.run_id)["split_kind"]
    assert "popularity_recent skipped" in " ".join(journal.notes(run.home, "untimed", run.run_id))


def test_what_mlflow_misses_is_logged_the_next_night(tmp_path, monkeypatch):
    import mlflow

    from pipeline.tracking import nights as tracking

    without_report_file(monkeypatch)

    def gone(*_):
        raise ConnectionError("MLflow is gone")

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "log_night", gone)
        first, outcome = cheap_night(tmp_path)
    assert outcome == "published"
    assert any("MLflow is gone" in note for note in journal.notes(first.home, "sample", first.run_id))
    second, _ = cheap_night(tmp_path)
    client = mlflow.MlflowClient(server.tracking_uri(first.home))
    nights = client.search_runs(["1"], "tags.`nightrecs.kind` = 'night'")
    assert {run.data.tags["nightrecs.run_id"] for run in nights} == {first.run_id, second.run_id}
    assert [run.inputs.dataset_inputs[0].dataset.name for run in nights] == ["sample", "sample"]

    def night_of(alias: str) -> str:
        return client.get_model_version_by_alias("sample", alias).tags["nightrecs.run_id"]

    assert (night_of("champion"), night_of("previous")) == (second.run_id, first.run_id)
    client.set_registered_model_alias(
        "sample", "champion", client.get_model_version_by_alias("sample", "previous").version
    )
    third, outcome = cheap_night(tmp_path, "budget.minutes=10", until="track")
    assert outcome == "stopped" and night_of("champion") == second.run_id, "the alias is repaired to what is live"
    (stopped,) = [
        run
        for run in client.search_runs(["1"], "tags.`nightrecs.outcome` = 'stopped'")
        if run.data.tags["nightrecs.run_id"] == third.run_id
    ]
    record = journal.read_run(third.home, "sample", third.run_id)
    assert stopped.info.status == "FAILED" and record["mlflow_plots_of"] is None, "its plots were logged, too"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["recommend", "sample", "nobody"], 2, "user 'nobody' is not in the published tables"),
        (["recommend", "smaple", "u0001"], 2, "nothing is published"),
        (["sql", "sample", "select * from nonsense"], 2, "nonsense"),
        (["sql", "sample", "copy users to 'x.csv'"], 2, ""),
        (["sql", "sample", "select * from read_csv('/etc/passwd')"], 2, ""),
        (["sql", "sample", "drop table users"], 2, ""),
        (["sql", "sample", "select interval 1 day"], 2, "cast it to text"),
        (["run", "ml-100x"], 2, "did you mean 'ml-100k'"),
        (["run", "--recipe", "nightl"], 2, "did you mean 'nightly'"),
        (["run", "--set", "models.ease.lambda=3"], 2, "models.ease.lambda"),
        (["run", "--set", "models.nfc.family=nfc"], 2, "no family is called 'nfc'"),
    ],
)
def test_mistakes_get_one_readable_answer(published, capsys, arguments, code, says):
    assert main(["--home", str(published.home_root), *arguments]) == code
    output = capsys.readouterr().err
    assert says in output and "Traceback" not in output


def test_looking(published, capsys):
    home = ["--home", str(published.home_root)]
    user = ask(published, "select user_id from users limit 1")["user_id"][0]
    for command in (
        ["recommend", "sample", user, "-n", "3"],
        ["similar", "sample", ask(published, "select item_id from similar_items limit 1")["item_id"][0]],
        ["leaderboard", "sample"],
        ["leaderboard", "sample", "--all", "--split", "valid"],
        ["runs", "sample"],
        ["datasets"],
        ["recipes"],
        ["models"],
        ["sql", "sample", "select count(*) as n from users"],
    ):
        assert main([*home, *command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out), command
        assert main([*home, *command]) == 0
        assert capsys.readouterr().out.count("\n") >= 2, command


def test_a_second_night_exits_4_at_once(published, capsys):
    with lock(published.home, "sample", "the first"):
        assert main(["--home", str(published.home_root), "run", "--no-prefect", "--until", "split"]) == 4
    assert "another night of sample is running: run the first" in capsys.readouterr().err


def test_nothing_is_written_outside_the_home(published):
    assert {p.name for p in published.home_root.iterdir()} <= {"warehouse", "mlflow", ".prefect"}
    modes = {oct(p.stat().st_mode & 0o007) for p in Home(published.home_root).warehouse.rglob("*")}
    assert modes == {"0o0"}, "others can't read"
