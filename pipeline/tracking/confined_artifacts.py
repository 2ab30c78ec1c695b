"""In MLflow's server of `up`, artifacts are real files below one folder, and can only be read.

MLflow takes the location of an experiment's artifacts from a request, and follows links from there. Here every access
checks the real path, whatever the database holds. Of new experiments and model versions, locations elsewhere are
refused.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.store.artifact import artifact_repository_registry as registry
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

READ_ONLY = "artifacts can only be read here; on this machine, log them by path: MLFLOW_TRACKING_URI=sqlite:///…"
LOCAL = ("", "file")
REFERENCES = ("models", "runs", "mlflow-artifacts")
"""Schemes whose artifacts are found through the database, or lie below the folder."""


class ConfinedArtifacts(LocalArtifactRepository):
    """Artifacts of one location. Raises MlflowException where one's real path is outside `root`."""

    def __init__(
        self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None, *, root: Path
    ) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self.root = root
        inside(root, self.artifact_dir)

    def get_local_path(self, artifact_path: str) -> str:
        """The path of a file or folder."""
        return inside(self.root, super().get_local_path(artifact_path))

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders below `path`, without those that lead outside."""
        inside(self.root, Path(self.artifact_dir, path or ""))
        found: list[FileInfo] = super().list_artifacts(path)
        return [one for one in found if _is_inside(self.root, Path(self.artifact_dir, one.path))]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        inside(self.root, Path(self.artifact_dir, remote_file_path))
        super()._download_file(remote_file_path, local_path)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise MlflowException(READ_ONLY, PERMISSION_DENIED)

    log_artifact = log_artifacts = log_artifact_from_stream = delete_artifacts = _refuse
    log_artifact_from_async_stream = download_trace_data = _refuse


def confine(root: Path) -> None:
    """Confine the artifacts of this process to `root`; call it before MLflow's server is imported."""
    from mlflow.store.model_registry import file_store as model_files
    from mlflow.store.model_registry import sqlalchemy_store as model_database
    from mlflow.store.tracking import file_store, sqlalchemy_store

    schemes = registry.get_registered_artifact_repositories()
    schemes.clear()
    schemes.update({scheme: partial(ConfinedArtifacts, root=root) for scheme in LOCAL})  # type: ignore[misc]
    schemes.update({"models": ModelsArtifactRepository, "runs": RunsArtifactRepository})  # type: ignore[dict-item]
    for store in (sqlalchemy_store.SqlAlchemyStore, file_store.FileStore):
        _check(store, "create_experiment", "artifact_location", root)
    for store in (model_database.SqlAlchemyStore, model_files.FileStore):
        _check(store, "create_model_version", "source", root)


def inside(root: Path, path: str | Path) -> str:
    """The real path; MlflowException if it is not below the real path of `root`."""
    if not _is_inside(root, path):
        raise MlflowException(f"this location is outside {root}, from where artifacts are shown", PERMISSION_DENIED)
    return str(Path(path).resolve())


def _is_inside(root: Path, path: str | Path) -> bool:
    return Path(path).resolve().is_relative_to(root.resolve())


def _check(store: type, method: str, parameter: str, root: Path) -> None:
    """Let a store refuse locations outside `root`."""
    original: Callable[..., Any] = getattr(store, method)
    signature = inspect.signature(original)

    @wraps(original)
    def checked(*words: Any, **named: Any) -> Any:
        location = signature.bind(*words, **named).arguments.get(parameter)
        scheme = urlparse(location or "").scheme
        if location and scheme in LOCAL:
            inside(root, local_file_uri_to_path(location))
        elif location and scheme not in REFERENCES:
            raise MlflowException(f"{parameter} {location} is outside {root}", PERMISSION_DENIED)
        return original(*words, **named)

    setattr(store, method, checked)
