"""Messages between a night's process (cluster.py) and the one that speaks with Ray (fanout.py)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READY, LOST, DONE, DIED, ALIVE = "ready", "lost", "done", "died", "alive"
"""First part of what fanout.py sends: (READY, hosts, slots), (LOST, why), (DONE, number, Outcome), (DIED, number, why)
and (ALIVE, hosts that went away since, machines that are left). It gets (Wanted,), then (number, function, arguments,
after) of every part."""

MESSAGE, REFUSED, FAILED = "message", "refused", "failed"
"""What fanout_hosts.py sends has two parts: one of these, DONE, LOST or ALIVE, and the content: what a fit sends, its
result, or a text. It gets (Wanted, HostFit)."""


@dataclass(frozen=True)
class Wanted:
    """What a night needs of a cluster."""

    address: str
    token: str = field(repr=False)
    probe: Path
    """A file of the home."""
    text: str
    """Its content."""
    device: str
    threads: int
    """Cores of a part; 0: all of a machine."""


@dataclass(frozen=True)
class HostFit:
    """A function that several machines carry out together, one process on each; picklable."""

    function: Callable[..., Any]
    """Called with the process group, then with the arguments."""
    arguments: tuple[Any, ...]
    hosts: int
    scratch: Path
    """A folder of the home for Ray Train's own files; removed afterwards."""
