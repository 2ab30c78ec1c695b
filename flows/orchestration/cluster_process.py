"""Starts the processes that speak with Ray, so that the night's own never does, and listens to them."""

import subprocess
import time
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from flows.orchestration import cluster_access
from flows.orchestration.cluster_access import Door
from pipeline.core import child_processes

ENDED = "the process that speaks with Ray ended"
RETRIES = 2
"""Of a part whose worker died. A family that always ends its worker costs three times its time."""
OF_CALLS = {
    "RAY_grpc_client_keepalive_time_ms": "60000",
    "RAY_grpc_client_keepalive_timeout_ms": "60000",
    "RAY_task_oom_retries": str(RETRIES),
}
"""Of Ray's own variables. A stalled worker, or a machine that vanished without closing its connections, is found in two
minutes; Ray's defaults take seven. And a part that is out of memory is not tried without end."""
LAST_WORDS = 15.0
"""Seconds that a process has to end what still runs on other machines."""


class Gone(Exception):
    """The process ended, or gave no sign of life; the text says which."""


class RayProcess:
    """A process that speaks with Ray, from the night's side."""

    def __init__(self, module: str, door: Door, patience: float):
        """Start `module`; `patience`: seconds without a sign of life, after which it counts as gone."""
        self.process, self.connection = start(module, door)
        self.patience, self._heard = patience, time.monotonic()

    def wait_longer(self, seconds: float) -> None:
        """Its first sign of life may take so many seconds more."""
        self._heard = time.monotonic() + seconds

    def send(self, *message: Any) -> None:
        """Raises Gone."""
        try:
            self.connection.send(message)
        except OSError:
            raise Gone(ENDED) from None

    def receive(self, seconds: float = 1.0) -> tuple[Any, ...] | None:
        """The next message, if there is one within so many seconds. Raises Gone."""
        try:
            message = self.connection.recv() if self.connection.poll(max(seconds, 0)) else None
        except (EOFError, OSError):
            raise Gone(ENDED) from None
        now = time.monotonic()
        if message is not None:
            self._heard = max(self._heard, now)
        elif now - self._heard > self.patience:
            raise Gone(f"no sign of life for {self.patience:.0f} s")
        return message

    def close(self) -> None:
        """End it, and what still runs in the cluster for it."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_WORDS)
        self.process.kill()
        self.process.wait()


def start(module: str, door: Door) -> tuple["subprocess.Popen[bytes]", Connection]:
    """Start `module` with the number of its end of a connection; returns the process and the other end."""
    connection, child = Pipe()
    environment = {**child_processes.environment(), **cluster_access.environment(door), **OF_CALLS}
    process = subprocess.Popen(
        child_processes.command(module, str(child.fileno())), env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[child.fileno()], start_new_session=True,
    )  # fmt: skip
    child.close()
    return process, connection
