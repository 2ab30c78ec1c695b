"""Cleans up MLflow's store: ends runs of dead nights, removes old runs, and removes models that know a user.

Removing needs direct access to the store: where MLFLOW_TRACKING_URI names a server, use `mlflow gc` there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import polars as pl

from pipeline.core.filesystem import delete, size_of
from pipeline.core.paths import Home
from pipeline.storage.garbage import Garbage
from pipeline.storage.home_identity import name_in_services
from pipeline.tracking.client import NIGHT, connect
from pipeline.tracking.server import tracking_uri

STATUS = {"published": "FINISHED", "crashed": "KILLED"}
"""MLflow's run status by a night's outcome; FAILED for all others."""


class NotOurs(RuntimeError):
    """MLflow's store can't be cleaned up from here: it is a server, or its files belong to another home."""


def end_stale(home: Home, dataset: str, outcomes: Mapping[str, str]) -> int:
    """End runs that are RUNNING in MLflow though their night has ended by the journal; returns how many."""
    dataset = name_in_services(home, dataset)
    client = connect(home)
    ended = 0
    for run in _runs(client, dataset, "attributes.status = 'RUNNING'"):
        outcome = outcomes.get(run.data.tags.get(NIGHT, ""), "running")
        if outcome == "running":
            continue
        if run.data.tags.get("nightrecs.kind") == "night":
            client.set_tag(run.info.run_id, "nightrecs.outcome", outcome)
        client.set_terminated(run.info.run_id, STATUS.get(outcome, "FAILED"))
        ended += 1
    return ended


def leftovers(home: Home, dataset: str, keep_runs: set[str], keep_models: set[str], before: float) -> list[Garbage]:
    """Runs and models that may go: of nights that are not kept, begun before `before` (seconds since 1970).

    `keep_runs`, `keep_models`: ids of nights. A model with an alias always stays.
    """
    dataset = name_in_services(home, dataset)
    client, store = _store(home)
    found: list[Garbage] = []
    aliased = _aliased(client, dataset)
    for model, night, versions in _models(client, dataset):
        if night in keep_models or aliased & set(versions) or model.creation_timestamp / 1000 >= before:
            continue
        found.append(_model(home, client, store, dataset, model, versions))
    for run in _runs(client, dataset):
        night = run.data.tags.get(NIGHT)
        if night is None or night in keep_runs | keep_models or run.info.start_time / 1000 >= before:
            continue
        at, run_id = _local(run.info.artifact_uri).parent, run.info.run_id
        found.append(
            Garbage("run", f"{run.info.run_name} ({run_id})", size_of([at]), _hard(home, store, "run", run_id, at))
        )
    return found


def models_with(home: Home, dataset: str, user_id: str) -> list[Garbage]:
    """Models whose artifacts name a user, with or without alias."""
    dataset = name_in_services(home, dataset)
    client, store = _store(home)
    return [
        _model(home, client, store, dataset, model, versions)
        for model, _, versions in _models(client, dataset)
        if any(_has(users, user_id) for users in _local(model.artifact_location).rglob("users.parquet"))
    ]


def _has(users: Path, user_id: str) -> bool:
    return not pl.scan_parquet(users).filter(pl.col("user_id") == user_id).head(1).collect().is_empty()


def _model(home: Home, client: Any, store: Any, dataset: str, model: Any, versions: list[str]) -> Garbage:
    at = _local(model.artifact_location).parent
    hard = _hard(home, store, "logged_model", model.model_id, at)

    def remove() -> None:
        check_inside(home, at)
        for version in versions:
            client.delete_model_version(dataset, version)
        client.delete_logged_model(model.model_id)
        hard()

    name = f"version {', '.join(versions)} ({model.model_id})" if versions else model.model_id
    return Garbage("model", name, size_of([at]), remove)


def _hard(home: Home, store: Any, kind: str, identity: str, at: Path) -> Callable[[], None]:
    """A function that deletes a row of the store and its folder permanently, as `mlflow gc` does."""

    def remove() -> None:
        check_inside(home, at)
        if kind == "run":
            store.delete_run(identity)
        getattr(store, f"_hard_delete_{kind}")(identity)
        delete(at)

    return remove


def check_inside(home: Home, at: Path) -> None:
    """Raise NotOurs where artifacts lie outside the home; to be called before anything is removed."""
    if at.exists() and not at.resolve().is_relative_to(home.root.resolve()):
        raise NotOurs(f"{at} lies outside the home {home.root}, so nothing is removed there")


def _store(home: Home) -> tuple[Any, Any]:
    client = connect(home)
    store = client._tracking_client.store
    if not hasattr(store, "_hard_delete_run"):
        raise NotOurs(f"MLflow is at {tracking_uri(home)}: remove old runs there (mlflow gc)")
    return client, store


def _runs(client: Any, dataset: str, where: str = "") -> Iterator[Any]:
    experiment = client.get_experiment_by_name(dataset)
    if experiment is None:
        return
    page = client.search_runs([experiment.experiment_id], where, max_results=1000)
    while True:
        yield from page
        if not page.token:
            return
        page = client.search_runs([experiment.experiment_id], where, max_results=1000, page_token=page.token)


def _models(client: Any, dataset: str) -> Iterator[tuple[Any, str | None, list[str]]]:
    """Every logged model, with its night and its registered versions."""
    experiment = client.get_experiment_by_name(dataset)
    if experiment is None:
        return
    versions: dict[str, list[Any]] = {}
    for version in client.search_model_versions(f"name = '{dataset}'"):
        versions.setdefault(version.model_id or version.source.removeprefix("models:/"), []).append(version)
    token = None
    while True:
        page = client.search_logged_models(experiment_ids=[experiment.experiment_id], page_token=token)
        for model in page:
            of = versions.get(model.model_id, [])
            nights = [v.tags[NIGHT] for v in of if NIGHT in v.tags]
            yield model, nights[0] if nights else None, [str(v.version) for v in of]
        token = page.token
        if not token:
            return


def _aliased(client: Any, dataset: str) -> set[str]:
    with suppress(Exception):  # nothing is registered yet
        return {str(version) for version in client.get_registered_model(dataset).aliases.values()}
    return set()


def _local(uri: str) -> Path:
    return Path(unquote(urlparse(uri).path) if uri.startswith("file:") else uri)
