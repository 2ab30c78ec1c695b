"""The users of one of the processes that fit ials together: their rows, what they exchange, and the checkpoint.

The factors of users stay where their rows are. What the items need are sums over users, (I, D) each, and the items' new
factors are those of the first process in every epoch: other processors may round differently. The first process gets
the factors of all users for the metric on valid, for a checkpoint, and at the end.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.core.console import log
from pipeline.core.fault_injection import fault
from pipeline.models.base import FitContext, Recommender
from pipeline.models.ops.least_squares import OtherSide
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Progress
from pipeline.training.context import ProcessGroup
from pipeline.training.interactions import History, Interactions
from pipeline.training.warm import PreviousFit

PIECE = 1 << 16  # users whose first factors are drawn at once
CHECKPOINT_SECONDS = 10.0
"""Time between two checkpoints, for every second that one takes. A signal or a kill loses no more, and an epoch: unlike
a gradient fit, the first process has no snapshot that it could write then, since users' factors are elsewhere."""
Factors = tuple[Tensor, Tensor]
"""Of this process's users (U', D), and of all items (I, D)."""


@dataclass(frozen=True)
class Share:
    """The users of this process, of all `n_users`. Alone it has all, and nothing is exchanged."""

    world: ProcessGroup
    users: range
    n_users: int

    @classmethod
    def of(cls, context: FitContext, n_users: int) -> "Share":
        """That of a fit."""
        return cls(context.world, range(n_users) if context.users is None else context.users, n_users)

    @property
    def is_all(self) -> bool:
        """Whether there is no other process."""
        return self.world.size == 1

    def rows(self, train: Interactions) -> Interactions:
        """The rows, with users counted from the first of this process."""
        if self.is_all:
            return train
        return replace(train, users=train.users - self.users.start, n_users=len(self.users))

    def previous(self, fit: PreviousFit) -> PreviousFit:
        """An earlier fit, for these users."""
        return fit if self.is_all else replace(fit, users=fit.users[self.users.start : self.users.stop])

    def cut(self, by_item: History, weights: Tensor) -> OtherSide | None:
        """What the rows of items, with weights (E,), know of users elsewhere; None: there are none."""
        if self.is_all:
            return None
        lengths = self.world.summed(by_item.lengths.long())  # (I,)
        mass = replace(by_item, weights=weights).mass.unsqueeze(1)  # (I, 1)
        return OtherSide(self.world, self.n_users, lengths, self.world.summed(mass))

    def first_factors(self, dim: int, stddev: float, random: torch.Generator) -> Tensor:
        """Random ones, (U', D): those that the users have in any number of processes."""
        if self.is_all:
            return torch.randn(self.n_users, dim, generator=random).mul_(stddev)
        own = torch.empty(len(self.users), dim)  # (U', D)
        for start in range(0, self.users.stop, PIECE):
            end = min(start + PIECE, self.n_users)
            drawn = torch.randn(end - start, dim, generator=random)
            first, last = max(start, self.users.start), min(end, self.users.stop)
            if first < last:
                own[first - self.users.start : last - self.users.start] = drawn[first - start : last - start]
        return own.mul_(stddev)

    def total(self, value: float) -> float:
        """The sum of a number of each process."""
        if self.is_all:
            return value
        return float(self.world.summed(torch.tensor(value, dtype=torch.float64, device=self._device)))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, (N,) -> ()."""
        if self.is_all:
            return values.mean()
        both = torch.stack([values.sum(dtype=torch.float64), values.new_tensor(len(values), dtype=torch.float64)])
        total, count = self.world.summed(both)
        return (total / count).to(values.dtype)

    def is_late(self, context: FitContext) -> bool:
        """Whether the deadline has passed, by the first process's clock."""
        return context.deadline is not None and self.world.broadcast(time.monotonic() > context.deadline)

    def validating(self, validate: Callable[[Recommender], float]) -> Callable[[Recommender], float]:
        """The metric of the whole model, for which the first process gets the factors of all users."""
        if self.is_all:
            return validate

        def whole(model: Recommender) -> float:
            own = model.users
            model.users = self.world.joined(own)  # type: ignore[arg-type]
            try:
                return validate(model)
            finally:
                model.users = own

        return whole

    @property
    def _device(self) -> torch.device:
        return getattr(self.world, "device", torch.device("cpu"))


