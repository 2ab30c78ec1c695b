"""An experiment under `--target dev` changes nothing of production: tables, health, MLflow's models, settings."""

import json
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import main
from flows.conductor import conduct
from flows.prepare import prepare
from pipeline.config import loader
from pipeline.core import targets
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.sources.files import fingerprint
from pipeline.storage import home_identity, journal, warehouse
from pipeline.tracking import server
from pipeline.tracking.client import connect
from pipeline.tracking.registry import without_champion
from tests.support.nights import without_report

RECIPE = "[models.popularity]\n[gate]\nenabled = false\n"
PROJECT = """
[targets.prod]
home = "prod"
production = true
[targets.dev]
home = "dev"
set = { "export.top_n" = 3, "dataset.description" = "a try" }
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose targets share a MLflow server."""
    rows = "".join(f"u{u},i{(u * 7 + n) % 11}\n" for u in range(15) for n in range(6))
    (tmp_path / "plays.csv").write_text(f"u,i\n{rows}")
    (tmp_path / "shop.toml").write_text(
        'name = "shop"\n[source]\nfiles = ["plays.csv"]\nstatic = true\n[columns]\nuser = "u"\nitem = "i"\n'
    )
    (tmp_path / "one.toml").write_text(RECIPE)
    (tmp_path / targets.FILE).write_text(PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "USERS_URI", f"sqlite:///{tmp_path}/prod/mlflow/mlflow.db")
    return tmp_path


def night(monkeypatch: pytest.MonkeyPatch, target: str, *overrides: str) -> Home:
    """A night of a target, as a notebook runs it."""
    with monkeypatch.context() as patch:
        patch.setenv(targets.TARGET, target)
        run = prepare("./shop.toml", "./one.toml", overrides=list(overrides))
        assert conduct(run, without_report) == "published"
        return run.home


def answered(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, dict]:
    capsys.readouterr()
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out or "null")


def aliases(home: Home) -> dict[str, dict[str, str]]:
    client = connect(home)
    return {model.name: dict(model.aliases) for model in client.search_registered_models()}


