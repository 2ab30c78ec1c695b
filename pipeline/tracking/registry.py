"""MLflow's model registry: the champion of the published night, and the one before it."""

from pipeline.tracking.client import NIGHT, connect, experiment_of  # before mlflow, which reads what it sets

# isort: split
from contextlib import suppress
from pathlib import Path

import mlflow
import pandas as pd
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from pipeline.config.run import Run
from pipeline.core.paths import Home
from pipeline.storage import journal, lake
from pipeline.storage.home_identity import name_in_services
from pipeline.tracking import naming

PYFUNC = Path(__file__).with_name("champion_pyfunc.py")
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


def ensure_champion(run: Run, register: bool = True) -> str | None:
    """Register the model of a published night as `<dataset>`, with alias `champion`; returns its version.

    Of a target that is not production it is `<dataset>.<target>`, so that production's aliases stay.
    Returns None where it is not registered and `register` is false, as when the lake no longer has the model.
    """
    client = connect(run.home)
    experiment_of(run.home, run.dataset)
    name = name_in_services(run.home, run.dataset)
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((v.version for v in versions if v.tags.get(NIGHT) == run.run_id), None)
    if version is None and not register:
        return None
    version = version or _register(client, run)
    before = None
    with suppress(MlflowException):  # raised where there is no such alias yet
        before = client.get_model_version_by_alias(name, "champion").version
    if before != version:
        if before:
            client.set_registered_model_alias(name, "previous", before)
        client.set_registered_model_alias(name, "champion", version)
    return str(version)


def without_champion(home: Home, dataset: str) -> bool:
    """Remove the alias `champion`, as where MLflow has no model of the live night; returns whether there was one."""
    client = connect(home)
    try:
        client.get_model_version_by_alias(dataset, "champion")
    except MlflowException:
        return False
    client.delete_registered_model_alias(dataset, "champion")
    return True


def _register(client: MlflowClient, run: Run) -> str:
    """Log the refitted model, with the files it needs to serve users, as a new version."""
    record, name = journal.read_run(run.home, run.dataset, run.run_id), name_in_services(run.home, run.dataset)
    encoded, refit = Path(record["made"]["encoded"]), Path(record["made"]["refit"])
    users = pl.read_parquet(encoded / "users.parquet", n_rows=2)["user_id"].to_list()
    parts = {"model": refit, "encoded": encoded, "settings": journal.folder(run) / "settings.json"}
    with mlflow.start_run(run_id=record["mlflow_run_id"]):
        logged = mlflow.pyfunc.log_model(
            name="champion",
            python_model=str(PYFUNC),
            artifacts={name: path.as_uri() for name, path in parts.items()},  # a plain path ends at a `#`
            signature=SIGNATURE,
            input_example=(pd.DataFrame({"user_id": users}), {"top_n": 5}),
            pip_requirements=[f"nightrecs=={journal.code_version()}"],
            metadata={"run_id": run.run_id, "label": lake.info(refit)["label"]},
        )
    with suppress(MlflowException):  # it exists
        client.create_registered_model(name, description=naming.ABOUT_MODEL.format(dataset=name))
    label, gate = lake.info(refit)["label"], (record.get("gate") or {}).get("text")
    description = f"{label}, refitted on all rows of night {run.run_id}; gate: {gate}. In: user_id. Out: top-N items."
    parent = record["mlflow_run_id"]
    version = client.create_model_version(name, logged.model_uri, parent, description=description).version
    client.set_model_version_tag(name, version, NIGHT, run.run_id)
    return version
