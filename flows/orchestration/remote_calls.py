"""What a task of the cluster runs, on any of its machines. It knows nothing of Ray."""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.paths import CHECKOUT
from pipeline.core.redaction import masked
from pipeline.storage import journal_entries
from pipeline.training.device import on_device, resolve_device

SEEN_WITHIN = 5.0
"""Seconds within which a file of the home must be seen on every machine."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    result: Any = None
    entries: list[journal_entries.Entry] = field(default_factory=list[journal_entries.Entry])
    """For the journal, which only the night's own process writes."""
    error: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a machine of the cluster answers."""

    host: str
    shares_home: bool
    """Whether it has read what the night's own process wrote."""
    code: str
    device: str

    def differs(self, code: str, device: str) -> str | None:
        """Why results of this machine may be others than those of a machine with `code` and `device`."""
        if not self.shares_home:
            return f"{self.host} does not see the home: it must be one path, on a file system that all machines share"
        if self.code != code:
            return f"{self.host} has another version of this package"
        return None if self.device == device else f"{self.host} computes on {self.device}, not on {device}"


def call(function: Callable[..., Any], arguments: tuple[Any, ...], *after: Outcome) -> Outcome:
    """Carry out a part. An error is returned as text: the night's own process then does the part itself.

    `after`: those that it has waited for; what they wrote is in files.
    """
    with journal_entries.aside() as entries:
        try:
            result = function(*arguments)
        except Exception as error:
            return Outcome(error=masked(f"{type(error).__name__}: {error}"))
    return Outcome(result, entries)


def look(probe: Path, text: str, device: str) -> Machine:
    """What this machine is; `probe`: a file of the home with `text`, which NFS may show late."""
    deadline = time.monotonic() + SEEN_WITHIN
    while not (seen := _reads(probe, text)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return Machine(socket.gethostname(), seen, code(), kind_of(device))


def kind_of(device: str) -> str:
    """The kind of device that the setting `device` means on this machine, as in the keys of models."""
    return on_device(resolve_device(device))


def _reads(probe: Path, text: str) -> bool:
    try:
        return probe.read_text() == text
    except OSError:
        return False


@cache
def code() -> str:
    """Hash of this package's modules, and of the versions that results depend on."""
    from importlib.metadata import version

    found = hashlib.sha256(" ".join(map(version, ("duckdb", "polars", "numpy", "torch"))).encode())
    for package in ("flows", "pipeline"):
        for path in sorted((CHECKOUT / package).rglob("*.py")):
            found.update(os.fsencode(path.relative_to(CHECKOUT)) + path.read_bytes())
    return found.hexdigest()[:16]
