"""The only importer of mlflow: writes nights into its SQLite store. A view of the journal, never the truth."""

import datetime as dt
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import pandas as pd
import polars as pl
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from pipeline import journal, lake, pictures, plots, search_plots
from pipeline import tracking_words as words
from pipeline.paths import Home
from pipeline.run import Run
from pipeline.tracking_server import initialised_alone, refuse_dead_server, tracking_uri

PYFUNC = Path(__file__).with_name("champion_pyfunc.py")
NIGHT = "nightrecs.run_id"
KIND = "custom_model_development"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "user_id")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "user_id"),
            ColSpec(DataType.long, "rank"),
            ColSpec(DataType.string, "item_id"),
            ColSpec(DataType.double, "score"),
            ColSpec(DataType.string, "source"),
        ]
    ),
    params=ParamSchema([ParamSpec("top_n", DataType.integer, 0)]),
)


def log_night(run: Run) -> str:
    """Log a night from its journal: a parent run with a child for every family. Returns the parent's MLflow id."""
    client, experiment = _client(run.home), _experiment(run.home, run.dataset)
    record = journal.read_run(run.home, run.dataset, run.run_id)
    made, gate = record["made"], record.get("gate", {})
    champion, data = made["champion"], lake.info(Path(made["parts"]))
    journal.update_run(run, mlflow_experiment_id=experiment)
    tags = {"nightrecs.kind": "night", "nightrecs.champion": champion, "nightrecs.gate": json.dumps(gate)[:5000]}
    tags |= {"nightrecs.dataset": run.dataset, "nightrecs.recipe": run.settings.recipe}
    parent = _start(client, experiment, run, f"{run.started_at:%Y-%m-%d %H:%M} {champion}", tags, run.started_at)
    settings = {k: v for k, v in run.settings.model_dump(mode="json").items() if k != "models"}
    _log(client, parent, params={**words.flat(settings), "split.chosen": data["kind"], "data_hash": data["data_hash"]})
    source = json.dumps({"uri": str(run.data), "run_id": run.run_id})
    content = Dataset(run.dataset, data["data_hash"][:36], "local", source, profile=json.dumps(data["rows"]))
    client.log_inputs(parent, [DatasetInput(content, [InputTag("mlflow.data.context", "night")])])
    client.log_artifact(parent, str(journal.folder(run) / "settings.json"))
    encoded, refit = Path(made["encoded"]), Path(made["refit"])
    figures = {lake.info(Path(f))["label"]: pl.read_parquet(Path(f) / "metrics.parquet") for f in made["measured"]}
    _log(client, parent, metrics=words.named(figures[champion], run.settings.select))  # before the data's
    if profile := record.get("profile"):
        _log(client, parent, metrics=words.shapes(lake.info(Path(profile))["shapes"]))
        client.log_artifact(parent, str(Path(profile) / "profile.json"))
        _log_pictures(client, run, parent, lambda to: pictures.of_data(Path(profile), to))
    _log_pictures(client, run, parent, lambda to: pictures.of_model(refit, encoded, to))
    searched = {lake.info(folder)["label"]: folder for folder in map(Path, made.get("searched", []))}
    for folder in map(Path, made["fitted"]):
        label = lake.info(folder)["label"]
        tags = {"mlflow.parentRunId": parent} | ({"nightrecs.made_the_lists": "true"} if label == champion else {})
        child = _log_family(client, experiment, run, tags, folder, encoded, figures.get(label))
        if label in searched:
            _log_search(client, experiment, run, child, searched[label])
    for label, reason in record.get("left_out", {}).items():
        tags = {"mlflow.parentRunId": parent, "nightrecs.kind": "family", "nightrecs.left_out": reason}
        client.set_terminated(_start(client, experiment, run, label, tags), "FAILED")
    if record["outcome"] == "published":
        end_night(run, "published", parent)
    return parent


def end_night(run: Run, outcome: str, parent: str | None = None) -> str:
    """Mark the night's run with its outcome and end it; returns MLflow's id."""
    client = _client(run.home)
    parent = parent or journal.read_run(run.home, run.dataset, run.run_id)["mlflow_run_id"]
    assert parent is not None
    client.set_tag(parent, "nightrecs.outcome", outcome)
    client.set_terminated(parent, "FINISHED" if outcome == "published" else "FAILED")
    return parent


