"""Fixtures: a home of its own for every test, and the real data sets where they are at hand."""

import atexit
import gc
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait don't spin

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.reporting.plots import worker
from pipeline.storage import journal, warehouse
from pipeline.tracking import server
from tests.support.cheap_tracking import Preparer, from_template

settings.register_profile("without_deadline", deadline=None)  # a busy machine or a tracer fails no example
settings.load_profile("without_deadline")

NIGHT_MODULES = re.compile(
    r"nightrecs|flows\.(conductor|nightly)|tests\.faults\..*|tests\.goldens\.(nights|old_home)"
    r"|tests\.support\.(cookbook|full_shop|nights|published_home|published_nights|small_home|small_tables|tastes)"
)
"""What runs whole nights, or builds homes as they leave them. A test that uses one of these is of the tier `night`."""
NIGHT_FIXTURES = {"published_home", "_four_nights"}
PROCESS_MODULES = re.compile(r"subprocess|multiprocessing|concurrent\.futures\.process|pipeline\.training\.launcher")
"""What starts processes. A test that uses one of these has the marker `process`."""
CONNECTOR_FIXTURES = {"postgres", "s3"}
"""Servers on loopback. A test that uses one of these has the marker `connectors`."""
CLUSTER_FIXTURES = {"ray_cluster"}
"""A test that uses one of these has the marker `scale`."""
PUBLIC_DATA_MODULES = re.compile(r"tests\.support\.(data_sets|real_data)")
"""What reads public data sets. A test that uses one of these has the marker `long`."""
LONG = ("night", "process", "long")
"""Markers of tests of which one may take a second or more."""
NAMED_IN_FILES = {
    "server": re.compile(r"mark\.server"),
    "connectors": re.compile(r"\bpostgres\b|\bs3\b|mark\.connectors"),
}
"""A file without these words has no test with the marker."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m server` or `-m connectors`, other files are not imported: that takes longer than most of these tests."""
    words = NAMED_IN_FILES.get(config.option.markexpr.split(" ")[0])
    if words and collection_path.name.startswith("test_") and collection_path.suffix == ".py":
        return None if words.search(collection_path.read_text("utf-8")) else True
    return None


def modules_used(item: pytest.Function) -> set[str]:
    """Modules of the functions, classes and modules that a test, its fixtures and helpers in their modules refer to."""
    to_do: list[object] = [each.func for found in item._fixtureinfo.name2fixturedefs.values() for each in found]
    to_do += [inspect.unwrap(item.function), getattr(getattr(item.function, "hypothesis", None), "inner_test", None)]
    seen, modules = set(), set()
    while to_do:
        function = to_do.pop()
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        used = [function.__globals__[name] for name in names_in(function.__code__) if name in function.__globals__]
        modules |= {module_of(each) for each in used}
        to_do += [each for each in used if module_of(each) == function.__module__]
    return {each for each in modules if isinstance(each, str)}


