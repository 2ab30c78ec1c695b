"""What a fit is given and what it may raise; below the families and below the training loop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

T = TypeVar("T")


class ModelConfig(BaseModel):
    """Hyperparameters of a family; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


class NotServable(ValueError):
    """A family can't be used here (no timestamps, catalog too large, …), for the reason in the message.

    The night goes on without it.
    """


class ProcessGroup:
    """The processes that fit a model together: this one, alone. For several see distributed.py."""

    rank, size = 0, 1

    def broadcast(self, value: T) -> T:
        """What process 0 says, in all of them."""
        return value

    def backward(self, model: nn.Module, rows: Tensor, backward: Callable[[Tensor], Tensor], look: bool) -> Tensor:
        """Put the gradient of the loss of rows (B,) into the model, by `backward`; that loss, ().

        With `look` memory that is out in any process is so in all.
        """
        return backward(rows)

    def out_of_memory(self, error: torch.OutOfMemoryError) -> NoReturn:
        """Raise what a step without memory comes to: `error` where all processes have it."""
        raise error


@dataclass
class FitStats:
    """What a fit tells of itself."""

    cut_short: bool = False
    """The deadline ended it early."""
    earlier_seconds: float = 0.0
    """It goes on from a checkpoint, and had taken so long by then."""


@dataclass
class FitContext:
    """What a fit may use beside its data."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: str = "auto"
    seed: int = 42
    log: Callable[[int, dict[str, float]], None] = lambda epoch, values: None
    """Called once an epoch (1-based) with its figures."""
    validate: Callable[[Any], float] | None = None
    """The model's figure that selects, on valid, higher is better; None: there is no valid, as in a refit."""
    per_user: Callable[[Any], Any] | None = None
    """The same figure of every user it is a mean of, (N,), NaN where a user has none; for blends."""
    epochs: int | None = None
    """Fixed number of epochs, as found earlier; None: the family decides, by `validate` where it is given."""
    deadline: float | None = None
    """On time.monotonic(); a gradient fit stops after the last epoch that ends before it, if each takes as long as
    the longest so far, and gives up where the first one doesn't."""
    checkpoint: Path | None = None
    """File in which a long gradient fit keeps its state, and from which it goes on after it was killed."""
    finder: Callable[[Any], float | None] | None = None
    """Called by the training loop with its Stepper before the first epoch; returns the learning rate to start from,
    None: the configured one. Families without gradient steps never call it."""
    memory: int | None = None
    """Bytes that a fit may hold; None: no limit. Families of large matrices refuse instead of passing it."""
    graphs: bool = True
    """On CUDA, steps whose shapes never change are replayed as CUDA graphs (step_graphs.py)."""
    world: ProcessGroup = field(default_factory=ProcessGroup)
    """Who fits the model with this process: a gradient fit takes its steps together with them."""
    stats: FitStats = field(default_factory=FitStats)
    """Copies of a context have the same one: what a family's loop sets, the caller sees."""

    @property
    def cut_short(self) -> bool:
        """Whether the deadline ended the fit early; set by the fit."""
        return self.stats.cut_short

    @cut_short.setter
    def cut_short(self, value: bool) -> None:
        self.stats.cut_short = value