def log_report(run: Run, html: str, markdown: str) -> str:
    """Keep the night's report as `report.html` of its run, and in short as its description; returns MLflow's id."""
    parent = journal.read_run(run.home, run.dataset, run.run_id)["mlflow_run_id"]
    client = _client(run.home)
    client.set_tag(parent, MLFLOW_RUN_NOTE, markdown[:8000])
    client.log_text(parent, html, "report.html")
    return parent


def ensure_champion(run: Run, register: bool = True) -> str | None:
    """The model of a published night is registered as `<dataset>`, alias `champion`; returns its version.

    None where there is none and `register` is false, as when the lake no longer has the model.
    """
    client = _client(run.home)
    _experiment(run.home, run.dataset)
    versions = client.search_model_versions(f"name = '{run.dataset}'")
    version = next((v.version for v in versions if v.tags.get(NIGHT) == run.run_id), None)
    if version is None and not register:
        return None
    version = version or _register(client, run)
    before = None
    with suppress(MlflowException):  # raised where there is no such alias yet
        before = client.get_model_version_by_alias(run.dataset, "champion").version
    if before != version:
        if before:
            client.set_registered_model_alias(run.dataset, "previous", before)
        client.set_registered_model_alias(run.dataset, "champion", version)
    return str(version)


def _register(client: MlflowClient, run: Run) -> str:
    """Keep the refitted model with what it needs to serve users, as a new version."""
    record = journal.read_run(run.home, run.dataset, run.run_id)
    encoded, refit = Path(record["made"]["encoded"]), Path(record["made"]["refit"])
    users = pl.read_parquet(encoded / "users.parquet", n_rows=2)["user_id"].to_list()
    settings = str(journal.folder(run) / "settings.json")
    with mlflow.start_run(run_id=record["mlflow_run_id"]):
        logged = mlflow.pyfunc.log_model(
            name="champion",
            python_model=str(PYFUNC),
            artifacts={"model": str(refit), "encoded": str(encoded), "settings": settings},
            signature=SIGNATURE,
            input_example=(pd.DataFrame({"user_id": users}), {"top_n": 5}),
            pip_requirements=[f"nightrecs=={journal.code_version()}"],
            metadata={"run_id": run.run_id, "label": lake.info(refit)["label"]},
        )
    with suppress(MlflowException):  # there already
        client.create_registered_model(run.dataset, description=words.ABOUT_MODEL.format(dataset=run.dataset))
    label, gate = lake.info(refit)["label"], (record.get("gate") or {}).get("text")
    description = f"{label}, refitted on all rows of night {run.run_id}; gate: {gate}. In: user_id. Out: top-N items."
    parent = record["mlflow_run_id"]
    version = client.create_model_version(run.dataset, logged.model_uri, parent, description=description).version
    client.set_model_version_tag(run.dataset, version, NIGHT, run.run_id)
    return version


def _log_family(
    client: MlflowClient,
    experiment: str,
    run: Run,
    tags: dict[str, str],
    folder: Path,
    encoded: Path,
    figures: pl.DataFrame | None,
) -> str:
    info = lake.info(folder)
    about = {"nightrecs.kind": "family", "nightrecs.family": info["family"]}
    about |= {MLFLOW_RUN_NOTE: words.about(run, info, figures)}
    child = _start(client, experiment, run, info["label"], tags | about)
    now = int(time.time() * 1000)
    curve = [
        Metric(name, value, now, int(epoch["epoch"]))
        for epoch in info["history"]
        for name, value in epoch.items()
        if name != "epoch"
    ]
    for start in range(0, len(curve), 1000):
        client.log_batch(child, metrics=curve[start : start + 1000])
    numbers = words.named(figures, run.settings.select) if figures is not None else {}
    _log(
        client,
        child,
        params=words.flat(info.get("config", {})),
        metrics={**numbers, "fit_seconds": info.get("seconds")},
    )
    if info["history"]:
        valid = run.settings.select.metric
        _log_pictures(client, run, child, lambda to: [plots.training_curve(info, to / "training.png", valid)])
    if info.get("finder", {}).get("rates"):
        _log(client, child, metrics={"learning_rate_suggested": info["finder"]["suggestion"]})
        _log_pictures(client, run, child, lambda to: [search_plots.rate_sweep(info, to / "learning_rate_finder.png")])
    _log_pictures(client, run, child, lambda to: pictures.of_model(folder, encoded, to))
    client.set_terminated(child)
    return child


