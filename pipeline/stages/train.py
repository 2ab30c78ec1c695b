"""Fits one model family on one part of the data, and keeps its state."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.console import log
from pipeline.core.errors import Skipped
from pipeline.core.stage_call import Fit, StageCall, StageName
from pipeline.experiments import blend_members, budget
from pipeline.experiments.families import config_of, family_of
from pipeline.experiments.fit import FitRequest, FitResult, devices_of, fit_request
from pipeline.models import NotServable, registry
from pipeline.models.blend import BlendConfig
from pipeline.models.serialization import save
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake
from pipeline.training.device import on_device, resolve_device, set_threads

VERSION = 3
SECONDS_BETWEEN_LINES = 5.0


def fit_model(
    run: Run,
    data: Path,
    label: str,
    fit: Fit = "train",
    train_fit: Path | None = None,
    search_dir: Path | None = None,
    fits: Mapping[str, Path] | None = None,
) -> Path:
    """Fit `label` on `train`, `train+valid` (`data`: the split) or `all` (`data`: the encoded rows).

    Ratings are normalised by statistics of these rows. A fit on `train` is guided by valid, with the best
    hyperparameters of the search `search_dir`, if any; the others take theirs, the learning rate that was found and
    the number of epochs from `train_fit`, that first fit. A long fit that is killed goes on from its checkpoint. A
    blend is made of the models `fits` on train; its refits refit them too.
    Raises Skipped, with the reason, where the family can't be used on this data, or not within the night's budget.
    """
    set_threads(run.settings.threads)
    request = resolve(run, data, label, fit, train_fit, search_dir, fits)
    if train_fit and request.family.blends:
        for member, first in blend_members.first_fits(run, train_fit).items():
            fit_model(run, data, member, fit, first)

    def write(folder: Path) -> lake.StageResult:
        title = request.spec.call.title
        told = EpochLogger(title, request.epochs or getattr(request.config, "epochs", None))
        try:
            deadline = budget.deadline(run, request.spec.call) if fit == "train" else None
            result = fit_request(replace(request, deadline=deadline), told, folder)
        except NotServable as error:
            raise Skipped(str(error)) from error  # nothing is kept: tomorrow's memory or settings may allow it
        report = store(request, result, folder)
        if result.finding:
            log.info(f"  {title}: {result.finding.words(getattr(result.model.config, 'learning_rate', None))}")
        if result.cut_short:
            after = f" after epoch {len(result.history)}" if result.history else " before it was done"
            journal.note(run, f"{title}: the budget ended the fit{after}")
        return report

    folder = lake.build(run, request.spec, write)
    request.checkpoint.unlink(missing_ok=True)
    return folder


def resolve(
    run: Run,
    data: Path,
    label: str,
    fit: Fit = "train",
    train_fit: Path | None = None,
    search_dir: Path | None = None,
    fits: Mapping[str, Path] | None = None,
) -> FitRequest:
    """The fit that these arguments of `fit_model` mean: family, hyperparameters, members, and the key of it all.

    Writes nothing. Raises NotYetKnown where hyperparameters or members depend on what isn't there yet.
    """
    family, config = family_of(run.settings, label)
    config = config_of(config, train_fit, search_dir)
    members: dict[str, Path] = {}
    if family.blends and train_fit:
        firsts = blend_members.first_fits(run, train_fit).items()
        members = {name: lake.folder_of(run, resolve(run, data, name, fit, first).spec) for name, first in firsts}
    elif family.blends:
        assert isinstance(config, BlendConfig)
        members = blend_members.members_of(run, config, fits or {})
    settings, feedback = run.settings, run.settings.dataset.feedback
    finder = settings.models[label].finder if train_fit is None else None
    devices = devices_of(settings, family)
    spec = lake.Spec(
        call=StageCall(StageName.TRAIN, label, fit, tuned=search_dir is not None),
        layer="5_models",
        version=VERSION,
        settings={
            **registry.key_of(family), "config": config.model_dump(), "fit": fit,
            "seed": settings.seed,
            "select": settings.select.model_dump(), "device": on_device(resolve_device(settings.device)),
            "precision": settings.precision, "label": label,
            "normalize": feedback.normalize, "normalize_to": feedback.normalize_to,
            **({"finder": finder.model_dump()} if finder else {}),
            **({"devices": devices} if devices > 1 else {}),
        },
        parents=(data, *([train_fit] if train_fit else []), *members.values()),
        head=f"{label}-{fit.replace('+', '-')}",
    )  # fmt: skip
    epochs = lake.info(train_fit)["best_epoch"] if train_fit else None
    return FitRequest(run, data, label, family, config, spec, epochs, train_fit is not None, members)


def spec(run: Run, data: Path, label: str, *more: Any, **named: Any) -> lake.Spec:
    """Key of `fit_model`, of the same arguments; NotYetKnown as `resolve` raises it."""
    return resolve(run, data, label, *more, **named).spec


def store(request: FitRequest, result: FitResult, folder: Path) -> lake.StageResult:
    """Write the state of the model and of its normalizer; the report says how the fit went, and as what it is kept."""
    model = result.model
    save(model, folder)
    result.normalizer.save(folder)
    info: dict[str, Any] = {
        "label": request.label, "family": leaderboard.family_name(request.run.settings, request.label),
        "fit": request.fit,
    }  # fmt: skip
    if request.members:
        info["members"] = {name: path.name for name, path in request.members.items()}
    info |= {
        "seconds": round(result.seconds, 3),
        "best_epoch": model.best_epoch, "history": result.history,
        "config": model.config.model_dump(), "valid": result.valid,
    }  # fmt: skip
    if result.finding:
        info |= {"finder": result.finding.info(), "config": {**info["config"], **result.finding.rate_used()}}
    return lake.StageResult(rows_in=result.rows, rows_out=result.rows, info=info, kept_as=request.kept_as(result))


class EpochLogger:
    """Keeps the figures of every epoch, and says them while the fit runs: at most a line every few seconds.

    Who watches has them all, and needs no lines.
    """

    def __init__(self, title: str, epochs: int | None):
        self.title, self.epochs, self.rows = title, epochs, 0
        self.history: list[dict[str, float]] = []
        self.said = time.monotonic()

    def begin(self, rows: int) -> None:
        """So many rows are learnt from."""
        self.rows, self.said = rows, time.monotonic()
        progress.listener().rows(rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Take the figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        progress.listener().advance("epoch", epoch, self.epochs, values, epoch * self.rows or None)
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES and not progress.listener().shows_epochs:
            self.said, of = time.monotonic(), f"/{self.epochs}" if self.epochs else ""
            figures = "".join(f"  {name} {value:.4g}" for name, value in values.items())
            log.info(f"  {self.title}  epoch {epoch}{of}{figures}")
