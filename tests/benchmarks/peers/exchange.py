"""What a measured process reads and writes: rows as CSV, lists as .npy, times as JSON. Needs only numpy.

    python fit_PEER.py FOLDER MODEL [--threads 1]

FOLDER has `rows.csv`, interactions as `user,item,timestamp` with codes from 0, ordered by user and time, and
`task.json`. The process writes `lists.npy`, K items per user, best first, without the user's own, -1 where there are
fewer, and prints one line of JSON as its last one.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Task:
    """One fit and its lists."""

    folder: Path
    model: str
    threads: int
    users: np.ndarray
    """(N,) int64, ascending."""
    items: np.ndarray
    """(N,) int64."""
    timestamps: np.ndarray
    """(N,) int64, seconds."""
    n_users: int
    n_items: int
    k: int
    dim: int
    """Length of vectors."""
    child: int | None = None
    """A process whose CPU time counts too."""
    times: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure `fit` or `lists`: wall-clock time and CPU time of all threads."""
        wall, cpu = time.perf_counter(), self._cpu()
        yield
        self.times[f"{part}_wall"] = time.perf_counter() - wall
        self.times[f"{part}_cpu"] = self._cpu() - cpu

    def _cpu(self) -> float:
        own = time.process_time()
        if self.child is None:
            return own
        numbers = Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()
        return own + (int(numbers[11]) + int(numbers[12])) / TICK  # utime and stime, proc(5)

    def best(self, scores: Callable[[np.ndarray], np.ndarray], batch: int = 512) -> np.ndarray:
        """The K best items of every user that the user does not have, (U, K); `scores`: users (B,) -> (B, I)."""
        ends = np.searchsorted(self.users, np.arange(self.n_users + 1))  # (U + 1,)
        found = []
        for start in range(0, self.n_users, batch):
            users = np.arange(start, min(start + batch, self.n_users))  # (B,)
            of = np.array(scores(users), dtype=np.float32)  # (B, I)
            own = slice(ends[start], ends[users[-1] + 1])
            of[self.users[own] - start, self.items[own]] = -np.inf
            top = np.argpartition(-of, self.k, axis=1)[:, : self.k]  # (B, K)
            order = np.argsort(-np.take_along_axis(of, top, 1), axis=1, kind="stable")
            found.append(np.take_along_axis(top, order, 1))
        return np.concatenate(found)

    def table(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Lists as rows, each user's best first, as a table (U, K)."""
        lists = np.full((self.n_users, self.k), -1)
        order = np.argsort(users, kind="stable")
        users, items = users[order], items[order]
        place = np.arange(len(users)) - np.searchsorted(users, users)  # (M,)
        lists[users, place] = items
        return lists

    def done(self, lists: np.ndarray, version: str, epochs: int = 1) -> None:
        """Write the lists and print the times."""
        np.save(self.folder / "lists.npy", lists.astype(np.int64))
        print(json.dumps({**self.times, "version": version, "epochs": epochs, "rows": len(self.users)}), flush=True)


def read() -> Task:
    """The task of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rows = np.loadtxt(options.folder / "rows.csv", dtype=np.int64, delimiter=",", skiprows=1)
    sizes: dict[str, Any] = json.loads((options.folder / "task.json").read_text())
    return Task(options.folder, options.model, options.threads, rows[:, 0], rows[:, 1], rows[:, 2], **sizes)
