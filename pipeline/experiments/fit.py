"""One fit of one model: its rows are read, it is built, and it learns; in this process, or in several at once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch

from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.core.seeding import seed_of
from pipeline.core.stage_call import Fit
from pipeline.evaluation.eval_task import Splits, load_splits
from pipeline.evaluation.objective import validation_objective
from pipeline.experiments import blend_members as members
from pipeline.models import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.blend import BlendConfig
from pipeline.models.serialization import load, save
from pipeline.ranking.ranks import ScoreError
from pipeline.storage import lake
from pipeline.training import launcher
from pipeline.training.context import ProcessGroup
from pipeline.training.device import memory_budget, resolve_device, set_threads
from pipeline.training.interactions import Interactions
from pipeline.training.loop import seeded
from pipeline.training.lr_finder import RateFinder
from pipeline.training.normalizer import Normalizer
from pipeline.training.optimizers import TrainingConfig


@dataclass(frozen=True)
class FitRequest:
    """What is fitted on what, and the key of it; paths and small configs, so that another process can be told."""

    run: Run
    data: Path
    """The split; the encoded rows where the fit is on `all`."""
    label: str
    family: type[Recommender]
    config: ModelConfig
    spec: lake.Spec
    epochs: int | None = None
    """Of a refit, where its family has epochs."""
    refit: bool = False
    """Not guided by valid."""
    members: Mapping[str, Path] = field(default_factory=dict)
    """Of a blend."""
    deadline: float | None = None
    """On time.monotonic()."""

    @property
    def fit(self) -> Fit:
        """The part of the data."""
        return self.spec.call.fit

    @property
    def checkpoint(self) -> Path:
        """Where a long fit that is killed goes on."""
        return self.run.home.lake(self.run.dataset) / self.spec.layer / f".checkpoint-{self.spec.key}.safetensors"

    def kept_as(self, result: "FitResult") -> lake.Spec:
        """The key of a result. One that was cut short is this night's alone: another one may have the time."""
        if not result.cut_short:
            return self.spec
        settings = {**self.spec.settings, "cut short in": self.run.run_id}
        return replace(self.spec, call=replace(self.spec.call, cut_short=True), settings=settings)


@dataclass(frozen=True)
class FitResult:
    """A fitted model, and how its fit went."""

    model: Recommender
    normalizer: Normalizer
    rows: int
    valid: float | None
    """The figure that selects, where the night's budget wants to know it."""
    cut_short: bool
    """The deadline ended the fit."""
    finding: RateFinder | None
    history: list[dict[str, float]]
    """The figures of every epoch."""
    seconds: float
    """Those before a kill too."""


class EpochCallback(Protocol):
    """Whoever is told how a fit goes."""

    history: list[dict[str, float]]

    def begin(self, rows: int) -> None:
        """So many rows are learnt from."""

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """The figures of an epoch, 1-based."""


def devices_of(settings: Settings, family: type[Recommender]) -> int:
    """On which its models are fitted at once: those that don't learn by gradient have one."""
    return settings.devices if issubclass(family.Config, TrainingConfig) else 1


def fit_request(request: FitRequest, told: EpochCallback, folder: Path) -> FitResult:
    """The model, fitted on as many devices as the settings say; several leave it in `folder` in between.

    Raises NotServable where it can't be used on this data, or diverged.
    """
    settings, started = request.run.settings, time.perf_counter()
    devices, device = devices_of(settings, request.family), resolve_device(settings.device)
    if devices == 1:
        result = fit_here(request, device, told, ProcessGroup())
        return replace(result, seconds=result.seconds + time.perf_counter() - started)

    def hear(what: str, *values: Any) -> None:
        getattr(told, what)(*values)

    rest = launcher.launch(fit_together, devices, device, hear, request, folder)
    result = FitResult(model=load(folder), **rest)
    return replace(result, seconds=result.seconds + time.perf_counter() - started)


