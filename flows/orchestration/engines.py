"""The engine that `[scale]` names."""

from collections.abc import Generator
from contextlib import contextmanager

from flows.orchestration import cluster_access
from pipeline.config.run import Run
from pipeline.core import spread


def check(run: Run) -> None:
    """Raise SettingsError if `[scale] engine` asks for what is not installed, or there is no address or token."""
    if run.settings.scale.engine == "none":
        return
    cluster_access.require_ray('scale.engine = "ray"')
    cluster_access.find(run.home, run.settings.scale.address)


@contextmanager
def engine_of(run: Run) -> Generator[None]:
    """The engine of `[scale]` for the night that runs in the block. Raises SettingsError as `check` does."""
    check(run)
    if run.settings.scale.engine == "none":
        yield
        return
    from flows.orchestration.cluster import Cluster  # imports torch

    cluster = Cluster(run)
    try:
        with spread.using(cluster):
            yield
    finally:
        cluster.close()
