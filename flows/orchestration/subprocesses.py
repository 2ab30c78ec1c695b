"""Starts servers as child processes, waits until they answer, and stops them with their children."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 180
STOP_SECONDS = 15


@dataclass
class Service:
    """A child process and its health check."""

    name: str
    command: list[str]
    url: str | None = None
    """Address for users."""
    health: tuple[str, ...] = ()
    """Addresses that all answer 200 when it is ready."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers of the requests to those addresses."""
    cwd: Path | None = None
    """Working directory; uvicorn looks for modules there first."""
    process: subprocess.Popen[bytes] | None = None


def free_port(wanted: int) -> int:
    """The port, or the next free one."""
    for port in range(wanted, min(wanted + 100, 2**16)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free between {wanted} and {min(wanted + 99, 2**16 - 1)}")


def start(service: Service, environment: dict[str, str], logs: Path) -> None:
    """Start it as leader of a new process group, so that its children end with it."""
    with (logs / f"{service.name.lower()}.log").open("wb") as log:
        service.process = subprocess.Popen(
            service.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=_end_with_parent, cwd=service.cwd,
        )  # fmt: skip


def _end_with_parent() -> None:
    """Linux: get SIGTERM when the parent process ends, even by kill -9."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def wait(service: Service, logs: Path) -> None:
    """Wait until it answers; RuntimeError with the end of its log if it does not."""
    assert service.process is not None
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        if all(answers(address, service.headers) for address in service.health):
            return
        time.sleep(0.3)
    log = logs / f"{service.name.lower()}.log"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise RuntimeError(f"{service.name} did not start; the end of {log}:\n{last}")


def answers(url: str, headers: dict[str, str] | None = None) -> bool:
    """Whether a URL answers 200."""
    import urllib.request  # a run without Prefect asks nobody, and it imports ssl and http

    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5) as response:
            return response.status == 200
    except (OSError, ValueError, HTTPException):
        return False


def stop(services: list[Service]) -> None:
    """End every process group: SIGTERM first, then SIGKILL."""
    running = [s.process for s in reversed(services) if s.process is not None]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(alive(process) for process in running):
            time.sleep(0.1)


def alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process of this group still exists."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