def fit_together(world: Any, request: FitRequest, folder: Path) -> dict[str, Any]:
    """What each of several processes does; the first one saves the model, they are all the same.

    Returns the fields of the FitResult but for the model, whose tensors can't be sent.
    """
    set_threads(request.run.settings.threads, world.size)
    result = fit_here(request, world.device, RemoteEpochLogger(world), world)
    if world.rank == 0:
        save(result.model, folder)
    return {name: value for name, value in vars(result).items() if name != "model"}


class RemoteEpochLogger:
    """Keeps the figures of every epoch, and tells them to the process that waits for this one."""

    def __init__(self, world: Any):
        self.world = world
        self.history: list[dict[str, float]] = []

    def begin(self, rows: int) -> None:
        """So many rows are learnt from."""
        self.world.send("begin", rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """The figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        self.world.send("__call__", epoch, values)


def fit_here(request: FitRequest, device: torch.device, told: EpochCallback, world: ProcessGroup) -> FitResult:
    """The model, fitted in this process, with the others of `world`."""
    settings, feedback = request.run.settings, request.run.settings.dataset.feedback
    train, splits = read(request, device)
    told.begin(len(train))
    finder = None if request.refit else settings.models[request.label].finder
    finding = RateFinder(finder) if finder else None
    normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
    guide = validation_objective(splits, settings, request.family, normalizer) if splits and not request.refit else None
    context = FitContext(
        device=device,
        precision=settings.precision,
        seed=seed_of(settings.seed, "fit", request.label),
        log=told,
        validate=guided_by_first(guide, world) if guide else None,
        per_user=guide.per_user if guide else None,
        epochs=request.epochs,
        checkpoint=request.checkpoint,
        deadline=request.deadline,
        finder=finding,
        memory=memory_budget(settings.memory_limit, device) // (world.size if device.type == "cpu" else 1),
        world=world,
    )
    try:
        if isinstance(request.config, BlendConfig):
            model = members.assemble(request.config, request.members, device)
        else:
            model = build(request.family, request.config, train.n_users, train.n_items, context.seed)
        model.fit(normalizer.on(train), context)
        valid = validation_metric(model, told.history, context) if settings.budget.minutes else None
    except ScoreError as error:
        raise NotServable(f"the fit diverged: {error}; lower learning_rate or raise l2") from error
    return FitResult(
        model=model,
        normalizer=normalizer,
        rows=len(train),
        valid=valid,
        cut_short=context.cut_short,
        finding=finding,
        history=told.history,
        seconds=context.stats.earlier_seconds,
    )


def read(request: FitRequest, device: torch.device) -> tuple[Interactions, Splits | None]:
    """The rows that are learnt from, and the split they are of, unless they are all."""
    if request.fit != "all":
        splits = load_splits(request.data, device)
        return splits.fitted_on(request.fit), splits
    shape, frame = lake.info(request.data), pl.read_parquet(request.data / "interactions.parquet")
    return Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device), None


def guided_by_first(guide: Callable[[Any], float], world: ProcessGroup) -> Callable[[Any], float]:
    """The figure that the first process finds, in all of them."""
    if world.size == 1:
        return guide
    return lambda model: world.broadcast(guide(model) if world.rank == 0 else 0.0)


def build(family: type[Recommender], config: ModelConfig, n_users: int, n_items: int, seed: int) -> Recommender:
    """A new model; its initial values depend on `seed` alone, and torch's global generator is left as it was."""
    with seeded(seed):
        return family(config, n_users, n_items)


def validation_metric(model: Recommender, history: list[dict[str, float]], context: FitContext) -> float | None:
    """The figure that selects, higher is better: the best epoch's, else asked of the fitted model."""
    if known := [epoch["valid"] for epoch in history if "valid" in epoch]:
        return max(known)
    with torch.no_grad():
        return context.validate(model) if context.validate else None
