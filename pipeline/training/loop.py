"""The training loop of all gradient families: shuffling, steps, early stopping, best state."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.core.console import log
from pipeline.core.fault_injection import fault
from pipeline.core.seeding import seed_of
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Progress
from pipeline.training.context import FitContext, NotServable, TooLate
from pipeline.training.device import autocast
from pipeline.training.divergence import Diverged, refuse_non_finite
from pipeline.training.optimizers import (
    TrainingConfig,
    in_graphs,
    learning_rate,
    optimizers,
    set_rate,
    slowed,
    sparse_tables,
)
from pipeline.training.step_graphs import StepGraphs, Steps
from pipeline.training.warm import RATE

__all__ = ["Diverged", "Stepper", "Steps", "TrainingConfig", "fit_by_gradient", "generators", "seeded"]

MOST_PARTS = 16
"""A batch that does not fit into the device's memory is halved, down to this part of it."""
CHECKPOINT_SECONDS = 180.0
"""Time between two checkpoints; shorter fits write none, unless a signal ends them."""

Loss = Callable[[Tensor, torch.Generator], Tensor]
"""Mean loss of the rows (B,) of a batch; all random numbers come from the generator."""


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's global generators, of the CPU and of `device`, and restore them afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)  # of all kinds of devices; for those that are not in use it formats a stack trace
        yield


def generators(context: FitContext, *names: object) -> tuple[torch.Generator, torch.Generator]:
    """Generator of the order of rows, equal in all processes, and that of losses, one per process; one if alone."""
    device, world = context.device, context.world
    order = torch.Generator(device).manual_seed(seed_of(context.seed, *names))
    if world.size == 1:
        return order, order
    return order, torch.Generator(device).manual_seed(seed_of(context.seed, *names, "process", world.rank))


def fit_by_gradient(
    model: nn.Module, n_rows: int, loss: Loss, config: TrainingConfig, context: FitContext, steps: Steps | None = None
) -> int:
    """Minimise `loss` over rows 0 … n_rows - 1 of the family's data; returns the best epoch, from 1.

    Runs `context.epochs` epochs if set. Otherwise, with `context.validate`, runs until `config.patience` validations
    bring no improvement, and restores the best state. Otherwise runs `config.epochs`. The schedule always spans
    `config.epochs`, so a refit of k epochs repeats the first k epochs of the first fit.

    With `context.checkpoint` the state is saved there every few minutes and when a signal ends the fit. A fit that was
    killed resumes from it, and ends in the same state as without the interruption. The caller removes the file.

    With `context.finder` the learning rate is the one that it finds, if any.
    All processes of `context.world` call this function together; the first one writes the checkpoints.
    With `context.previous` the fit starts from that state, validates it too, and is shorter (warm.py).
    Raises Diverged if a loss or, after an epoch, a parameter is not finite.
    """
    stepper = _stepper(model, n_rows, loss, config, context, steps)
    config = stepper.config
    validate = context.validate if context.epochs is None else None
    last_epoch = context.epochs or config.epochs
    identity = f"{type(model).__name__} {config.model_dump_json()} {n_rows} {context.seed} {last_epoch}"
    progress, best_state = stepper.resume(identity)
    context.stats.earlier_seconds, started = progress.seconds, time.monotonic()
    if validate and context.previous is not None and not progress.epoch:
        progress.start = _validated(model, validate)
    path = context.checkpoint if context.world.rank == 0 else None
    with checkpoint.CheckpointWriter(path, CHECKPOINT_SECONDS) as writer:
        for epoch in range(progress.epoch + 1, last_epoch + 1):
            if progress.waited >= config.patience:  # the checkpoint was written after the last validation
                break
            values = {"loss": stepper.run_epoch(epoch)}
            refuse_non_finite(model, config)
            late = context.deadline is not None and context.world.broadcast(
                stepper.next_epoch_ends() > context.deadline
            )
            if validate and (epoch % config.validate_every == 0 or epoch == last_epoch or late):
                values["valid"] = _validated(model, validate)
                if progress.is_better(epoch, values["valid"], config.min_improvement):
                    best_state = _copy(model)
            progress.epoch, progress.seconds = epoch, context.stats.earlier_seconds + time.monotonic() - started
            progress.logged.append((epoch, values))
            context.log(epoch, values)
            fault("train:after_epoch")
            if late and epoch < last_epoch:
                context.cut_short = True
                log.warning("the deadline ended the fit after epoch %d of %d", epoch, last_epoch)
            if late or progress.waited >= config.patience:
                break
            writer.after_epoch(epoch, partial(stepper.snapshot, progress, best_state, identity))
    stepper.end()
    if best_state:
        model.load_state_dict(best_state)
    model.eval()
    return progress.best_epoch or progress.epoch


