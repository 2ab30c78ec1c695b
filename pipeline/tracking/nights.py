"""Logs nights to MLflow's store. MLflow is a view; the journal is authoritative."""

from pipeline.tracking.client import NIGHT, connect, experiment_of  # before mlflow, which reads what it sets

# isort: split
import datetime as dt
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from pipeline.config.run import Run
from pipeline.core.code_version import code_version
from pipeline.core.paths import Home
from pipeline.core.redaction import without_users
from pipeline.reporting.plots.worker import Drawer
from pipeline.schemas import tables
from pipeline.storage import journal, lake
from pipeline.tracking import naming
from pipeline.tracking.registry import ensure_champion, without_champion

__all__ = ["end_night", "ensure_champion", "log_night", "log_plots", "log_realised", "log_report", "prepare",
           "without_champion"]  # fmt: skip


def prepare(home: Home, dataset: str) -> None:
    """Open the store, and the experiment of a data set."""
    connect(home)
    experiment_of(home, dataset)


def log_night(run: Run) -> tuple[str, dict[str | None, str]]:
    """Log a night from its journal, without plots: a parent run with a child run per family.

    Returns the parent's MLflow id, and that of every family by label, with the parent's as None.
    """
    client, experiment = connect(run.home), experiment_of(run.home, run.dataset)
    record = journal.read_run(run.home, run.dataset, run.run_id)
    made, gate = record["made"], record.get("gate", {})
    champion, data = made["champion"], lake.info(Path(made["parts"]))
    journal.update_run(run, mlflow_experiment_id=experiment)
    tags = {"nightrecs.kind": "night", "nightrecs.champion": champion, "nightrecs.gate": json.dumps(gate)[:5000]}
    tags |= {"nightrecs.dataset": run.dataset, "nightrecs.recipe": run.settings.recipe}
    if target := record.get("target"):
        tags["nightrecs.target"] = target
    parent = _start(client, experiment, run, f"{run.started_at:%Y-%m-%d %H:%M} {champion}", tags, run.started_at)
    settings = {k: v for k, v in without_users(run.settings.model_dump(mode="json")).items() if k != "models"}
    _log(client, parent, params={**naming.flat(settings), "split.chosen": data["kind"], "data_hash": data["data_hash"]})
    source = json.dumps({"uri": str(run.origin), "run_id": run.run_id})
    content = Dataset(run.dataset, data["data_hash"][:36], "local", source, profile=json.dumps(data["rows"]))
    client.log_inputs(parent, [DatasetInput(content, [InputTag("mlflow.data.context", "night")])])
    client.log_artifact(parent, str(journal.folder(run) / "settings.json"))
    metrics = {lake.info(Path(f))["label"]: pl.read_parquet(Path(f) / "metrics.parquet") for f in made["measured"]}
    _log(client, parent, metrics=naming.named(metrics[champion], run.settings.select))  # before the data's
    if profile := record.get("profile"):
        _log(client, parent, metrics=naming.shapes(lake.info(Path(profile))["shapes"]))
        client.log_artifact(parent, str(Path(profile) / "profile.json"))
    runs: dict[str | None, str] = {None: parent}
    searched = {lake.info(folder)["label"]: folder for folder in map(Path, made.get("searched", []))}
    for folder in map(Path, made["fitted"]):
        label = lake.info(folder)["label"]
        tags = {"mlflow.parentRunId": parent} | ({"nightrecs.made_the_lists": "true"} if label == champion else {})
        runs[label] = _log_family(client, experiment, run, tags, folder, metrics.get(label))
        if label in searched:
            _log_search(client, experiment, run, runs[label], searched[label])
    for label, reason in record.get("left_out", {}).items():
        tags = {"mlflow.parentRunId": parent, "nightrecs.kind": "family", "nightrecs.left_out": reason}
        client.set_terminated(_start(client, experiment, run, label, tags), "FAILED")
    return parent, runs


def log_plots(run: Run, runs: Mapping[str | None, str], drawer: Drawer) -> None:
    """Log the plots that were requested from `drawer` to the runs of `log_night`."""
    client = connect(run.home)
    for label, plot in drawer.drawn():
        client.log_artifact(runs[label], str(plot))
    for failure in drawer.failed():  # a night does not need its plots
        journal.note(run, f"a plot could not be made: {failure}")


