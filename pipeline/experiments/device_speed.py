"""How fast this device is, measured by a probe of some tenths of a second."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from pipeline.experiments.workload import Work

SIDE, ROWS, WIDTH, LOOKUPS, SMALL = 768, 100_000, 64, 200_000, 100
OPERATIONS_OF_A_STEP = 60.0
"""Small operations of a gradient step."""
LONG_ENOUGH = 0.1
"""Seconds of rounds: several turns of the scheduler, so that what other processes take is measured too."""
FRESH, PROBES = 10.0, 4
"""Seconds between two probes of the host, and how many of them are averaged."""


@dataclass(frozen=True)
class Speed:
    """What the device does in a second."""

    products: float
    """Floating-point operations of a matrix product."""
    moved: float
    """Bytes of rows read at random."""
    steps: float
    """Steps of small operations."""

    def seconds(self, work: Work) -> float:
        """Time of the work, if nothing overlaps."""
        return work.products / self.products + work.moved / self.moved + work.steps / self.steps


@cache
def measured(kind: str) -> Speed:
    """Speed of a device of this kind, `cpu` or `cuda`; measured once a process."""
    device = torch.device(kind)
    matrix, table = torch.rand(SIDE, SIDE, device=device), torch.rand(ROWS, WIDTH, device=device)
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(ROWS, (LOOKUPS,), generator=generator).to(device)  # (LOOKUPS,)
    starts = torch.arange(0, LOOKUPS, 20, device=device)
    bag = torch.nn.functional.embedding_bag
    product = _mean(lambda: matrix @ matrix, device)
    lookup = _mean(lambda: bag(places, table, starts, mode="sum"), device)
    return Speed(2.0 * SIDE**3 / product, 4.0 * WIDTH * LOOKUPS / lookup, 1 / _step(device))


def host_steps() -> float:
    """Steps a second that this process gets from a core of the host now: other processes take their part.

    The mean of the last PROBES probes, which are FRESH seconds apart.
    """
    probes, now = _probes(), time.monotonic()
    if not probes or now - probes[-1][0] >= FRESH:
        probes.append((now, _step(torch.device("cpu"))))
    return len(probes) / sum(seconds for _, seconds in probes)


@cache
def _probes() -> deque[tuple[float, float]]:
    """When the host was probed in this process, and the seconds of a step."""
    return deque(maxlen=PROBES)


def _step(device: torch.device) -> float:
    """Seconds of a step of small operations."""
    small = torch.rand(64, device=device)

    def small_steps() -> None:
        for _ in range(SMALL):
            small.mul_(1.0)

    return _mean(small_steps, device) / SMALL * OPERATIONS_OF_A_STEP


def _mean(work: Callable[[], object], device: torch.device) -> float:
    """Mean seconds of the rounds, after one that does not count."""
    rounds, started = -1, 0.0
    while rounds < 1 or time.perf_counter() - started < LONG_ENOUGH:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        rounds += 1
        started = started if rounds else time.perf_counter()
    return max((time.perf_counter() - started) / rounds, 1e-9)
