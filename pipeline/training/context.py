"""Inputs of a fit, and the error that it may raise. Families and the training loop build on this module."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor, nn

from pipeline.training.attributes import ItemAttributes
from pipeline.training.warm import PreviousFit

T = TypeVar("T")
ENOUGH = 0.05
"""Share of a fit after which its pace says how long the rest will take."""


class ModelConfig(BaseModel):
    """Hyperparameters of a family; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)
    added_later: ClassVar[tuple[str, ...]] = ()
    """Fields that are written down only where they are set, so that lake keys of fits without them don't change."""

    def value_of(self, name: str) -> Any:
        """The value of a hyperparameter."""
        return getattr(self, name)

    @property
    def names(self) -> list[str]:
        """Names of the hyperparameters, as a search knows them."""
        return list(type(self).model_fields)

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        written = dump(self)
        later = {name for base in type(self).__mro__ for name in base.__dict__.get("added_later", ())}
        unset = {name for name in later if name in written and written[name] == fields[name].get_default()}
        return {name: value for name, value in written.items() if name not in unset}


class NotServable(ValueError):
    """A family can't be used here (no timestamps, catalog too large, …); the message gives the reason.

    The night continues without it.
    """


class TooLate(NotServable):
    """A fit does not end in time; with more time the family could be used."""


class ProcessGroup:
    """The processes that fit one model together. This class is the group of one; distributed.py has larger ones."""

    rank, size = 0, 1
    per_machine = 1
    """Processes that share a machine's memory and cores."""

    def broadcast(self, value: T) -> T:
        """The value of process 0, in all processes."""
        return value

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors of all processes, which have one shape; `tensor` may be overwritten."""
        return tensor

    def agreed(self, tensor: Tensor) -> Tensor:
        """The tensor of process 0, which has the same shape in all; `tensor` may be overwritten."""
        return tensor

    def joined(self, rows: Tensor) -> Tensor:
        """In process 0 the rows of all processes, in their order, (N, …); in the others their own, (R, …)."""
        return rows

    def backward(
        self, model: nn.Module, rows: Tensor, run_backward: Callable[[Tensor], Tensor], check_memory: bool
    ) -> Tensor:
        """Store the gradient of the loss of rows (B,) in the model by `run_backward`; returns the loss, ().

        With `check_memory`, if one process is out of memory then all of them raise.
        """
        return run_backward(rows)

    def out_of_memory(self, error: torch.OutOfMemoryError) -> NoReturn:
        """Raise for a step that ran out of memory: `error` itself if all processes raise it."""
        raise error


@dataclass
class FitStats:
    """What a fit reports about itself."""

    cut_short: bool = False
    """The deadline ended the fit early."""
    earlier_seconds: float = 0.0
    """Time that earlier processes spent on this fit, if it resumed from a checkpoint."""


@dataclass
class FitContext:
    """What a fit may use in addition to its data."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"
    seed: int = 42
    log: Callable[[int, dict[str, float]], None] = lambda epoch, values: None
    """Called after every epoch with its number, from 1, and its metrics."""
    validate: Callable[[Any], float] | None = None
    """The selection metric on valid, higher is better; None: there is no validation, as in a refit."""
    per_user: Callable[[Any], Any] | None = None
    """The same metric per user, (N,), NaN where a user has none; for blends."""
    epochs: int | None = None
    """Fixed number of epochs, as an earlier fit found it; None: the family decides, by `validate` if given."""
    deadline: float | None = None
    """In time.monotonic() seconds. A gradient fit stops after the last epoch that would end before it if each took as
    long as the longest so far, and gives up if the first epoch would not."""
    checkpoint: Path | None = None
    """File in which a long gradient fit keeps its state, and from which it resumes after it was killed."""
    finder: Callable[[Any], float | None] | None = None
    """Called by the training loop with its Stepper before the first epoch. Returns the learning rate to start from, or
    None for the configured one. Families without gradient steps don't call it."""
    previous: PreviousFit | None = None
    """The state to start from; for families with `rows_of_state`."""
    memory: int | None = None
    """Bytes that a fit may allocate; None: no limit. Families with large matrices refuse instead of exceeding it."""
    attributes: ItemAttributes | None = None
    """Attributes of items, with `[attributes]`; None: they are not used."""
    graphs: bool = True
    """On CUDA, replay steps whose shapes never change as CUDA graphs (step_graphs.py)."""
    world: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that fit the model together with this one."""
    users: range | None = None
    """The users whose rows this process gets, of a family with `cuts_users`; None: all users."""
    stats: FitStats = field(default_factory=FitStats)
    """Shared by copies of a context, so that the caller sees what the training loop sets."""

    def in_time(self, pieces: Iterable[T], total: int, size: Callable[[T], int]) -> Iterator[T]:
        """The pieces of a fit that leaves nothing before its last one; `size` of each, `total` of all.

        Raises TooLate between two pieces when the deadline has passed, or when the rest, at the pace so far, would
        end after it: a wrong forecast then costs a part of the fit and not all of it.
        """
        started, done = time.monotonic(), 0
        for piece in pieces:
            yield piece
            done += size(piece)
            if self.deadline is None or done >= total:
                continue
            now = time.monotonic()
            end = started + (now - started) * total / max(1, done)
            if now > self.deadline or (done >= ENOUGH * total and end > self.deadline):
                raise TooLate(
                    f"all of the fit would take {end - started:.0f} s, and it had "
                    f"{max(self.deadline - started, 0):.0f} s: given up after {now - started:.0f} s"
                )

    @property
    def cut_short(self) -> bool:
        """Whether the deadline ended the fit early; set by the fit."""
        return self.stats.cut_short

    @cut_short.setter
    def cut_short(self, value: bool) -> None:
        self.stats.cut_short = value
