"""Finds a learning rate for any gradient family: increases it from batch to batch until the loss rises.

Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3, as fast.ai does it: the rate
rises exponentially from step to step, and the loss is smoothed by a running mean without its bias towards 0.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.config.settings import Finder
from pipeline.core.seeding import seed_of
from pipeline.training.loop import Stepper, generators, seeded
from pipeline.training.optimizers import set_rate

EXPLODED = 4.0
"""A sweep ends when the loss exceeds the lowest one by this multiple of the first one."""
BEFORE_THE_LOWEST = 10.0
"""The suggestion is the rate of the lowest loss, divided by this."""
SKIPPED = 10
"""First steps, whose smoothed loss rests on too few batches to count as the lowest."""
CHECK_EVERY = 10
"""Steps between checks of the losses, each of which waits for the device."""


@dataclass
class Found:
    """Result of a sweep: `rates` and smoothed `losses` until the loss exploded, and the suggested rate, if any."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    suggestion: float | None = None
    note: str = ""
    """Why there is no suggestion, or a caveat."""


class RateFinder:
    """`FitContext.finder`: runs a sweep before the first epoch and keeps its result."""

    def __init__(self, settings: Finder):
        self.settings = settings
        self.found = Found(note="the fit took no gradient step")

    def __call__(self, stepper: Stepper) -> float | None:
        """Run a sweep; returns the rate that the fit starts from, or None for the configured one."""
        self.found = find_rate(stepper, self.settings)
        return self.found.suggestion if self.settings.use else None

    def rate_used(self) -> dict[str, float]:
        """`{"learning_rate": …}` if the fit started from the rate found, else `{}`."""
        suggestion = self.found.suggestion
        return {"learning_rate": suggestion} if self.settings.use and suggestion is not None else {}

    def words(self, configured: float | None) -> str:
        """The result as a sentence for users."""
        found = self.found
        if found.suggestion is None:
            return f"no learning rate to suggest: {found.note}"
        used = "the fit starts from it" if self.settings.use else f"for information, the fit uses {configured:g}"
        return f"learning rate {found.suggestion:.3g} suggested; {used}" + (f" ({found.note})" if found.note else "")

    def info(self) -> dict[str, Any]:
        """The result as the lake stores it."""
        return {"rates": self.found.rates, "losses": self.found.losses, "suggestion": self.found.suggestion,
                "note": self.found.note, "used": bool(self.rate_used())}  # fmt: skip


def find_rate(stepper: Stepper, settings: Finder) -> Found:
    """Sweep from `settings.low` to `settings.high`, then restore model, optimizers and random generators.

    Suggests a tenth of the rate with the lowest smoothed loss. On a quadratic of curvature h, where 1 / h is the best
    rate of gradient descent and 2 / h the last that doesn't diverge, that is about 1 / h without noise, and 0.05 / h to
    0.4 / h with noise. The other convention, the rate of the steepest descent, does not survive noise.
    """
    model, training = stepper.model, stepper.model.training
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in stepper.optimizers]
    seed = seed_of(stepper.context.seed, "finder")
    try:
        model.train()
        with seeded(seed, stepper.context.device):
            raw = _sweep(stepper, settings)
    except torch.OutOfMemoryError:
        return Found(note="a step did not fit into memory")
    finally:
        model.load_state_dict(state)
        model.train(training)
        for optimizer, before in zip(stepper.optimizers, optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            optimizer.load_state_dict(before)
    return read_sweep(raw, settings)


def _sweep(stepper: Stepper, settings: Finder) -> list[float]:
    """Raw losses of the steps; ends a few steps after the loss exploded."""
    device = stepper.context.device
    of_order, generator = generators(stepper.context, "finder")
    losses = torch.full((settings.steps,), torch.nan, device=device)  # (S,)
    order, start = torch.randperm(stepper.n_rows, device=device, generator=of_order), 0  # (N,)
    for step in range(settings.steps):
        if start + stepper.batch_size > stepper.n_rows:  # only whole batches, so that losses are comparable
            order, start = torch.randperm(stepper.n_rows, device=device, generator=of_order), 0
        rows = order[start : start + stepper.batch_size]  # (B,)
        start += stepper.batch_size
        set_rate(stepper.optimizers, rate_of(settings, step))
        losses[step] = stepper.step(rows, generator).float()
        if (step + 1) % CHECK_EVERY == 0 and exploded_at(smoothed(known := losses[: step + 1].tolist())) < len(known):
            return known
    return losses.tolist()


def rate_of(settings: Finder, step: int) -> float:
    """low · (high / low) ^ (step / (steps - 1))."""
    return settings.low * (settings.high / settings.low) ** (step / (settings.steps - 1))


def smoothed(losses: list[float], memory: float = 0.9) -> list[float]:
    """Running mean m ← memory · m + (1 - memory) · loss, divided by 1 - memory^t to remove its bias towards 0."""
    mean, means = 0.0, []
    for t, loss in enumerate(losses, start=1):
        mean = memory * mean + (1 - memory) * loss
        means.append(mean / (1 - memory**t))
    return means


def exploded_at(losses: list[float]) -> int:
    """Index of the first smoothed loss that is not finite or exceeds EXPLODED; else the number of losses."""
    lowest = math.inf
    for at, loss in enumerate(losses):
        if not math.isfinite(loss) or loss > lowest + EXPLODED * abs(losses[0]):
            return at
        lowest = min(lowest, loss)
    return len(losses)


def read_sweep(raw: list[float], settings: Finder) -> Found:
    """The result of a sweep with raw losses (S,)."""
    losses = smoothed(raw)
    end = exploded_at(losses)
    losses, rates = losses[:end], [rate_of(settings, step) for step in range(end)]
    if not losses:
        return Found(note=f"the loss is not finite at learning rate {settings.low:g}; lower finder.low")
    first = min(SKIPPED, end - 1)
    lowest = min(range(first, end), key=losses.__getitem__)
    if rates[lowest] < BEFORE_THE_LOWEST * rates[first]:
        return Found(rates, losses, None, f"the loss never fell clearly below that at {settings.low:g}")
    note = ""
    if lowest == settings.steps - 1:
        note = f"the loss was still falling at {settings.high:g}; raise finder.high"
    return Found(rates, losses, rates[lowest] / BEFORE_THE_LOWEST, note)
