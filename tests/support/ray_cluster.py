"""A Ray cluster of two nodes on loopback, one core each, that asks for a token."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flows.orchestration import cluster_access
from flows.orchestration.cluster_access import Door
from pipeline.core import child_processes

START = """
import json, os, signal, sys
from ray.cluster_utils import Cluster
about = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args={**about, "include_dashboard": False})
second = cluster.add_node(**about)
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    order = line.strip()
    if order == "remove":
        cluster.remove_node(second, allow_graceful=False)
    elif order == "add":
        second = cluster.add_node(**about)
    elif order == "lose head":
        cluster.head_node.kill_gcs_server(check_alive=False)
        cluster.head_node.kill_raylet(check_alive=False)
    else:
        raylet = second.all_processes["raylet"][0].process.pid
        of = {int(pid): int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
              for pid in os.listdir("/proc") if pid.isdigit() and os.path.exists(f"/proc/{pid}/stat")}
        for pid in [raylet, *(pid for pid, parent in of.items() if parent == raylet)]:
            os.kill(pid, signal.SIGSTOP if order == "freeze" else signal.SIGCONT)
    print("done", flush=True)
cluster.shutdown()
"""


@dataclass
class RayCluster:
    """A running cluster; it ends with the process that holds it."""

    process: "subprocess.Popen[str]"
    address: str
    token: str = field(repr=False)

    @property
    def settings(self) -> list[str]:
        """Overrides of a night that uses it."""
        return ["scale.engine=ray", f"scale.address={self.address}"]

    def tell(self, order: str) -> None:
        """`remove` the second node without warning, or `add` one; `freeze` it, or `thaw` it; `lose head`."""
        assert self.process.stdin and self.process.stdout
        print(order, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline().strip() == "done"

    def kill(self) -> None:
        """End all its processes at once."""
        os.killpg(self.process.pid, signal.SIGKILL)

    @staticmethod
    def workers() -> list[int]:
        """Processes that carry out a part now."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _is_busy(path)]


def _is_busy(path: Path) -> bool:
    try:
        return path.read_bytes().startswith(b"ray::call")
    except OSError:
        return False


def fits_of_mf(folder: Path) -> list[Path]:
    """Fits of mf that are under way in the homes of a folder."""
    return list(folder.glob("home/**/5_models/.mf-*"))


def parts_of_export(folder: Path) -> list[int]:
    """Parts of the export that is under way in the home of a folder."""
    found = folder.glob("home/warehouse/lake/*/7_recommendations/.*/recommendations-[0-9]*.parquet")
    return [int(path.stem[-4:]) for path in found]


def wait_for(look: Callable[[], list[int]], until: Callable[[list[int]], object]) -> list[int]:
    """What `look` finds as soon as `until` holds."""
    deadline = time.monotonic() + 120
    while not until(found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@contextmanager
def running(token: str | None = None, **environment: str) -> Iterator[RayCluster]:
    """Start a cluster, with these variables of its own; `token`: an empty one for a cluster that asks for none."""
    token = secrets.token_hex(32) if token is None else token
    own = {
        **child_processes.environment(),
        "OMP_NUM_THREADS": "1",
        **cluster_access.environment(Door("127.0.0.1:0", token)),
        **environment,
    }
    if not token:
        own |= {"RAY_AUTH_MODE": "disabled"}
        own.pop("RAY_AUTH_TOKEN")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START], env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the cluster did not start"
        yield RayCluster(process, line.strip().strip('"'), token)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
