"""Nights with `scale.engine = "ray"`: the result is that of a plain night, whatever happens to the cluster."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from flows.orchestration import cluster as cluster_engine
from flows.orchestration import cluster_access, subprocesses
from pipeline.config.run import Run
from pipeline.core import child_processes, spread
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.publishing import listed_users
from pipeline.schemas import tables
from pipeline.storage import home_paths, journal, lake
from tests.support import ray_cluster as clusters
from tests.support.cluster_nights import LONG, SLOW, hash_of, night
from tests.support.meanwhile import at_the_same_time
from tests.support.ray_cluster import RayCluster, fits_of_mf, parts_of_export, wait_for

MODELS = """
[models.ease]
l2 = 5.0
[models.mf]
epochs = 3
embedding_dim = 4
[models.ials]
embedding_dim = 4
[models.ials.search]
l2 = [0.01, 0.1]
"""


def notes(run: Run) -> list[str]:
    """The notes of a night."""
    return journal.notes(run.home, run.dataset, run.run_id)


def stages(run: Run) -> dict[str, tuple[bool, int | None]]:
    """By stage: whether it was there already, and its rows."""
    frame = journal.read(run.home, run.dataset, tables.STAGES, run.run_id)
    return {row["stage"]: (row["skipped"], row["rows_out"]) for row in frame.to_dicts()}


def metrics(run: Run) -> pl.DataFrame:
    """The metrics in the journal."""
    return journal.read(run.home, run.dataset, tables.METRICS, run.run_id).drop("run_id")


def trials(run: Run) -> list[tuple]:
    """The trials of the search."""
    (found,) = run.home.lake(run.dataset).glob("5_searches/ials-*/trials.parquet")
    return pl.read_parquet(found).drop("seconds").rows()


def left_over(run: Run) -> list[Path]:
    """Unfinished folders and probes in the lake. Studies stay."""
    return [path for path in run.home.lake(run.dataset).rglob(".*") if not path.name.startswith(".study-")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A night without a cluster."""
    return night(tmp_path_factory.mktemp("plain"), MODELS)


@pytest.mark.usefixtures("_with_token")
def test_a_night_on_a_cluster_has_the_hash_and_the_journal_of_a_plain_one(
    ray_cluster: RayCluster, plain: Run, tmp_path: Path
):
    on_cluster = night(tmp_path, MODELS, *ray_cluster.settings, "scale.shards=3")
    assert hash_of(on_cluster) == hash_of(plain)
    assert stages(on_cluster) == stages(plain)
    assert "cluster: 2 machines, 2 parts at once" in notes(on_cluster)
    assert not any("failed in the cluster" in text for text in notes(on_cluster))
    (cleaned,) = on_cluster.home.lake(on_cluster.dataset).glob("2_clean/clean-*")
    assert len(lake.info(cleaned)["shards"]) == 3
    assert metrics(on_cluster).equals(metrics(plain))
    assert trials(on_cluster) == trials(plain)
    assert not left_over(on_cluster)


@pytest.mark.usefixtures("_with_token")
def test_a_worker_that_is_killed_in_a_fit_costs_time_only(ray_cluster: RayCluster, tmp_path: Path):
    killed: list[int] = []

    def kill() -> None:
        for worker in wait_for(ray_cluster.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path / "one")):
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    with at_the_same_time(kill):
        on_cluster = night(tmp_path / "one", SLOW, *ray_cluster.settings)
    assert killed
    assert hash_of(on_cluster) == hash_of(night(tmp_path / "two", SLOW))
    assert not any("goes on without" in text for text in notes(on_cluster))
    assert "cluster: 2 machines, 2 parts at once" in notes(on_cluster)


