"""One fit of one model: its rows are read, it is built, and it learns; in this process, or in several at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch

from pipeline import lake, processes
from pipeline.context import World
from pipeline.device import memory_budget, set_threads
from pipeline.finder import RateFinder
from pipeline.guide import validator
from pipeline.interactions import Interactions
from pipeline.models import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.blend import BlendConfig
from pipeline.models.saving import load, save
from pipeline.normalize import Normalizer
from pipeline.optimizers import TrainingConfig
from pipeline.question import Parts, load_parts
from pipeline.ranking import ScoreError
from pipeline.rng import seed_of
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.stages import members
from pipeline.training import seeded


@dataclass(frozen=True)
class Job:
    """What is fitted on what; paths and small configs, so that another process can be told."""

    run: Run
    data: Path
    """The split; the encoded rows where `fit` is `all`."""
    label: str
    fit: str
    family: type[Recommender]
    config: ModelConfig
    epochs: int | None
    """Of a refit, where its family has epochs."""
    refit: bool
    """Not guided by valid."""
    members: Mapping[str, Path]
    """Of a blend."""
    checkpoint: Path
    deadline: float | None


@dataclass
class Fitted:
    """What is known of a fit, beside the model."""

    normalizer: Normalizer
    rows: int
    valid: float | None
    """The figure that selects, where the night's budget wants to know it."""
    cut_short: bool
    earlier_seconds: float
    finding: RateFinder | None


class Told(Protocol):
    """Whoever is told how a fit goes."""

    history: list[dict[str, float]]

    def begin(self, rows: int) -> None:
        """So many rows are learnt from."""

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """The figures of an epoch, 1-based."""


def devices_of(settings: Settings, family: type[Recommender]) -> int:
    """On which its models are fitted at once: those that don't learn by gradient have one."""
    return settings.devices if issubclass(family.Config, TrainingConfig) else 1


def fit(job: Job, device: torch.device, told: Told, folder: Path) -> tuple[Recommender, Fitted]:
    """The model, fitted on as many devices as the settings say; several leave it in `folder` in between.

    Raises NotServable where it can't be used on this data, or diverged.
    """
    devices = devices_of(job.run.settings, job.family)
    if devices == 1:
        return fit_here(job, device, told, World())

    def hear(what: str, *values: Any) -> None:
        getattr(told, what)(*values)

    fitted = processes.launch(fit_together, devices, device, hear, job, folder)
    return load(folder), fitted


def fit_together(world: Any, job: Job, folder: Path) -> Fitted:
    """What each of several processes does; the first one saves the model, they are all the same."""
    settings = job.run.settings
    set_threads(settings.threads, world.size)
    model, fitted = fit_here(job, world.device, Sent(world), world)
    if world.rank == 0:
        save(model, folder)
    return fitted


class Sent:
    """Keeps the figures of every epoch, and tells them to the process that waits for this one."""

    def __init__(self, world: Any):
        self.world = world
        self.history: list[dict[str, float]] = []

    def begin(self, rows: int) -> None:
        """So many rows are learnt from."""
        self.world.tell("begin", rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """The figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        self.world.tell("__call__", epoch, values)


def fit_here(job: Job, device: torch.device, told: Told, world: World) -> tuple[Recommender, Fitted]:
    """The model, fitted in this process, with the others of `world`."""
    settings, feedback = job.run.settings, job.run.settings.dataset.feedback
    train, parts = read(job, device)
    told.begin(len(train))
    finder = None if job.refit else settings.models[job.label].finder
    finding = RateFinder(finder) if finder else None
    normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
    guide = validator(parts, settings, job.family, normalizer) if parts and not job.refit else None
    context = FitContext(
        device=device,
        precision=settings.precision,
        seed=seed_of(settings.seed, "fit", job.label),
        log=told,
        validate=guided_by_first(guide, world) if guide else None,
        per_user=guide.per_user if guide else None,
        epochs=job.epochs,
        checkpoint=job.checkpoint,
        deadline=job.deadline,
        finder=finding,
        memory=memory_budget(settings.memory_limit, device) // (world.size if device.type == "cpu" else 1),
        world=world,
    )
    try:
        if isinstance(job.config, BlendConfig):
            model = members.assemble(job.config, job.members, device)
        else:
            model = build(job.family, job.config, train.n_users, train.n_items, context.seed)
        model.fit(normalizer.on(train), context)
        valid = figure_on_valid(model, told.history, context) if settings.budget.minutes else None
    except ScoreError as error:
        raise NotServable(f"the fit diverged: {error}; lower learning_rate or raise l2") from error
    return model, Fitted(normalizer, len(train), valid, context.cut_short, context.course.earlier_seconds, finding)


def read(job: Job, device: torch.device) -> tuple[Interactions, Parts | None]:
    """The rows that are learnt from, and the split they are of, unless they are all."""
    if job.fit != "all":
        parts = load_parts(job.data, device)
        return parts.fitted_on(job.fit), parts
    shape, frame = lake.info(job.data), pl.read_parquet(job.data / "interactions.parquet")
    return Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device), None


def guided_by_first(guide: Callable[[Any], float], world: World) -> Callable[[Any], float]:
    """The figure that the first process finds, in all of them."""
    if world.size == 1:
        return guide
    return lambda model: world.agreed(guide(model) if world.rank == 0 else 0.0)


def build(family: type[Recommender], config: ModelConfig, n_users: int, n_items: int, seed: int) -> Recommender:
    """A new model; its initial values depend on `seed` alone, and torch's global generator is left as it was."""
    with seeded(seed):
        return family(config, n_users, n_items)


def figure_on_valid(model: Recommender, history: list[dict[str, float]], context: FitContext) -> float | None:
    """The figure that selects, higher is better: the best epoch's, else asked of the fitted model."""
    if known := [epoch["valid"] for epoch in history if "valid" in epoch]:
        return max(known)
    with torch.no_grad():
        return context.validate(model) if context.validate else None
