"""Several processes that fit one model together, as threads of one: starting processes would take most of a test."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from pipeline.training.context import ProcessGroup

T = TypeVar("T")


class Meeting:
    """Where the threads exchange values."""

    def __init__(self, size: int):
        self.size, self.barrier = size, threading.Barrier(size, timeout=30)
        self.values: list[Any] = [None] * size


class ThreadGroup(ProcessGroup):
    """One of the threads."""

    device = torch.device("cpu")

    def __init__(self, meeting: Meeting, rank: int):
        self.meeting, self.rank, self.size = meeting, rank, meeting.size
        self.sent = 0
        """Numbers that it has put into sums."""

    def _of_all(self, value: Any) -> list[Any]:
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        found = list(self.meeting.values)
        self.meeting.barrier.wait()
        return found

    def broadcast(self, value: T) -> T:
        return self._of_all(value)[0]

    def summed(self, tensor: Tensor) -> Tensor:
        self.sent += tensor.numel()
        total, *others = self._of_all(tensor.clone())
        for other in others:
            assert other.shape == total.shape
            total = total + other
        return total

    def agreed(self, tensor: Tensor) -> Tensor:
        return self._of_all(tensor)[0].clone()

    def joined(self, rows: Tensor) -> Tensor:
        found = self._of_all(rows)
        return rows if self.rank else torch.cat(found)


def together(size: int, function: Callable[[ThreadGroup], T]) -> list[T]:
    """The result of each of `size` threads; raises the first error, which ends the others."""
    meeting, results, errors = Meeting(size), dict[int, T](), list[BaseException]()

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadGroup(meeting, rank))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    return [results[rank] for rank in range(size)]