@pytest.mark.usefixtures("_with_token")
def test_a_part_is_interrupted_as_by_a_signal_when_its_night_is(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A fit then writes a last checkpoint and cleans up; a worker that is killed leaves its unfinished folder."""

    def interrupted(*_: object) -> spread.Records:
        wait_for(ray_cluster.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cluster_engine.Cluster, "finished", interrupted)
        night(tmp_path, LONG, *ray_cluster.settings)
    assert not fits_of_mf(tmp_path) and not ray_cluster.workers()


@pytest.mark.usefixtures("_with_token")
def test_a_machine_that_goes_away_in_the_export_costs_time_only(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(listed_users, "USERS_PER_PART", 6)  # 40 parts
    plain = night(tmp_path / "plain", "[models.ease]\n")
    done: list[int] = []

    def remove() -> None:
        written = wait_for(lambda: parts_of_export(tmp_path / "cluster"), until=bool)
        ray_cluster.tell("remove")
        done.append(len(written))

    with at_the_same_time(remove):
        on_cluster = night(tmp_path / "cluster", "[models.ease]\n", *ray_cluster.settings)
    ray_cluster.tell("add")
    assert done and done[0] < 40
    assert hash_of(on_cluster) == hash_of(plain)
    assert len(list(on_cluster.home.lake(on_cluster.dataset).glob("7_recommendations/*/recommendations-*"))) == 40
    assert not left_over(on_cluster)


@pytest.fixture
def _ray_installed() -> Iterator[None]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[scale]'")
    yield


@pytest.mark.scale
@pytest.mark.usefixtures("_ray_installed")
def test_an_address_that_nobody_answers_is_noticed_soon(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "no matter")
    started = time.monotonic()
    alone = night(tmp_path, MODELS, "scale.engine=ray", "scale.address=127.0.0.1:9")
    why = "no Ray cluster answers at 127.0.0.1:9 (scale.address)"
    assert f"warning: the night goes on without the cluster: {why}" in notes(alone)
    assert hash_of(alone) == hash_of(plain)
    assert not left_over(alone)
    assert time.monotonic() - started < 60  # Ray itself takes two minutes, and then ends the process


def test_a_wrong_token_is_told_and_the_night_goes_on(
    ray_cluster: RayCluster, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    alone = night(tmp_path, MODELS, *ray_cluster.settings)
    assert any("refuses the token (RAY_AUTH_TOKEN)" in text for text in notes(alone))
    assert hash_of(alone) == hash_of(plain)


@pytest.mark.slow  # a cluster of its own
@pytest.mark.scale
@pytest.mark.usefixtures("_ray_installed")
def test_a_cluster_that_asks_for_no_token_is_not_used(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with clusters.running(token="") as open_to_all:
        alone = night(tmp_path, MODELS, *open_to_all.settings)
    assert any("asks for no token" in text for text in notes(alone))
    assert hash_of(alone) == hash_of(plain)


@pytest.mark.slow  # a cluster of its own
@pytest.mark.scale
@pytest.mark.usefixtures("_ray_installed")
def test_a_cluster_that_ends_in_the_middle_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_engine, "PATIENCE", 10.0)
    with clusters.running() as short:
        monkeypatch.setenv("RAY_AUTH_TOKEN", short.token)

        def end() -> None:
            wait_for(short.workers, until=lambda found: bool(found) and fits_of_mf(tmp_path / "one"))
            short.kill()

        with at_the_same_time(end):
            alone = night(tmp_path / "one", SLOW, *short.settings)
    assert any("the night goes on without the cluster" in text for text in notes(alone))
    assert hash_of(alone) == hash_of(night(tmp_path / "two", SLOW))


@pytest.mark.slow  # a cluster of its own
@pytest.mark.scale
@pytest.mark.usefixtures("_ray_installed")
def test_the_cluster_of_up_is_found_by_nights_of_its_home(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    home = Home(tmp_path / "home")
    home.warehouse.mkdir(parents=True)
    service, access = cluster_access.of_this_machine(home)
    port = next(int(word.removeprefix("--port=")) for word in service.command if word.startswith("--port="))
    subprocesses.start(service, {**child_processes.environment(), **access}, tmp_path)
    try:
        wait_for(lambda: [1] * is_open(port), until=bool)
        on_cluster = night(tmp_path, MODELS, "scale.engine=ray")
    finally:
        subprocesses.stop([service])
    assert any(text.startswith("cluster: 1 machines") for text in notes(on_cluster))
    assert hash_of(on_cluster) == hash_of(plain)
    assert not is_open(port)
    assert cluster_access.token_file_of(home).stat().st_mode & 0o077 == 0
    cluster_access.clean(home)


def test_only_the_owner_can_enter_the_session_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ray itself makes its folders writable for every user."""
    monkeypatch.setattr(cluster_access.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(cluster_access, "SESSIONS", tmp_path)
    home = Home(tmp_path / "home")
    home.warehouse.mkdir(parents=True)
    sessions: list[Path] = []
    for _ in range(2):  # the second follows an `up` that was killed
        service, _access = cluster_access.of_this_machine(home)
        place = next(Path(word.partition("=")[2]) for word in service.command if word.startswith("--temp-dir="))
        sessions.append(place.parent)
        assert place.parent.parent == tmp_path and place.parent.stat().st_mode & 0o077 == 0
        place.mkdir(mode=0o777)
    assert not sessions[0].exists() and sessions[1].exists()
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.root, copy.root)
    cluster_access.clean(copy)
    assert sessions[1].exists(), "it is the original's"
    home_paths.forget_services(copy)
    assert not any(path.name in ("ray.json", "ray-token") for path in copy.root.rglob("*"))
    cluster_access.clean(home)
    assert not sessions[1].exists() and not cluster_access.file_of(home).exists()
    (tmp_path / "other").mkdir()
    for named in (tmp_path / "other", tmp_path / "home", Path("/")):
        cluster_access.file_of(home).write_text(json.dumps({"address": "127.0.0.1:9", "session": str(named)}))
        cluster_access.clean(home)
        assert (tmp_path / "other").exists() and home.warehouse.exists()


def is_open(port: int) -> bool:
    """Whether something listens on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_token_is_a_mistake_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cluster_access.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SettingsError, match=r"no token for the cluster at 127\.0\.0\.1:9\. Set RAY_AUTH_TOKEN"):
        night(tmp_path, MODELS, "scale.engine=ray", "scale.address=127.0.0.1:9")


def test_without_an_address_the_message_names_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster_access.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(SettingsError, match="nightrecs up --ray"):
        night(tmp_path, MODELS, "scale.engine=ray")


def test_without_ray_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster_access.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'nightrecs\[scale\]'"):
        night(tmp_path, MODELS, "scale.engine=ray")