def end_night(run: Run, outcome: str, parent: str | None = None) -> str:
    """Mark the night's run with its outcome and end it; returns MLflow's id."""
    client = connect(run.home)
    parent = parent or journal.read_run(run.home, run.dataset, run.run_id)["mlflow_run_id"]
    assert parent is not None
    client.set_tag(parent, "nightrecs.outcome", outcome)
    client.set_terminated(parent, "FINISHED" if outcome == "published" else "FAILED")
    return parent


def log_realised(run: Run) -> int:
    """Log what this night measured of earlier lists to the runs of the nights that published them; returns how many.

    Metrics are `realised_7d_published_ndcg_at_10`, and for popularity and the holdback likewise.
    """
    rows = journal.read(run.home, run.dataset, tables.REALISED, run.run_id)
    client, logged = connect(run.home), 0
    for (night,), part in rows.group_by("run_id", maintain_order=True):
        record = journal.find_run(run.home, run.dataset, str(night))
        if record and record.get("mlflow_run_id"):
            _log(client, record["mlflow_run_id"], metrics=naming.realised(part))
            logged += 1
    return logged


def log_report(run: Run, html: str, markdown: str) -> str:
    """Log the report as artifact `report.html`, and its digest as the description; returns MLflow's id."""
    parent = journal.read_run(run.home, run.dataset, run.run_id)["mlflow_run_id"]
    client = connect(run.home)
    client.set_tag(parent, MLFLOW_RUN_NOTE, markdown[:8000])
    client.log_text(parent, html, "report.html")
    return parent


def _log_family(
    client: MlflowClient,
    experiment: str,
    run: Run,
    tags: dict[str, str],
    folder: Path,
    metrics: pl.DataFrame | None,
) -> str:
    info = lake.info(folder)
    about = {"nightrecs.kind": "family", "nightrecs.family": info["family"]}
    about |= {MLFLOW_RUN_NOTE: naming.about(run, info, metrics)}
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
    numbers = naming.named(metrics, run.settings.select) if metrics is not None else {}
    _log(
        client,
        child,
        params=naming.flat(info.get("config", {})),
        metrics={**numbers, "fit_seconds": info.get("seconds")},
    )
    if info.get("finder", {}).get("rates"):
        _log(client, child, metrics={"learning_rate_suggested": info["finder"]["suggestion"]})
    client.set_terminated(child)
    return child


def _log_search(client: MlflowClient, experiment: str, run: Run, family: str, folder: Path) -> None:
    """Log one child run per trial below the family's run."""
    info, trials = lake.info(folder), pl.read_parquet(folder / "trials.parquet")
    best = info["best"] or {}
    _log(client, family, metrics={"trials": len(trials), "trials_seconds": info["seconds"]})
    for trial in trials.iter_rows(named=True):
        tags = {"mlflow.parentRunId": family, "nightrecs.kind": "trial", "nightrecs.state": trial["state"]}
        tags |= {"nightrecs.best": "true"} if trial["number"] == best.get("number") else {}
        tags |= {"nightrecs.reason": trial["reason"]} if trial["reason"] else {}
        child = _start(client, experiment, run, f"{info['label']} trial {trial['number']}", tags)
        name = f"valid_{info['metric'].replace('@', '_at_')}"
        numbers = {name: trial["value"], "epochs": trial["epochs"], "seconds": trial["seconds"]}
        _log(client, child, params=naming.flat(json.loads(trial["params"])), metrics=numbers)
        client.set_terminated(child, "FAILED" if trial["state"] == "failed" else "FINISHED")


def _start(
    client: MlflowClient,
    experiment: str,
    run: Run,
    name: str,
    tags: dict[str, str],
    started_at: dt.datetime | None = None,
) -> str:
    """Create a run; `started_at` (UTC, naive) where it began before it is logged."""
    begun = started_at and int(started_at.replace(tzinfo=dt.UTC).timestamp() * 1000)
    source = {MLFLOW_SOURCE_NAME: f"nightrecs {code_version()}", MLFLOW_SOURCE_TYPE: "JOB"}
    tags = {NIGHT: run.run_id, **source, **tags}
    return client.create_run(experiment, start_time=begun, run_name=name, tags=tags).info.run_id


def _log(
    client: MlflowClient,
    run_id: str,
    params: Mapping[str, object] | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), now, 0) for name, value in (metrics or {}).items() if value is not None],
        params=[Param(name, str(value)[:6000]) for name, value in (params or {}).items()],
        tags=[RunTag("nightrecs.version", code_version())],
    )
