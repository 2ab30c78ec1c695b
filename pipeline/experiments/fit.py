"""One fit of one model: reads its rows, builds the model and trains it, in this process or in several at once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from pipeline.config.run import Run
from pipeline.config.settings import Settings
from pipeline.core import spread
from pipeline.core.seeding import seed_of
from pipeline.core.stage_call import Fit
from pipeline.evaluation.objective import validation_objective
from pipeline.experiments import blend_members, warm_start
from pipeline.experiments.fit_rows import FitRows
from pipeline.experiments.warm_start import WarmStart
from pipeline.models import FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.blend import BlendConfig
from pipeline.models.ops.attribute_map import place_new_items
from pipeline.models.serialization import load, save
from pipeline.ranking.ranks import ScoreError
from pipeline.ranking.servable import read_attributes
from pipeline.storage import lake
from pipeline.training import launcher
from pipeline.training.attributes import NewItems
from pipeline.training.context import ProcessGroup
from pipeline.training.device import memory_budget, resolve_device, set_threads
from pipeline.training.distributed import ProcessFailed
from pipeline.training.loop import seeded
from pipeline.training.lr_finder import RateFinder
from pipeline.training.normalizer import Normalizer
from pipeline.training.optimizers import TrainingConfig

T = TypeVar("T")


@dataclass(frozen=True)
class FitRequest:
    """What is fitted on which data, and the lake key of the result. Picklable: it is sent to other processes."""

    run: Run
    data: Path
    """Folder of the split; for a fit on `all`, that of the encoded rows."""
    label: str
    family: type[Recommender]
    config: ModelConfig
    spec: lake.Spec
    epochs: int | None = None
    """Number of epochs of a refit, if the family has epochs."""
    refit: bool = False
    """Whether valid is not used to guide the fit."""
    members: Mapping[str, Path] = field(default_factory=dict)
    """Fits by label that a blend is made of."""
    warm: WarmStart | None = None
    """The earlier fit that it starts from."""
    deadline: float | None = None
    """When the fit must end, on time.monotonic()."""

    @property
    def fit(self) -> Fit:
        """The part of the data that it is fitted on."""
        return self.spec.call.fit

    @property
    def checkpoint(self) -> Path:
        """File from which a long fit that was killed resumes."""
        return self.run.home.lake(self.run.dataset) / self.spec.layer / f".checkpoint-{self.spec.key}.safetensors"

    def kept_as(self, result: "FitResult") -> lake.Spec:
        """The lake key of a result. That of a fit cut short by the deadline is not shared with other nights."""
        if not result.cut_short:
            return self.spec
        settings = {**self.spec.settings, "cut short in": self.run.run_id}
        return replace(self.spec, call=replace(self.spec.call, cut_short=True), settings=settings)


@dataclass(frozen=True)
class FitResult:
    """A fitted model, and how the fit went."""

    model: Recommender
    normalizer: Normalizer
    rows: int
    valid: float | None
    """The selecting metric on valid; computed only for nights with a budget."""
    cut_short: bool
    """Whether the deadline ended the fit."""
    finding: RateFinder | None
    history: list[dict[str, float]]
    """Metrics of every epoch."""
    seconds: float
    """Including those before a kill."""
    validating: float = 0.0
    """Seconds of `seconds` that a refit does not need: the metric on valid."""
    new_items: int | None = None
    """Items without a row in the fit that were placed by their attributes; None: attributes are not read."""


class EpochCallback(Protocol):
    """Receives the progress of a fit."""

    history: list[dict[str, float]]

    def begin(self, rows: int) -> None:
        """The fit starts, on this number of rows."""

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """An epoch (1-based) has ended, with these metrics."""


def devices_of(settings: Settings, family: type[Recommender]) -> int:
    """Number of devices for one fit: 1 for families that are not trained by gradient steps."""
    return settings.devices if issubclass(family.Config, TrainingConfig) else 1


def hosts_of(settings: Settings, family: type[Recommender]) -> int:
    """Number of machines for one fit: 1 for families that are neither trained by gradient steps nor cut by users."""
    return settings.scale.hosts if issubclass(family.Config, TrainingConfig) or family.cuts_users else 1


def fit_request(request: FitRequest, on_epoch: EpochCallback, folder: Path) -> FitResult:
    """Fit the model on the configured number of devices or hosts; with several, it passes through `folder`.

    Raises NotServable where the family can't be used on this data, or diverged.
    """
    settings, started = request.run.settings, time.perf_counter()
    devices, device = devices_of(settings, request.family), resolve_device(settings.device)
    hosts = hosts_of(settings, request.family)
    if devices == hosts == 1:
        result = fit_here(request, device, on_epoch, ProcessGroup())
        return replace(result, seconds=result.seconds + time.perf_counter() - started)

    def forward(method: str, *values: Any) -> None:
        getattr(on_epoch, method)(*values)

    rest = None
    if hosts > 1:
        rest = _on_hosts(request, hosts, device, forward, folder)
    if rest is None:
        rest = launcher.launch(fit_together, max(devices, hosts), device, forward, request, folder)
    result = FitResult(model=load(folder), **rest)
    return replace(result, seconds=result.seconds + time.perf_counter() - started)


def _on_hosts(
    request: FitRequest, hosts: int, device: torch.device, forward: Callable[..., None], folder: Path
) -> dict[str, Any] | None:
    """The result of `fit_together` on several machines; None: as many processes of this one are to do it instead.

    On the CPU they sum in the same order, so they learn the same bits, and go on from the checkpoint of the machines.
    """
    wall = None if request.deadline is None else time.time() + request.deadline - time.monotonic()
    sent = replace(request, deadline=None)
    try:
        return spread.engine().together(fit_on_host, hosts, forward, (sent, wall, folder))
    except spread.Unavailable as why:
        if device.type != "cpu":  # sums of accelerators depend on how they are connected
            raise ProcessFailed(f"scale.hosts = {hosts}: {why}") from why
        return None


def fit_on_host(world: Any, request: FitRequest, wall: float | None, folder: Path) -> dict[str, Any]:
    """`fit_together` on one of several machines; `wall`: the deadline on time.time(), which machines share."""
    deadline = None if wall is None else time.monotonic() + wall - time.time()
    return fit_together(world, replace(request, deadline=deadline), folder)


def fit_together(world: Any, request: FitRequest, folder: Path) -> dict[str, Any]:
    """Fit in one of several processes. The first process saves its model, which those of the others are equal to; of a
    family that is cut by users, the others have only the state of their users.

    Returns the fields of FitResult without the model, whose tensors can't be sent.
    """
    set_threads(request.run.settings.threads, world.per_machine)
    result = fit_here(request, world.device, RemoteEpochLogger(world), world)
    if world.rank == 0:
        save(result.model, folder)
    return {name: value for name, value in vars(result).items() if name != "model"}


class RemoteEpochLogger:
    """Keeps the metrics of every epoch and sends them to the parent process."""

    def __init__(self, world: Any):
        self.world = world
        self.history: list[dict[str, float]] = []

    def begin(self, rows: int) -> None:
        """Send the number of rows."""
        self.world.send("begin", rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Keep and send the metrics of an epoch."""
        self.history.append({"epoch": epoch, **values})
        self.world.send("__call__", epoch, values)