def test_an_experiment_changes_nothing_of_production(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    prod = night(monkeypatch, "prod")
    live, before = fingerprint(prod.live("shop")), aliases(prod)
    assert list(before) == ["shop"]
    dev = night(monkeypatch, "dev")
    night(monkeypatch, "dev", "seed=7")

    assert (prod.root, dev.root) == (project / "prod", project / "dev")
    assert fingerprint(prod.live("shop")) == live
    assert aliases(prod)["shop"] == before["shop"]
    assert sorted(aliases(prod)) == ["shop", "shop.dev"]
    assert aliases(prod)["shop.dev"]["champion"] == 2
    experiments = {each.name for each in connect(prod).search_experiments()}
    assert {"shop", "shop.dev"} <= experiments
    with closing(warehouse.connect(dev.live("shop"), read_only=True)) as con:
        assert con.sql("select max(rank) from recommendations").fetchall() == [(3,)]
    record = journal.read_run(dev, "shop", journal.run_ids(dev, "shop")[0])
    assert record["target"] == "dev"

    broken = ["run", "./shop.toml", "--recipe", "./one.toml", "--no-prefect", "--set", "dataset.columns.user=nope"]
    assert main([*broken, "--target", "dev"]) == 2
    code, about = answered(capsys, "status", "shop", "--target", "prod")
    assert (code, about["healthy"], about["target"]) == (0, True, "prod")
    code, about = answered(capsys, "status", "shop", "--target", "dev")
    assert about["target"] == "dev"
    assert len(answered(capsys, "runs", "shop", "--target", "dev")[1]) >= 2
    assert len(answered(capsys, "runs", "shop", "--home", str(prod.root))[1]) == 1

    assert main(["rollback", "shop", "--target", "dev"]) == 0
    assert aliases(prod)["shop.dev"]["champion"] == 1
    assert aliases(prod)["shop"] == before["shop"]
    assert main(["gc", "shop", "--target", "dev", "--keep-mlflow-nights", "1", "--keep-days", "0"]) == 0
    assert len(connect(prod).search_model_versions("name = 'shop'")) == 1
    code, rows = answered(capsys, "sql", "shop", "select count(*) n from recommendations", "--target", "dev")
    assert (code, rows[0]["n"] > 0) == (0, True)

    assert without_champion(dev, "shop") and not without_champion(dev, "shop")
    assert "champion" not in aliases(prod)["shop.dev"] and aliases(prod)["shop"] == before["shop"]


def test_the_home_remembers_its_target(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    with monkeypatch.context() as patch:
        patch.setenv(targets.TARGET, "dev")
        prepare("./shop.toml", "./one.toml", until="split")
    dev = Home(project / "dev")
    assert json.loads(dev.marker.read_text())["target"] == "dev"
    assert home_identity.name_in_services(dev, "shop") == "shop.dev"
    run = prepare("./shop.toml", "./one.toml", home=str(dev.root), until="split")
    assert run.settings.export.top_n != 3  # only --target reads the project file
    assert "the home is that of target dev" in capfd.readouterr().err


def test_homes_of_others_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    run = prepare("./shop.toml", "./one.toml", home=str(project / "old"), until="split")
    assert "target" not in json.loads(run.home.marker.read_text())
    monkeypatch.setenv(targets.TARGET, "dev")
    prepare("./shop.toml", "./one.toml", until="split")
    (project / targets.FILE).write_text(
        '[targets.dev]\nhome = "old"\n[targets.prod]\nhome = "dev"\nproduction = true\n[targets.mine]\nhome = "mine"\n'
    )
    before = run.home.marker.read_text()
    with pytest.raises(SettingsError, match=r"targets.dev.home: .*old is the home of production. Nothing was changed"):
        prepare("./shop.toml", "./one.toml", until="split")
    monkeypatch.setenv(targets.TARGET, "prod")
    with pytest.raises(SettingsError, match=r"targets.prod.home: .*dev is the home of target dev"):
        prepare("./shop.toml", "./one.toml", until="split")
    monkeypatch.delenv(targets.TARGET)
    for command in (["status", "shop"], ["runs", "shop"], ["gc"], ["rollback", "shop"], ["sql", "shop", "select 1"]):
        assert main([*command, "--target", "dev"]) == 2, command
        assert "is the home of production" in capsys.readouterr().err
    assert run.home.marker.read_text() == before
    (project / targets.FILE).write_text('[targets.prod]\nhome = "old"\nproduction = true\n')
    assert main(["status", "shop", "--target", "prod"]) in (2, 3)  # production may be there already
    assert "is the home of" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["run", "--target", "stage"], "has no target 'stage'; there are: prod, dev"),
        (["status", "shop", "--target", "prd"], "did you mean 'prod'?); there are: prod, dev"),
        (["--target", "dev", "runs", "shop", "--home", "x"], "--home and --target both say"),
        (["runs", "shop", "--target", ""], "--target is empty"),
    ],
)
def test_unknown_targets_list_those_known(project: Path, capsys: pytest.CaptureFixture, words: list[str], why: str):
    assert main(words) == 2
    assert why in capsys.readouterr().err
    assert sorted(path.name for path in project.iterdir()) == ["nightrecs.toml", "one.toml", "plays.csv", "shop.toml"]


def test_a_wrong_setting_of_a_target_names_the_project_file(project: Path, capsys: pytest.CaptureFixture):
    (project / targets.FILE).write_text('[targets.dev]\nhome = "dev"\nset = { "export.topn" = 3 }\n')
    assert main(["run", "./shop.toml", "--target", "dev", "--no-prefect"]) == 2
    told = capsys.readouterr().err
    assert f"{project / targets.FILE}: targets.dev.set: export.topn: unknown key (did you mean 'top_n'?)" in told


def test_the_variable_is_for_one_command(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIGHTRECS_HOME", str(project / "usual"))
    main(["runs", "shop", "--target", "dev"])
    assert targets.chosen() is None


def test_destinations_of_a_recipe_are_productions(project: Path):
    (project / "one.toml").write_text(f'{RECIPE}[publish.postgres]\nurl_env = "SHOP_DB_URL"\n')
    dev = targets.read(project / targets.FILE)["dev"]
    settings, _ = loader.load_settings("./shop.toml", "./one.toml", target=dev)
    assert not (settings.model_dump().get("publish") or {}).get("postgres")
    assert settings.dataset.description == "a try"
    again, _ = loader.load_settings("./shop.toml", "./one.toml", ["export.top_n=9"], target=dev)
    assert (settings.export.top_n, again.export.top_n) == (3, 9)
    by_variable, _ = loader.load_settings(
        "./shop.toml", "./one.toml", environ={"NIGHTRECS_EXPORT__TOP_N": "8"}, target=dev
    )
    assert by_variable.export.top_n == 8