def names_in(code: CodeType) -> set[str]:
    """Names that a function refers to, in its inner functions too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


def module_of(value: object) -> str | None:
    """The module that a function or class is from; of a module, its name."""
    return value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Imported modules and collected tests live on: to look at them again and again took a tenth of all CPU time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # as pipeline/core/collector.py
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        used = modules_used(item)
        if NIGHT_FIXTURES & set(item.fixturenames) or any(map(NIGHT_MODULES.fullmatch, used)):
            item.add_marker("night")
        if CONNECTOR_FIXTURES & set(item.fixturenames):
            item.add_marker("connectors")
        if CLUSTER_FIXTURES & set(item.fixturenames):
            item.add_marker("scale")
        if any(map(PROCESS_MODULES.fullmatch, used)):
            item.add_marker("process")
        if any(map(PUBLIC_DATA_MODULES.fullmatch, used)):
            item.add_marker("long")
    if "PYTEST_XDIST_WORKER" in os.environ:  # files with most long tests first, so that no worker ends with one
        slow = Counter(
            item.path for item in items if any(map(item.get_closest_marker, LONG)) and not is_deselected(item)
        )
        items.sort(key=lambda item: -slow[item.path])


def is_deselected(item: pytest.Item) -> bool:
    """Whether `make test` leaves it out."""
    return any(item.get_closest_marker(name) for name in ("slow", "server", "device", "timing", "connectors", "scale"))


@pytest.fixture(scope="session", autouse=True)
def _cheap_tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """See tests/support/cheap_tracking.py."""
    base = tmp_path_factory.getbasetemp()
    template = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow-template.db"
    initialised = from_template(template, server.initialised_alone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "initialised_alone", initialised)
        if client := sys.modules.get("pipeline.tracking.client"):  # it has imported the name already
            patch.setattr(client, "initialised_alone", initialised)
        patch.setattr(worker, "Drawer", Preparer)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cheap_databases() -> Iterator[None]:
    """To read sources a night starts a database of its own, for the folder it spills to; here all share one."""
    connect = warehouse.connect

    def shared(
        database: Path | str = ":memory:",
        *,
        temporary: Path | None = None,
        memory_limit: str | None = None,
        **options: Any,
    ) -> warehouse.Connection:
        if database == ":memory:" and memory_limit is None and temporary and temporary.name == "spill":
            return warehouse.shared(os.getpid(), options.get("threads", 0), None).cursor()
        return connect(database, temporary=temporary, memory_limit=memory_limit, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warehouse, "connect", shared)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing in these tests survives a crash of the machine, so that no write needs to reach the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def draws_plots() -> Iterator[None]:
    """Nights draw their plots, in the usual process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "Drawer", Preparer.__base__)
        yield


@pytest.fixture(scope="module")
def lean_nights() -> Iterator[None]:
    """Nights leave out MLflow and the report, for tests that look at neither: half of the CPU time of a small night."""
    from tests.support.published_nights import without_mlflow, without_report_file

    with pytest.MonkeyPatch.context() as patch:
        without_mlflow(patch)
        without_report_file(patch)
        yield


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NIGHTRECS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A night that has just begun, on a data set called `tiny`."""
    settings = Settings.model_validate({"dataset": {"name": "tiny"}, "models": {"popularity": {}}})
    night = Run(
        run_id="20260101T000000.000Z-aaaa",
        home_root=tmp_path / "home",
        data=tmp_path,
        settings=settings,
        started_at=utcnow(),
    )
    journal.open_run(night)
    return night


@pytest.fixture(scope="session")
def published_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home of a published night of `tiny` (see published.py); to be looked at only."""
    from tests.support.published_home import publish

    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def _four_nights(tmp_path_factory: pytest.TempPathFactory):
    from tests.support.published_nights import Dataset, without_mlflow

    data = Dataset(tmp_path_factory.mktemp("four"))
    data.write()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NIGHTRECS_HOME", "NIGHTRECS_DATA", "NIGHTRECS_FAULT"):
            patch.delenv(name, raising=False)
        without_mlflow(patch)
        return data, [data.night(f"seed={seed}") for seed in range(4)]


@pytest.fixture
def four_nights(_four_nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A data set with four published nights, without MLflow (see operating.py), and their run ids; one's own copy."""
    from tests.support.published_nights import copied, without_mlflow

    without_mlflow(monkeypatch)
    data, nights = _four_nights
    return copied(data, tmp_path / "four"), list(nights)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server on loopback (see support/postgres_server.py); skips where PostgreSQL is not installed."""
    from tests.support.postgres_server import postgres_server, programs

    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[connectors]'")
    if programs() is None:
        pytest.skip("PostgreSQL is not installed (initdb, pg_ctl, postgres), e.g. apt-get install postgresql")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    """An S3 server on loopback (see support/s3_server.py); skips where moto is not installed."""
    pytest.importorskip("moto.server", reason="moto is not installed: pip install '.[connectors-test]'")
    pytest.importorskip("obstore", reason="obstore is not installed: pip install '.[connectors]'")
    from tests.support.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of two nodes on loopback (see support/ray_cluster.py); skips where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[scale]'")
    from tests.support.ray_cluster import running

    with running() as cluster:
        yield cluster


@pytest.fixture
def _with_token(monkeypatch: pytest.MonkeyPatch, ray_cluster) -> None:
    """Nights of a test use the cluster."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", ray_cluster.token)
