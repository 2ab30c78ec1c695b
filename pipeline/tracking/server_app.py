"""MLflow's server of `up`: behind a login, for its own pages, with what nightrecs needs of it.

MLflow finds it as the app `nightrecs` (entry point `mlflow.app` in pyproject.toml), and loads it in its own process.
"""

import os
from pathlib import Path

from pipeline.core.paths import Home
from pipeline.storage.secret_files import read_secret
from pipeline.tracking.request_gate import Asgi, RequestGate


def _load() -> Asgi:
    """MLflow's app, imported on the first call: the process that starts the server imports this module, too."""
    from pipeline.tracking.confined_artifacts import confine

    confine(_home().mlflow_artifacts)
    from mlflow.server.fastapi_app import app

    return app


def _secret() -> str:
    return read_secret(_home().mlflow_auth)


def _home() -> Home:
    return Home(Path(os.environ["NIGHTRECS_HOME"]))


app = RequestGate(_load, _secret)
