"""MLflow's client, and the experiment of a data set."""

import logging
import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from pipeline.core import collector
from pipeline.core.paths import Home
from pipeline.storage.home_identity import name_in_services
from pipeline.tracking import naming
from pipeline.tracking.server import initialised_alone, log_in, refuse_dead_server, sqlite_url, tracking_uri

NIGHT = "nightrecs.run_id"
"""Tag with the night's id, on runs and model versions."""
KIND = "custom_model_development"


def connect(home: Home) -> MlflowClient:
    """A client of the home's store, which is created or migrated first. Raises OSError where no server answers."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = tracking_uri(home)
    refuse_dead_server(uri)
    log_in(home, uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with initialised_alone(home), collector.paused():  # the store is imported now
        if uri == sqlite_url(home.mlflow_db):
            from pipeline.tracking.store_file import bring_up_to_date

            bring_up_to_date(home.mlflow_db)
        client = MlflowClient(uri, uri)
        client.search_experiments(max_results=1)  # creates the tables of a database of the user's
        if uri == sqlite_url(home.mlflow_db):
            from pipeline.tracking.store_file import settle_default

            settle_default(home.mlflow_db, home.mlflow_artifacts)
    return client


def experiment_of(home: Home, dataset: str) -> str:
    """Id of a data set's experiment, which is created if needed and made the active one."""
    dataset = name_in_services(home, dataset)
    found = mlflow.get_experiment_by_name(dataset)
    if found is None:
        location = home.mlflow_artifacts / dataset  # without it artifacts go to a stray ./mlruns
        location.mkdir(parents=True, exist_ok=True)
        identity = mlflow.create_experiment(dataset, artifact_location=location.as_uri())
    else:
        identity = found.experiment_id
    mlflow.set_experiment(experiment_id=identity)
    if found is None or MLFLOW_RUN_NOTE not in found.tags:  # without a kind the UI opens on its GenAI pages
        mlflow.set_experiment_tags(
            {"mlflow.experimentKind": KIND, MLFLOW_RUN_NOTE: naming.ABOUT.format(dataset=dataset)}
        )
    return identity
