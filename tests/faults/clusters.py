"""Nights on a Ray cluster of two nodes on loopback, of which parts or all go away: each publishes what it does alone."""

import atexit
import importlib.util
import os
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.support import ray_cluster
from tests.support.ray_cluster import RayCluster, fits_of_mf, parts_of_export, wait_for

from . import plants
from .ground import DATASET, WITH_GRADIENT, Ground, rows
from .table import Skip, row

SLOW = WITH_GRADIENT.replace("epochs = 4\nembedding_dim = 4", "epochs = 60\npatience = 60\nembedding_dim = 32")
USERS = 240
_running: list[RayCluster] = []
_open = ExitStack()
atexit.register(_open.close)


def require_ray() -> None:
    """Raise Skip where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise Skip("Ray is not installed: pip install '.[scale]'")


def cluster() -> RayCluster:
    """The cluster that rows share."""
    require_ray()
    if not _running:
        _running.append(_open.enter_context(ray_cluster.running()))
    return _running[0]


def with_token(token: str, users_per_part: int = 50_000) -> None:
    """Of a night's own process."""
    from pipeline.publishing import listed_users

    plants.set_constant(listed_users, "USERS_PER_PART", users_per_part)
    os.environ["RAY_AUTH_TOKEN"] = token
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)


def grounds(root: Path, recipe: str = SLOW) -> tuple[Ground, str]:
    """A ground, and the hash of a night on it without a cluster."""
    ground, alone = (Ground(root / name, recipe=recipe) for name in ("cluster", "alone"))
    for each in (ground, alone):
        each.write(rows(USERS))
    alone.night()
    return ground, alone.record()["logical_hash"]


def same(ground: Ground, expected: str) -> str:
    """Check that the night is whole and has the expected hash, and that the next one removes what it left behind."""
    assert ground.promise() == ground.run_ids()[-1] and ground.record()["logical_hash"] == expected, "another hash"
    ground.night()
    left = [path for path in ground.home.lake(DATASET).rglob(".*") if not path.name.startswith(".study-")]
    assert not left, left
    return f"same hash {expected[:8]}"


@row(40, "a worker of the Ray cluster killed in a fit", "the part runs again there; same logical hash")
def worker_killed(root: Path) -> str:
    used, (ground, expected) = cluster(), grounds(root)
    night = ground.start(*used.settings, before=partial(with_token, used.token))
    killed = wait_for(used.workers, until=lambda found: bool(found) and fits_of_mf(ground.root))
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    ended = night.end()
    assert ended.code == 0 and "goes on without" not in ground.notes(), ended.output[-900:]
    return f"{len(killed)} killed, {same(ground, expected)}"


@row(41, "a node of the Ray cluster removed in the export", "its parts run on the other one; same logical hash")
def node_removed(root: Path) -> str:
    used, (ground, expected) = cluster(), grounds(root, WITH_GRADIENT)
    night = ground.start(*used.settings, before=partial(with_token, used.token, users_per_part=6))
    written = wait_for(lambda: parts_of_export(ground.root), until=bool)
    used.tell("remove")
    ended = night.end()
    used.tell("add")
    assert ended.code == 0 and "goes on without" not in ground.notes(), ended.output[-900:]
    assert len(written) < USERS // 6, "it was removed too late"
    return f"removed after {len(written)} of {USERS // 6} parts, {same(ground, expected)}"


@row(42, "wrong token for the Ray cluster", "the night goes on alone and says so")
def wrong_token(root: Path) -> str:
    used, (ground, expected) = cluster(), grounds(root, WITH_GRADIENT)
    ended = ground.night(*used.settings, before=partial(with_token, "0" * 64))
    assert "refuses the token (RAY_AUTH_TOKEN)" in ground.notes() and used.token not in ended.output
    return f"noted, {same(ground, expected)}"


@row(43, "nobody at the address of the Ray cluster", "noticed in seconds; the night goes on alone and says so")
def nobody(root: Path) -> str:
    require_ray()
    ground, expected = grounds(root, WITH_GRADIENT)
    settings = ("scale.engine=ray", "scale.address=127.0.0.1:9")
    ended = ground.night(*settings, before=partial(with_token, "no matter"))
    assert "no Ray cluster answers at 127.0.0.1:9" in ground.notes() and ended.seconds < 60, ended.seconds
    return f"noted, published after {ended.seconds:.0f} s in all, {same(ground, expected)}"


@row(44, "the whole Ray cluster killed in a fit", "the night goes on alone and says so; same logical hash")
def all_killed(root: Path) -> str:
    used, (ground, expected) = cluster(), grounds(root)
    night = ground.start(*used.settings, before=partial(with_token, used.token))
    wait_for(used.workers, until=lambda found: bool(found) and fits_of_mf(ground.root))
    _running.clear()
    used.kill()
    ended = night.end()
    assert ended.code == 0 and "the night goes on without the cluster" in ground.notes(), ended.output[-900:]
    return f"noted, published after {ended.seconds:.0f} s in all, {same(ground, expected)}"
