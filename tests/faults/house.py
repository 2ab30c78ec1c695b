"""A running `nightrecs up`, and requests to its servers as other pages, other names and its owner send them."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from flows.orchestration import api_access
from flows.orchestration.deployments import Api
from pipeline.core.paths import CHECKOUT, Home
from pipeline.storage import running_servers

START, STOP = 240, 40
"""Seconds until all is up, and until all is gone."""
EVIL = "http://evil.example"


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def readable(self) -> bool:
        """Whether a browser lets a page of another origin see it."""
        return "access-control-allow-origin" in self.headers


def asked(url: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    """One request exactly as written: no proxy, no redirect; `Host_` replaces the header of that name."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    sent = {name.rstrip("_").replace("_", "-"): value for name, value in headers.items()}
    data = None if body is None else json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path or "/", data, sent)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, text)
    finally:
        connection.close()


def heed_ctrl_c() -> None:
    """Tests that run in the background may have it ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """What it finds in the end; False where it finds nothing in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    return False


class House:
    """`nightrecs up` of a home, from its start on."""

    def __init__(self, root: Path, prefect: int, mlflow: int, log: str = "up.log"):
        self.home, self.log = Home(root), root.parent / f"{root.name}-{log}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("NIGHTRECS_", "PREFECT_", "MLFLOW_"))}
        command = [sys.executable, "-m", "flows.cli", "--home", str(root), "up"]
        command += ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
        with self.log.open("w") as log_file:
            self.process = subprocess.Popen(
                command, cwd=CHECKOUT, env=clean, stderr=log_file, preexec_fn=heed_ctrl_c, umask=0o022
            )

    def stands(self) -> "House":
        """Wait until all of it answers."""
        wait_for(lambda: running_servers.running_up(self.home) or self.process.poll() is not None, START)
        assert running_servers.running_up(self.home) and self.process.poll() is None, self.output
        return self

    @property
    def output(self) -> str:
        """Its output."""
        return self.log.read_text()

    @property
    def urls(self) -> dict[str, str]:
        """Where its servers are."""
        return json.loads(running_servers.state(self.home).read_text())["urls"]

    @property
    def api(self) -> Api:
        """Prefect, for its owner."""
        return Api(f"{self.urls['Prefect']}/api", api_access.auth_of(self.home))

    def fall(self) -> int:
        """Ctrl-C; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(STOP)
        finally:
            if self.process.poll() is None:
                self.process.kill()


@contextmanager
def house(root: Path, prefect: int, mlflow: int) -> Iterator[House]:
    """One that stands, and falls in any case."""
    built = House(root, prefect, mlflow)
    try:
        yield built.stands()
    finally:
        built.fall()


def started(one: House, deployment: str, *asked_for: dict[str, Any]) -> list[dict[str, Any]]:
    """Flow runs of a deployment with these parameters, as the owner starts them, when they have ended."""
    runs: list[dict[str, Any]] = []
    for parameters in asked_for:
        try:
            runs.append(one.api.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters}))
        except HTTPError as error:
            runs.append({"id": None, "state_type": "NOT CREATED", "state": {"message": str(error)}})
    over = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def ended() -> list[dict[str, Any]] | None:
        found = [one.api.ask(f"/flow_runs/{run['id']}") if run["id"] else run for run in runs]
        return found if all(run["state_type"] in (*over, "NOT CREATED") for run in found) else None

    found = wait_for(ended, START)
    assert found, f"the runs have not ended: {asked_for}"
    return found
