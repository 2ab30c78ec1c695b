"""Messages between a night's process (cluster.py) and the one that speaks with Ray (fanout.py)."""

from dataclasses import dataclass, field
from pathlib import Path

READY, LOST, DONE, DIED, ALIVE = "ready", "lost", "done", "died", "alive"
"""First part of what fanout.py sends: (READY, hosts, slots), (LOST, why), (DONE, number, Outcome), (DIED, number, why)
and (ALIVE,). It gets a `Wanted`, then (number, function, arguments) of every part."""


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
