"""A scheduled night takes nothing but what was recorded, and the few settings that a run may bring along."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import scheduled, serve
from flows.cli import main, up
from flows.orchestration.schedules import schedules
from flows.scheduled import ADJUSTABLE, allowed, recorded
from pipeline.config.loader import load_settings
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.experiments.families import family_of

KEYS = [
    *Settings.model_fields, "gate.enabled", "gate.floor", "checks.max_age_days", "export.top_n", "dataset.name",
    "dataset.source.files", "home", "data", "publish", "models.mf.epochs", "budget", "seed.x", "budget.minutes.x",
    "SEED", "sеed", "", " ",
]  # fmt: skip


@pytest.fixture(scope="module")
def recorded_home(tmp_path_factory) -> Path:
    """With one recorded night."""
    root = tmp_path_factory.mktemp("recorded")
    assert main(["--home", str(root), "schedule", "sample", "--cron", "0 3 * * *", "--set", "split.test=0.2"]) == 0
    return root


def test_names_of_shipped_files_stay_names_whatever_the_current_folder_has(tmp_path, monkeypatch):
    for name in ("sample", "nightly"):
        (tmp_path / name).mkdir()
    (tmp_path / "own.toml").write_text('[split]\nkind = "leave_one_out"\n[models.popularity]\n')
    monkeypatch.chdir(tmp_path)
    main(["--home", "home", "schedule", "sample", "--cron", "0 3 * * *"])
    (night,) = schedules(Home(tmp_path / "home"))
    assert (night.dataset, night.recipe) == ("sample", "nightly")
    main(["--home", "home", "schedule", "sample", "--recipe", "own.toml", "--cron", "0 3 * * *"])
    assert schedules(Home(tmp_path / "home"))[0].recipe == str(tmp_path / "own.toml")


@pytest.fixture
def home(recorded_home, tmp_path, monkeypatch) -> Home:
    """A copy of it, in the process that serves it."""
    shutil.copytree(recorded_home, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("NIGHTRECS_HOME", str(tmp_path))
    return Home(tmp_path)


@pytest.fixture
def prepared(monkeypatch) -> list:
    """What nights were prepared with; none is run."""
    calls: list = []

    def prepare(*arguments):
        calls.append(arguments)
        raise SettingsError("not in this test")

    monkeypatch.setattr(scheduled, "prepare", prepare)
    return calls


@given(st.sampled_from(KEYS) | st.text(max_size=30), st.text(max_size=30))
def test_only_the_settings_of_the_list_pass(key, value):
    override = f"{key}={value}"
    if override.partition("=")[0].strip() in ADJUSTABLE:
        assert allowed([override]) == [override]
    else:
        with pytest.raises(SettingsError, match=r"only budget\.minutes and seed"):
            allowed(["seed=1", override])


@given(st.sampled_from(ADJUSTABLE), st.text(max_size=40))
def test_whatever_the_value_nothing_but_that_setting_changes(key, value):
    try:
        settings, _ = load_settings("sample", overrides=allowed([f"{key}={value}"]), environ={})
    except SettingsError:
        return
    untouched, _ = load_settings("sample", environ={})
    apart = {"seed": untouched.seed, "budget": untouched.budget}
    assert settings.model_copy(update=apart) == untouched


@pytest.mark.parametrize(
    "parameters",
    [
        {"overrides": ["gate.enabled=false"]},
        {"overrides": ["seed=1", "dataset.source.files=['*']"]},
        {"schedule": "../sample"},
        {"schedule": "warehouse/schedules/sample"},
        {"schedule": "other"},
        {"home": "/tmp/elsewhere"},
        {"home": ""},
        {"home": "."},
    ],
)
def test_a_run_with_other_values_is_refused(home, prepared, parameters):
    wanted = {"schedule": "sample", "home": str(home.root), **parameters}
    state = scheduled.scheduled.fn(**wanted)
    assert state.is_failed() and prepared == [], "nothing was begun"


@pytest.mark.parametrize("name", ["dataset", "recipe", "data", "until", "run_id", "options", "parameters"])
def test_a_run_with_other_parameters_does_not_fit(home, name):
    wanted = {"schedule": "sample", "home": str(home.root)}
    assert scheduled.scheduled.validate_parameters(dict(wanted)) == {**wanted, "overrides": None}
    with pytest.raises(Exception, match=name):
        scheduled.scheduled.validate_parameters({**wanted, name: "x"})


def test_the_recorded_night_is_what_runs(home, prepared):
    scheduled.scheduled.fn("sample", str(home.root), ["budget.minutes=5"])
    assert prepared == [("sample", "nightly", None, str(home.root), ["split.test=0.2", "budget.minutes=5"])]
    file = home.warehouse / "schedules" / "sample.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "recipe": "best"}))
    assert recorded("sample", str(home.root))[1].recipe == "best", "a change holds from the next night on"
    assert main(["--home", str(home.root), "schedule", "sample", "--remove"]) == 0
    with pytest.raises(SettingsError, match="no night of 'sample' is scheduled"):
        recorded("sample", str(home.root))


def test_served_parameters_say_the_schedule_and_the_home_alone(home, monkeypatch):
    served: list = []
    monkeypatch.setattr(serve, "serve", lambda *deployments, **_: served.extend(deployments))
    serve.main()
    (deployment,) = served
    assert deployment.parameters == {"schedule": "sample", "home": str(home.root)}
    assert deployment.entrypoint == "flows.scheduled.scheduled" and deployment.enforce_parameter_schema
    (night,) = schedules(home)
    assert "recipe nightly" in serve.about(night) and "split.test=0.2" in serve.about(night)
    assert f"nightly/{deployment.name}" in up.deployments.path_of(night.name)


@pytest.mark.long
def test_a_family_from_outside_is_found_whenever_the_night_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTRECS_HOME", str(tmp_path))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "scheduled_family.py").write_text(
        "from pipeline.models.popularity import Popularity\n\nclass Own(Popularity):\n    version = 7\n"
    )
    recipe = tmp_path / "own.toml"
    recipe.write_text('[models.own]\nfamily = "scheduled_family:Own"\n')
    words = ["--home", str(tmp_path), "schedule", "sample", "--cron", "0 3 * * *", "--recipe", str(recipe)]
    assert main(words) == 2, "its folder is not on the path"
    assert schedules(Home(tmp_path)) == []
    with monkeypatch.context() as on_path:
        on_path.syspath_prepend(tmp_path / "code")
        assert main(words) == 0
        on_path.setattr(scheduled, "conduct_as_flow", lambda run: run)
        on_path.setattr(scheduled, "flow_run", SimpleNamespace(id="f"))
        run = scheduled.scheduled.fn("sample", str(tmp_path))
        assert family_of(run.settings, "own")[0].version == 7
    del sys.modules["scheduled_family"]
    state = scheduled.scheduled.fn("sample", str(tmp_path))
    assert state.is_failed() and "there is no module 'scheduled_family'" in (state.message or "")
