"""A champion is logged with what `mlflow.pyfunc.log_model` logs, which is slower, and stays what it is compared with."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.paths import Home
from pipeline.tracking import client as tracking_client  # before mlflow, which reads what it sets

# isort: split
import mlflow
import pandas as pd
from mlflow.entities import LoggedModel, Metric, Param
from mlflow.tracking import MlflowClient

from pipeline.tracking import logged_model

METRICS = {"test_full_ndcg_at_10": 0.25, "data_raw_rows": 1e6}
METADATA = {"run_id": "20260101T000000.000Z-aaaa", "label": "ease"}
OWN = re.compile(r"m-[0-9a-f]{32}|[0-9a-f]{32}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+")
"""What differs between any two models: ids and the time."""


@pytest.fixture
def store(tmp_path, monkeypatch) -> tuple[MlflowClient, str]:
    """A client, and an experiment with its artifacts in the test's folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "home")
    return tracking_client.connect(home), tracking_client.experiment_of(home, "tiny")


@pytest.fixture
def content(tmp_path) -> logged_model.Content:
    (folder := tmp_path / "a#b home" / "ease-all").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (settings := tmp_path / "settings.json").write_text('{"export": {"top_n": 5}}')
    parts = {"model": folder, "encoded": folder, "settings": settings}
    return logged_model.Content(parts, ["u01", "u02"], METADATA, ["nightrecs==0.1.0"])


def new_run(store: tuple[MlflowClient, str]) -> str:
    client, experiment = store
    run = client.create_run(experiment).info.run_id
    metrics = [Metric(name, value, 1_000, 0) for name, value in METRICS.items()]
    later = [Metric("loss", 0.5, 1_000, 3)]  # of another step: not the model's
    client.log_batch(run, [*metrics, *later], [Param("split.kind", "random"), Param("seed", "42")])
    return run


def shown(client: MlflowClient, uri: str, run: str) -> dict[str, object]:
    """What MLflow's UI and its readers find of a model and its run."""
    model: LoggedModel = client.get_logged_model(uri.removeprefix("models:/"))
    place = Path(model.artifact_location.removeprefix("file://"))
    found = [path for path in place.rglob("*") if path.is_file() and path.suffix != ".pyc"]  # MLflow's has some
    files = {str(path.relative_to(place)): OWN.sub("", path.read_text()) for path in found}
    parent = client.get_run(run)
    return {
        "name": (model.name, model.model_type, model.status, model.source_run_id == run),
        "params": model.params,
        "metrics": sorted((each.key, each.value, each.step, each.timestamp) for each in model.metrics or []),
        "tags": model.tags,
        "files": files,
        "run": (parent.data.params, parent.data.metrics, len(parent.outputs.model_outputs) if parent.outputs else 0),
        "history": {name: len(client.get_metric_history(run, name)) for name in parent.data.metrics},
    }


def test_it_logs_what_mlflow_logs(store, content):
    client, _ = store
    mine, theirs = new_run(store), new_run(store)
    uri = logged_model.log_champion(client, mine, content)
    with mlflow.start_run(run_id=theirs):
        expected = mlflow.pyfunc.log_model(
            name="champion",
            python_model=str(logged_model.PYFUNC),
            artifacts={name: path.as_uri() for name, path in content.artifacts.items()},
            signature=logged_model.SIGNATURE,
            input_example=(pd.DataFrame({"user_id": content.users}), {"top_n": 5}),
            pip_requirements=content.requirements,
            metadata=content.metadata,
        )
    found = shown(client, uri, mine)
    assert found == shown(client, expected.model_uri, theirs)
    assert found["history"] == dict.fromkeys([*METRICS, "loss"], 1), "no value of the run is there twice"
    assert [name for name, *_ in found["metrics"]] == sorted(METRICS)  # type: ignore[union-attr]


def test_a_model_that_cannot_be_saved_is_marked_as_failed(store, content, tmp_path):
    client, experiment = store
    missing = logged_model.Content({"model": tmp_path / "gone"}, content.users, METADATA, content.requirements)
    with pytest.raises(Exception, match="gone"):
        logged_model.log_champion(client, new_run(store), missing)
    (model,) = client.search_logged_models([experiment])
    assert model.status == "FAILED"


def test_the_commit_is_that_of_the_program_unless_git_ignores_it(tmp_path, monkeypatch):
    program = tmp_path / "night.py"
    program.touch()
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert logged_model.MLFLOW_GIT_COMMIT not in logged_model._tags()
    for words in ("init -q -b trunk", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, check=True)
    tags = logged_model._tags()
    assert re.fullmatch("[0-9a-f]{40}", tags[logged_model.MLFLOW_GIT_COMMIT])
    assert tags[logged_model.MLFLOW_GIT_BRANCH] == "trunk" and tags["mlflow.source.name"] == str(program)
    (tmp_path / ".gitignore").write_text("*.py\n")
    assert logged_model.MLFLOW_GIT_COMMIT not in logged_model._tags()