def _log_search(client: MlflowClient, experiment: str, run: Run, family: str, folder: Path) -> None:
    """A run a trial below the family's, and the picture of all of them in the family's."""
    info, trials = lake.info(folder), pl.read_parquet(folder / "trials.parquet")
    best = info["best"] or {}
    _log(client, family, metrics={"trials": len(trials), "trials_seconds": info["seconds"]})
    _log_pictures(client, run, family, lambda to: [search_plots.search(info, trials, to / "search.png")])
    for trial in trials.iter_rows(named=True):
        tags = {"mlflow.parentRunId": family, "nightrecs.kind": "trial", "nightrecs.state": trial["state"]}
        tags |= {"nightrecs.best": "true"} if trial["number"] == best.get("number") else {}
        tags |= {"nightrecs.reason": trial["reason"]} if trial["reason"] else {}
        child = _start(client, experiment, run, f"{info['label']} trial {trial['number']}", tags)
        figure = f"valid_{info['metric'].replace('@', '_at_')}"
        numbers = {figure: trial["value"], "epochs": trial["epochs"], "seconds": trial["seconds"]}
        _log(client, child, params=words.flat(json.loads(trial["params"])), metrics=numbers)
        client.set_terminated(child, "FAILED" if trial["state"] == "failed" else "FINISHED")


def _log_pictures(client: MlflowClient, run: Run, run_id: str, draw: Callable[[Path], list[Path]]) -> None:
    """Keep what `draw` makes in a folder; pictures are for looking, so a night goes on without them."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            made = draw(Path(temporary))
        except Exception as error:
            journal.note(run, f"a picture could not be made: {type(error).__name__}: {error}")
            return
        for path in made:
            client.log_artifact(run_id, str(path))


def _start(
    client: MlflowClient,
    experiment: str,
    run: Run,
    name: str,
    tags: dict[str, str],
    started_at: dt.datetime | None = None,
) -> str:
    """A run of its own; `started_at` (UTC, naive) where it began before it is logged."""
    begun = started_at and int(started_at.replace(tzinfo=dt.UTC).timestamp() * 1000)
    source = {MLFLOW_SOURCE_NAME: f"nightrecs {journal.code_version()}", MLFLOW_SOURCE_TYPE: "JOB"}
    tags = {NIGHT: run.run_id, **source, **tags}
    return client.create_run(experiment, start_time=begun, run_name=name, tags=tags).info.run_id


def _log(
    client: MlflowClient,
    run_id: str,
    params: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), now, 0) for name, value in (metrics or {}).items() if value is not None],
        params=[Param(name, str(value)[:6000]) for name, value in (params or {}).items()],
        tags=[RunTag("nightrecs.version", journal.code_version())],
    )


def _client(home: Home) -> MlflowClient:
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = tracking_uri(home)
    refuse_dead_server(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with initialised_alone(home):
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)  # creates or migrates the database
    return client


def _experiment(home: Home, dataset: str) -> str:
    found = mlflow.get_experiment_by_name(dataset)
    if found is None:
        location = home.mlflow_artifacts / dataset  # without it artifacts go to a stray ./mlruns
        location.mkdir(parents=True, exist_ok=True)
        identity = mlflow.create_experiment(dataset, artifact_location=location.as_uri())
    else:
        identity = found.experiment_id
    mlflow.set_experiment(experiment_id=identity)
    if found is None or MLFLOW_RUN_NOTE not in found.tags:  # without a kind the UI opens on pages for chat models
        mlflow.set_experiment_tags(
            {"mlflow.experimentKind": KIND, MLFLOW_RUN_NOTE: words.ABOUT.format(dataset=dataset)}
        )
    return identity
