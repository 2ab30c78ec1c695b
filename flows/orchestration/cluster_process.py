"""Starts the processes that speak with Ray, so that the night's own never does."""

import subprocess
from multiprocessing.connection import Connection, Pipe

from flows.orchestration import cluster_access
from flows.orchestration.cluster_access import Door
from pipeline.core import child_processes


def start(module: str, door: Door) -> tuple["subprocess.Popen[bytes]", Connection]:
    """Start `module` with the number of its end of a connection; returns the process and the other end."""
    connection, child = Pipe()
    environment = {**child_processes.environment(), **cluster_access.environment(door)}
    process = subprocess.Popen(
        child_processes.command(module, str(child.fileno())), env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[child.fileno()], start_new_session=True,
    )  # fmt: skip
    child.close()
    return process, connection
