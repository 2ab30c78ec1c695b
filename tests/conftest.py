"""Fixtures: a home of its own for every test, and the real data sets where they are at hand."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait don't spin

from pipeline.config.run import Run, utcnow
from pipeline.config.settings import Settings
from pipeline.reporting.plots import worker
from pipeline.storage import journal
from pipeline.tracking import server
from tests.support.cheap_tracking import Preparer, from_template

NIGHT_FOLDERS = {"goldens", "nights"}
NIGHT_FIXTURES = {"published_home", "_four_nights"}
NIGHT_MODULES = {
    "flows.nightly", "tests.faults.child", "tests.faults.ground", "tests.support.cookbook", "tests.support.nights",
    "tests.support.published_home", "tests.support.published_nights", "tests.support.tastes",
}  # fmt: skip
"""What runs whole nights. A test module that imports from one of these is of the tier `night`."""


def runs_nights(item: pytest.Function) -> bool:
    """Whether a test belongs to the tier `night`: by its folder, its fixtures, or what its module imports."""
    names = {
        getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in vars(item.module).values()
    }
    return bool(
        NIGHT_FOLDERS & {parent.name for parent in item.path.parents}
        or NIGHT_FIXTURES & set(item.fixturenames)
        or NIGHT_MODULES & {name for name in names if isinstance(name, str)}
    )


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by `-m`
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and runs_nights(item):
            item.add_marker("night")


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


@pytest.fixture(scope="module")
def draws_plots() -> Iterator[None]:
    """Nights draw their plots, in the usual process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "Drawer", Preparer.__base__)
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
