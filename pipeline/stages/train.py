"""Fits one model on one part of the data and keeps its state."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.config.settings import Finder
from pipeline.core import progress
from pipeline.core.console import log
from pipeline.core.errors import OutOfTime, Skipped
from pipeline.core.stage_call import Fit, StageCall, StageName
from pipeline.experiments import blend_members, budget, warm_start
from pipeline.experiments.families import config_of, family_of, rows_of, sized
from pipeline.experiments.fit import FitRequest, FitResult, devices_of, fit_request, hosts_of
from pipeline.models import ModelConfig, NotServable, Recommender, registry
from pipeline.models.blend import BlendConfig
from pipeline.models.serialization import save
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake
from pipeline.training.context import TooLate
from pipeline.training.device import on_device, resolve_device, set_threads

VERSION = 3
SECONDS_BETWEEN_LINES = 5.0


def fit_model(
    run: Run,
    split_dir: Path,
    label: str,
    search_dir: Path | None = None,
    fits: Mapping[str, Path] | None = None,
) -> Path:
    """Fit `label` on train, guided by valid; with `warm_start` from its state of the published night.

    Hyperparameters come from the search in `search_dir`, if there is one, else from the settings. A blend is made of
    `fits`, the night's models fitted on train. Ratings are normalised by statistics of the rows that are fitted. A long
    fit that was killed resumes from its checkpoint. Raises Skipped, with the reason, where the family can't be used on
    this data or not within the budget.
    """
    set_threads(run.settings.threads)
    return _carry_out(request_fit(run, split_dir, label, search_dir, fits))


def refit_model(run: Run, data: Path, label: str, fit: Fit, train_fit: Path) -> Path:
    """Fit `label` again, on `train+valid` (`data`: the split) or `all` (`data`: the encoded rows).

    Hyperparameters, the learning rate of the finder and the number of epochs are those of `train_fit`, the fit on
    train. The members of a blend are refitted as well. Otherwise as `fit_model`.
    """
    set_threads(run.settings.threads)
    request = request_refit(run, data, label, fit, train_fit)
    if request.family.blends:
        for member, first in blend_members.first_fits(run, train_fit).items():
            refit_model(run, data, member, fit, first)
    return _carry_out(request)


def _carry_out(request: FitRequest) -> Path:
    """The folder of the fitted model, which is in the lake already or is fitted now."""
    run, call = request.run, request.spec.call

    def write(folder: Path) -> lake.StageResult:
        logger = EpochLogger(call.title, request.epochs or getattr(request.config, "epochs", None))
        try:
            deadline = budget.deadline(run, call) if call.fit == "train" else None
            result = fit_request(replace(request, deadline=deadline), logger, folder)
        except TooLate as error:
            raise OutOfTime(str(error)) from error
        except NotServable as error:
            raise Skipped(str(error)) from error  # nothing is kept: memory or settings may allow it another night
        report = store(request, result, folder)
        _report(request, result)
        return report

    folder = lake.build(run, request.spec, write)
    request.checkpoint.unlink(missing_ok=True)
    return folder


def request_fit(
    run: Run,
    split_dir: Path,
    label: str,
    search_dir: Path | None = None,
    fits: Mapping[str, Path] | None = None,
) -> FitRequest:
    """What `fit_model` does with these arguments: family, hyperparameters, members and lake key.

    Writes nothing. Raises NotYetKnown where hyperparameters or members depend on results that do not exist yet.
    """
    family, config = sized(run.settings, label, split_dir)
    config = config_of(config, search_dir=search_dir)
    members: dict[str, Path] = {}
    if family.blends:
        assert isinstance(config, BlendConfig)
        members = blend_members.members_of(run, config, fits or {})
    finder = run.settings.models[label].finder
    call = StageCall(StageName.TRAIN, label, tuned=search_dir is not None)
    cold = _spec(run, call, family, config, finder, (split_dir, *members.values()))
    spec, start = warm_start.resolve(run, cold, family)
    return FitRequest(
        run=run, data=split_dir, label=label, family=family, config=config, spec=spec, members=members, warm=start,
    )  # fmt: skip


def request_refit(run: Run, data: Path, label: str, fit: Fit, train_fit: Path) -> FitRequest:
    """What `refit_model` does with these arguments. Writes nothing; raises NotYetKnown without a `train_fit`."""
    family, config = family_of(run.settings, label)
    config = config_of(config, train_fit)
    members: dict[str, Path] = {}
    if family.blends:
        firsts = blend_members.first_fits(run, train_fit).items()
        members = {name: lake.folder_of(run, refit_spec(run, data, name, fit, first)) for name, first in firsts}
    call = StageCall(StageName.TRAIN, label, fit)
    cold = _spec(run, call, family, config, None, (data, train_fit, *members.values()))
    spec, start, epochs = warm_start.resolve_refit(run, cold, family, train_fit)
    return FitRequest(
        run=run, data=data, label=label, family=family, config=config, spec=spec, epochs=epochs, refit=True,
        members=members, warm=start,
    )  # fmt: skip


def fit_spec(
    run: Run,
    split_dir: Path,
    label: str,
    search_dir: Path | None = None,
    fits: Mapping[str, Path] | None = None,
) -> lake.Spec:
    """Key of `fit_model` with these arguments; raises NotYetKnown as `request_fit` does."""
    return request_fit(run, split_dir, label, search_dir, fits).spec


def refit_spec(run: Run, data: Path, label: str, fit: Fit, train_fit: Path) -> lake.Spec:
    """Key of `refit_model` with these arguments; raises NotYetKnown as `request_refit` does."""
    return request_refit(run, data, label, fit, train_fit).spec


def _spec(
    run: Run,
    call: StageCall,
    family: type[Recommender],
    config: ModelConfig,
    finder: Finder | None,
    parents: tuple[Path, ...],
) -> lake.Spec:
    """Key of a fit."""
    settings, feedback = run.settings, run.settings.dataset.feedback
    devices, hosts = devices_of(settings, family), hosts_of(settings, family)
    return lake.Spec(
        call=call,
        layer="5_models",
        version=VERSION,
        settings={
            **registry.key_of(family, rows_of(parents[0], call.fit), config),
            "config": config.model_dump(), "fit": call.fit,
            "seed": settings.seed,
            "select": settings.select.model_dump(), "device": on_device(resolve_device(settings.device)),
            "precision": settings.precision, "label": call.label,
            "normalize": feedback.normalize, "normalize_to": feedback.normalize_to,
            **({"finder": finder.model_dump()} if finder else {}),
            **({"devices": devices} if devices > 1 else {}),
            **({"hosts": hosts} if hosts > 1 else {}),
        },
        parents=parents,
        head=f"{call.label}-{call.fit.replace('+', '-')}",
    )  # fmt: skip


def store(request: FitRequest, result: FitResult, folder: Path) -> lake.StageResult:
    """Write the state of model and normalizer; returns the info and the lake key of the result."""
    model = result.model
    save(model, folder)
    result.normalizer.save(folder)
    info: dict[str, Any] = {
        "label": request.label, "family": leaderboard.family_name(request.run.settings, request.label),
        "fit": request.fit,
    }  # fmt: skip
    if request.warm:
        info[warm_start.SETTING] = request.warm.info()
    if request.members:
        info["members"] = {name: path.name for name, path in request.members.items()}
    info |= {
        "seconds": round(result.seconds, 3),
        "best_epoch": model.best_epoch, "history": result.history,
        "config": model.config.model_dump(), "valid": result.valid,
    }  # fmt: skip
    if request.run.settings.budget.minutes:
        info["validating"] = round(result.validating, 3)
    if result.new_items is not None:
        info["new_items"] = result.new_items
    if result.finding:
        info |= {"finder": result.finding.info(), "config": {**info["config"], **result.finding.rate_used()}}
    return lake.StageResult(rows_in=result.rows, rows_out=result.rows, info=info, kept_as=request.kept_as(result))


def _report(request: FitRequest, result: FitResult) -> None:
    """Report the learning rate that was found, and note a fit that the deadline ended."""
    title = request.spec.call.title
    if result.finding:
        log.info(f"  {title}: {result.finding.words(getattr(result.model.config, 'learning_rate', None))}")
    if request.warm:
        journal.note(
            request.run, f"{title}: {request.warm.saved(result.seconds, sum(e['epoch'] > 0 for e in result.history))}"
        )
    if result.cut_short:
        after = f" after epoch {len(result.history)}" if result.history else " before it was complete"
        journal.note(request.run, f"{title}: the budget ended the fit{after}")


class EpochLogger:
    """Keeps the metrics of every epoch and logs them, at most one line every few seconds.

    No lines are logged where a live display shows the progress.
    """

    def __init__(self, title: str, epochs: int | None):
        self.title, self.epochs, self.rows = title, epochs, 0
        self.history: list[dict[str, float]] = []
        self.last_line = time.monotonic()

    def begin(self, rows: int) -> None:
        """Start the fit; `rows`: number of rows per epoch."""
        self.rows, self.last_line = rows, time.monotonic()
        progress.listener().rows(rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Keep the metrics of an epoch (1-based)."""
        self.history.append({"epoch": epoch, **values})
        progress.listener().advance("epoch", epoch, self.epochs, values, epoch * self.rows or None)
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES and not progress.listener().shows_epochs:
            self.last_line, total = time.monotonic(), f"/{self.epochs}" if self.epochs else ""
            metrics = "".join(f"  {name} {value:.4g}" for name, value in values.items())
            log.info(f"  {self.title}  epoch {epoch}{total}{metrics}")
