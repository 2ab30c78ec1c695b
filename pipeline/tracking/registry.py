"""MLflow's model registry: the champion of the published night, and the one before it."""

from pipeline.tracking.client import NIGHT, connect, experiment_of  # before mlflow, which reads what it sets

# isort: split
from contextlib import suppress
from pathlib import Path

import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.config.run import Run
from pipeline.core.code_version import code_version
from pipeline.core.paths import Home
from pipeline.storage import journal, lake
from pipeline.storage.home_identity import name_in_services
from pipeline.tracking import naming


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
    client, name = connect(home), name_in_services(home, dataset)
    try:
        client.get_model_version_by_alias(name, "champion")
    except MlflowException:
        return False
    client.delete_registered_model_alias(name, "champion")
    return True


def _register(client: MlflowClient, run: Run) -> str:
    """Log the refitted model, with the files it needs to serve users, as a new version."""
    from pipeline.tracking.logged_model import Content, log_champion  # imports pandas and all of pyfunc

    record, name = journal.read_run(run.home, run.dataset, run.run_id), name_in_services(run.home, run.dataset)
    encoded, refit = Path(record["made"]["encoded"]), Path(record["made"]["refit"])
    label = lake.info(refit)["label"]
    content = Content(
        artifacts={"model": refit, "encoded": encoded, "settings": journal.folder(run) / "settings.json"},
        users=pl.read_parquet(encoded / "users.parquet", n_rows=2)["user_id"].to_list(),
        metadata={"run_id": run.run_id, "label": label},
        requirements=[f"nightrecs=={code_version()}"],
    )
    source = log_champion(client, record["mlflow_run_id"], content)
    with suppress(MlflowException):  # it exists
        client.create_registered_model(name, description=naming.ABOUT_MODEL.format(dataset=name))
    gate = (record.get("gate") or {}).get("text")
    description = f"{label}, refitted on all rows of night {run.run_id}; gate: {gate}. In: user_id. Out: top-N items."
    parent = record["mlflow_run_id"]
    version = client.create_model_version(name, source, parent, description=description).version
    client.set_model_version_tag(name, version, NIGHT, run.run_id)
    return version