def _stepper(
    model: nn.Module, n_rows: int, loss: Loss, config: TrainingConfig, context: FitContext, steps: Steps | None
) -> "Stepper":
    """The stepper of a fit; its config is that of a warm fit, with the rate of the finder."""
    share = 1.0
    if context.previous is not None:
        context.previous.carry_into(model, getattr(model, "rows_of_state", {}))
        config, share = slowed(context.previous.shortened(config), RATE), RATE
    stepper = Stepper(model, n_rows, loss, config, context, steps)
    if context.finder and (rate := context.finder(stepper)) is not None:
        config = config.model_copy(update={"learning_rate": share * rate})
        stepper = Stepper(model, n_rows, loss, config, context, steps)
    return stepper


class Stepper:
    """Optimizer, schedule and batches: runs one step or one epoch."""

    def __init__(
        self,
        model: nn.Module,
        n_rows: int,
        loss: Loss,
        config: TrainingConfig,
        context: FitContext,
        steps: Steps | None = None,
    ):
        if not n_rows:
            raise NotServable("there are no rows to learn from")
        self.model, self.n_rows, self.loss, self.config, self.context = model, n_rows, loss, config, context
        self.batch_size = min(config.batch_size or n_rows, n_rows)
        self.smallest_batch = -(-self.batch_size // MOST_PARTS)
        self.optimizers = optimizers(model, config)
        self.steps = steps or Steps()
        static = self.steps.static and context.graphs and context.device.type == "cuda"
        alone = context.world.size == 1 and not sparse_tables(model)
        self.graphs = (
            StepGraphs(self._add_step, context.device) if static and alone and in_graphs(self.optimizers) else None
        )
        self.total = torch.zeros((), dtype=torch.float64, device=context.device)  # sum of an epoch's losses
        self.halved = False
        self.longest = 0.0  # seconds of the longest epoch
        self.rate: float | None = None  # last one set

    def run_epoch(self, epoch: int) -> float:
        """One pass over all rows in a new order; returns the mean loss. Depends only on the seed and the epoch."""
        started = time.monotonic()
        own = ("process", self.context.world.rank) if self.context.world.rank else ()
        with seeded(seed_of(self.context.seed, "training", epoch, *own), self.context.device):
            mean = self._run_epoch(epoch)
        self.longest = max(self.longest, time.monotonic() - started)
        return mean

    def next_epoch_ends(self) -> float:
        """End of the next epoch in time.monotonic() seconds, if it takes as long as the longest so far."""
        return time.monotonic() + self.longest

    def _refuse_first_epoch_without_end(self, started: float) -> None:
        """Give up if the deadline passes during the first epoch: part of an epoch is not a fit."""
        deadline = self.context.deadline
        if not self.longest and deadline is not None and started < deadline < time.monotonic():
            raise TooLate(f"the first epoch did not end within the {deadline - started:.0f} s that the fit had")

    def _run_epoch(self, epoch: int) -> float:
        of_order, generator = generators(self.context, "epoch", epoch)
        if self.graphs is None:
            return self._pass(epoch, of_order, generator)
        stream, here = self.graphs.stream, torch.cuda.current_stream(self.context.device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):  # graphs are bound to one generator object
            generator = self.graphs.generator.manual_seed(generator.initial_seed())
            mean = self._pass(epoch, generator, generator)
        here.wait_stream(stream)
        return mean

    def _pass(self, epoch: int, of_order: torch.Generator, generator: torch.Generator) -> float:
        device = self.context.device
        one_batch = self.batch_size >= self.n_rows  # its order does not matter
        if self.steps.order and not one_batch:
            order = self.steps.order(of_order)  # (N,)
        else:
            draw = torch.arange if one_batch else partial(torch.randperm, generator=of_order)
            order = draw(self.n_rows, device=device)  # (N,)
        self.total.zero_()  # stays on the device: the only sync is at the end of the epoch
        self.generator = generator
        self.model.train()
        start, started = 0, time.monotonic()
        while start < self.n_rows:
            rows = order[start : start + self.batch_size]  # (B,)
            try:
                self.set_rate(epoch - 1 + start / self.n_rows)
                self._take(rows)
            except torch.OutOfMemoryError:
                if self.batch_size <= self.smallest_batch or (self.halved and self.context.world.size > 1):
                    raise  # several processes look for a lack of memory only until one was found
                self._halve()
                continue
            start += len(rows)
            self._refuse_first_epoch_without_end(started)
        mean = self.total.item() / self.n_rows
        if not math.isfinite(mean):
            rate = learning_rate(self.config, epoch - 1)
            raise Diverged(f"the loss of epoch {epoch} is {mean} at learning rate {rate:g}; lower the rate")
        return mean

    def _take(self, rows: Tensor) -> None:
        """One step on rows (B,), by a graph if possible; the last batch of an epoch may be smaller and runs without."""
        kind = self.steps.turn() if self.steps.turn else None
        if self.graphs and len(rows) == self.batch_size:
            self.graphs.take(kind, rows)
        else:
            self._add_step(rows)

    def _add_step(self, rows: Tensor) -> None:
        try:
            self.total += self._step(rows, self.generator).double() * len(rows)
        except torch.OutOfMemoryError as error:
            self.context.world.out_of_memory(error)

    def step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One update on rows (B,); returns their mean loss, still on the device."""
        if self.steps.turn:
            self.steps.turn()
        try:
            return self._step(rows, generator)
        except torch.OutOfMemoryError as error:
            self.context.world.out_of_memory(error)

    def _step(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        def run_backward(own: Tensor) -> Tensor:
            with autocast(self.context.device, self.context.precision):
                loss = self.loss(own, generator)
            loss.backward()
            return loss.detach()

        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        check_memory = not (self.longest or self.halved)  # if memory is short, it is so in the first epoch
        loss = self.context.world.backward(self.model, rows, run_backward, check_memory)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def end(self) -> None:
        """Release what only steps need."""
        self.graphs = None
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def set_rate(self, at: float) -> None:
        """Set the learning rate of the moment `at`, in epochs since the start."""
        if (rate := learning_rate(self.config, at)) != self.rate:
            set_rate(self.optimizers, rate)
            self.rate = rate

    def resume(self, identity: str) -> tuple[Progress, dict[str, Tensor]]:
        """Restore the checkpoint of the fit `identity` and log its epochs again; else return the start."""
        path = self.context.checkpoint
        found = checkpoint.read(path, self.model, self.optimizers, identity) if path else None
        if found is None:
            return Progress(), {}
        progress, best_state = found
        self.batch_size, self.halved = progress.batch_size, progress.halved
        for epoch, values in progress.logged:
            self.context.log(epoch, values)
        return progress, best_state

    def snapshot(self, progress: Progress, best_state: dict[str, Tensor], identity: str) -> checkpoint.Snapshot:
        """The current state of the fit, between two epochs."""
        progress.batch_size, progress.halved = self.batch_size, self.halved
        return checkpoint.snapshot(self.model, best_state, self.optimizers, progress, identity)

    def _halve(self) -> None:
        self.halved = True
        self.batch_size = (self.batch_size + 1) // 2
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.graphs:
            self.graphs.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of device memory: continuing with batch_size = %d", self.batch_size)


def _validated(model: nn.Module, validate: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.no_grad():
        return float(validate(model))


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