def fit_here(request: FitRequest, device: torch.device, on_epoch: EpochCallback, world: ProcessGroup) -> FitResult:
    """Fit the model in this process, together with the other processes of `world`."""
    settings, feedback = request.run.settings, request.run.settings.dataset.feedback
    rows = FitRows.read(request, device, world)
    train, splits = rows.train, rows.splits
    on_epoch.begin(rows.total)
    finder = None if request.refit else settings.models[request.label].finder
    finding = RateFinder(finder) if finder else None
    normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
    objective = (
        validation_objective(splits, settings, request.family, normalizer) if splits and not request.refit else None
    )
    clock = Stopwatch()
    context = FitContext(
        device=device,
        precision=settings.precision,
        seed=seed_of(settings.seed, "fit", request.label),
        log=on_epoch,
        validate=clock.timing(guided_by_first(objective, world)) if objective else None,
        per_user=clock.timing(objective.per_user) if objective and objective.per_user else None,
        epochs=request.epochs,
        checkpoint=request.checkpoint,
        deadline=request.deadline,
        finder=finding,
        previous=warm_start.previous(request.run, request.warm, request.data) if request.warm else None,
        memory=memory_budget(settings.memory_limit, device) // (world.per_machine if device.type == "cpu" else 1),
        world=world,
        attributes=read_attributes(request.data, train.n_items, device),
        users=rows.users,
    )
    try:
        if isinstance(request.config, BlendConfig):
            model = blend_members.assemble(request.config, request.members, device)
        else:
            model = build(request.family, request.config, train.n_users, train.n_items, context.seed)
        model.fit(rows.own(normalizer.on(train)), context)
        new_items = None
        if context.attributes is not None and model.learnt_of_items():
            place_new_items(model, normalizer.on(train), context)
            model.reads_attributes = True
        if context.attributes is not None and model.reads_attributes:
            new_items = int(NewItems.of(train, context.attributes).placed.sum())
        valid = validation_metric(model, on_epoch.history, context) if settings.budget.minutes else None
    except ScoreError as error:
        raise NotServable(f"the fit diverged: {error}; lower learning_rate or raise l2") from error
    return FitResult(
        model=model,
        normalizer=normalizer,
        rows=rows.total,
        valid=valid,
        cut_short=context.cut_short,
        finding=finding,
        new_items=new_items,
        history=on_epoch.history,
        seconds=context.stats.earlier_seconds,
        validating=clock.seconds,
    )


@dataclass
class Stopwatch:
    """Adds up the seconds of calls."""

    seconds: float = 0.0

    def timing(self, function: Callable[[Any], T]) -> Callable[[Any], T]:
        """The function; its calls are timed."""

        def timed(argument: Any) -> T:
            started = time.perf_counter()
            try:
                return function(argument)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def guided_by_first(objective: Callable[[Any], float], world: ProcessGroup) -> Callable[[Any], float]:
    """An objective that is computed by the first process and has the same value in all of them."""
    if world.size == 1:
        return objective
    return lambda model: world.broadcast(objective(model) if world.rank == 0 else 0.0)


def build(family: type[Recommender], config: ModelConfig, n_users: int, n_items: int, seed: int) -> Recommender:
    """A new model. Its initial values depend only on `seed`; the state of torch's global generator is restored."""
    with seeded(seed):
        return family(config, n_users, n_items)


def validation_metric(model: Recommender, history: list[dict[str, float]], context: FitContext) -> float | None:
    """The selecting metric, higher is better: that of the best epoch, otherwise computed for the fitted model."""
    if known := [epoch["valid"] for epoch in history if "valid" in epoch]:
        return max(known)
    with torch.no_grad():
        return context.validate(model) if context.validate else None