@dataclass
class State:
    """Where a fit is between two epochs, but for its factors."""

    kept: Factors | None = None
    """The factors of the best epoch."""
    progress: Progress = field(default_factory=Progress)
    prior_l2: float | None = None
    """Penalty of the prior by attributes, once it is chosen."""

    @property
    def best(self) -> float:
        """The metric of the best epoch."""
        return -math.inf if self.progress.best is None else self.progress.best

    def note(self, epoch: int, values: dict[str, float], now: Factors) -> None:
        """Count an epoch; its factors are kept where it is the best so far, or where no metric says which one is."""
        progress = self.progress
        if self.kept is None or "valid" not in values or values["valid"] > self.best:
            progress.best, progress.best_epoch = values.get("valid", progress.best), epoch
            self.kept = now
        progress.epoch = epoch
        progress.logged.append((epoch, values))


class Checkpoints:
    """Keeps the state of a fit in several processes in a file that the first one writes; alone, none is kept."""

    def __init__(self, share: Share, context: FitContext, identity: str):
        self.share, self.context = share, context
        self.identity = f"{identity} {share.world.size}"
        self.path = None if share.is_all else context.checkpoint
        self.written = self.started = time.monotonic()
        self.cost = 0.0
        """Seconds of the last checkpoint, with the users' way to the first process."""

    def resume(self) -> tuple[State, Factors] | None:
        """The state of the checkpoint, with the users of this process; logs its epochs again. None: there is none."""
        if self.path is None:
            return None
        found = self._read()
        progress = found[0].progress if found else Progress()
        of_first = self.share.world.broadcast(progress.epoch)
        same = found is not None and progress.epoch == of_first
        if self.share.total(float(same)) < self.share.world.size or found is None:  # not all can read the same one
            return None
        self.context.stats.earlier_seconds = progress.seconds
        for number, values in progress.logged:
            self.context.log(number, values)
        return found

    def _read(self) -> tuple[State, Factors] | None:
        """That of the file; it is None where the file is none, damaged, or of another fit."""
        assert self.path is not None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("identity") != self.identity:
                    log.warning("%s belongs to another fit and is ignored", self.path)
                    return None
                first, end = self.share.users.start, self.share.users.stop
                device = self.context.device

                def factors(prefix: str) -> Factors:
                    users = file.get_slice(f"{prefix}/users")[first:end]
                    # Copies: those of the file are not aligned as others, which changes how matrix products round.
                    return users.to(device).clone(), file.get_tensor(f"{prefix}/items").to(device).clone()

                progress = Progress(**json.loads(header["progress"]))
                now = factors("model")
                kept = now if header["kept"] == "now" else factors("best")
                return State(kept, progress, json.loads(header["prior_l2"])), now
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            log.warning("%s can't be read and is ignored: %s", self.path, error)
            return None

    def after_epoch(self, state: State, now: Factors) -> None:
        """Write the state and the factors where that is due."""
        if self.path is None:
            return
        state.progress.seconds = self.context.stats.earlier_seconds + time.monotonic() - self.started
        fault("train:after_epoch")
        world = self.share.world
        begun = time.monotonic()
        if not world.broadcast(begun - self.written >= CHECKPOINT_SECONDS * max(1.0, self.cost)):
            return
        same = state.kept is None or state.kept[0] is now[0]
        tensors = {"model/users": world.joined(now[0]), "model/items": now[1]}
        if state.kept is not None and not same:
            tensors |= {"best/users": world.joined(state.kept[0]), "best/items": state.kept[1]}
        if world.rank == 0:
            kept = "now" if same else "best"
            header = {
                "identity": self.identity, "progress": json.dumps(asdict(state.progress)), "kept": kept,
                "prior_l2": json.dumps(state.prior_l2),
            }  # fmt: skip
            found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            try:
                checkpoint.write(self.path, (found, header))
            except OSError as error:
                log.warning("no checkpoint was written after epoch %d: %s", state.progress.epoch, error)
        self.written = time.monotonic()
        self.cost = self.written - begun
