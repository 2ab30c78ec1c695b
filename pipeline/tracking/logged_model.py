"""Logs the champion as a model of a night's run, as `mlflow.pyfunc.log_model` does, without what costs most there.

Left out are a trial prediction whose failure would only be a log line, a search through every installed package for a
warning, and one query per metric: three quarters of the time, the same content.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.default_context import DefaultRunContext
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.utils import requirements_utils
from mlflow.utils.mlflow_tags import MLFLOW_GIT_BRANCH, MLFLOW_GIT_COMMIT

NAME = "champion"
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


@dataclass(frozen=True)
class Content:
    """What is saved with a model."""

    artifacts: Mapping[str, Path]
    """Files and folders by the names by which PYFUNC reads them."""
    users: list[str]
    """A few user ids, for the input example."""
    metadata: dict[str, Any]
    requirements: list[str]


def log_champion(client: MlflowClient, run_id: str, content: Content) -> str:
    """Log a model of the MLflow run, with the run's parameters and metrics; returns its URI, `models:/m-…`."""
    run = client.get_run(run_id)
    made = client.create_logged_model(run.info.experiment_id, NAME, run_id, _tags(), run.data.params)
    try:
        client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=0)])
        if metrics := _metrics(run, made.model_id):
            client.log_batch(run_id, metrics=metrics)
        with tempfile.TemporaryDirectory(prefix="nightrecs-model-") as folder:
            _save(Path(folder) / "model", made, content, run_id)
            client.log_model_artifacts(made.model_id, str(Path(folder) / "model"))
    except BaseException:
        client.finalize_logged_model(made.model_id, "FAILED")
        raise
    client.finalize_logged_model(made.model_id, "READY")
    return f"models:/{made.model_id}"


def _metrics(run: Run, model_id: str) -> list[Metric]:
    """The run's metrics as the model's. Times are kept: MLflow ignores a value that the run has at the same time."""
    logged: list[Metric] = run.data._metric_objs  # `metrics` has no times
    return [
        Metric(each.key, each.value, each.timestamp, each.step, model_id, run_id=run.info.run_id)
        for each in logged
        if each.step == 0
    ]


def _save(folder: Path, made: LoggedModel, content: Content, run_id: str) -> None:
    about = Model(
        artifact_path=made.artifact_location,
        run_id=run_id,
        model_uuid=made.model_id,
        model_id=made.model_id,
        metadata=content.metadata,
    )
    with _no_search_of_packages():
        mlflow.pyfunc.save_model(
            str(folder),
            mlflow_model=about,
            python_model=str(PYFUNC),
            artifacts={name: path.as_uri() for name, path in content.artifacts.items()},  # a plain path ends at a `#`
            signature=SIGNATURE,
            input_example=(pd.DataFrame({"user_id": content.users}), {"top_n": 5}),
            pip_requirements=content.requirements,
        )
    for compiled in list(folder.rglob("__pycache__")):
        shutil.rmtree(compiled, ignore_errors=True)


@contextmanager
def _no_search_of_packages() -> Generator[None]:
    """Spare MLflow its table of every module of every installed package, which a warning about versions needs."""
    names = [name for name in ("_MODULES_TO_PACKAGES", "_PACKAGES_TO_MODULES") if hasattr(requirements_utils, name)]
    before = {name: getattr(requirements_utils, name) for name in names}
    for name in names:
        setattr(requirements_utils, name, before[name] or {})
    try:
        yield
    finally:
        for name in names:
            setattr(requirements_utils, name, before[name])


def _tags() -> dict[str, str]:
    """User and program as MLflow finds them, and the commit of a program that is in a Git repository."""
    tags = DefaultRunContext().tags()
    program = Path(sys.argv[0]).absolute() if sys.argv and sys.argv[0] else None
    if program and program.exists() and any((folder / ".git").exists() for folder in program.parents):
        found = _git(program, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").split()
        if len(found) == 2 and not _git(program, "check-ignore", program.name):
            tags |= {MLFLOW_GIT_COMMIT: found[0], MLFLOW_GIT_BRANCH: found[1]}
    return tags


def _git(program: Path, *words: str) -> str:
    """What `git` prints about a program's folder; nothing where it fails or is missing. MLflow's GitPython is slow."""
    try:
        done = subprocess.run(["git", *words], cwd=program.parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
