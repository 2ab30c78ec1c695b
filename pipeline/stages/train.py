"""Fits one model family on one part of the data, and keeps its state."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import budget, journal, lake, layers, progress, standing, tables
from pipeline.device import on_device, resolve_device, set_threads
from pipeline.models import MODELS, ModelConfig, NotServable, Recommender
from pipeline.models.blend import BlendConfig
from pipeline.models.saving import save
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.stage_call import Fit, StageCall, StageName
from pipeline.stages import fitting, members
from pipeline.stages.fitting import Job, devices_of

VERSION = 3
SECONDS_BETWEEN_LINES = 5.0


class Skipped(Exception):
    """A family can't be used on this data; the message says why."""


def fit_model(
    run: Run,
    data: Path,
    label: str,
    fit: Fit = "train",
    chosen: Path | None = None,
    searched: Path | None = None,
    fitted: Mapping[str, Path] | None = None,
) -> Path:
    """Fit `label` on `train`, `train+valid` (`data`: the split) or `all` (`data`: the encoded rows).

    Ratings are normalised by statistics of these rows. A fit on `train` is guided by valid, with the best
    hyperparameters of the search `searched`, if any; the others take theirs, the learning rate that was found and
    the number of epochs from `chosen`, that first fit. A long fit that is killed goes on from its checkpoint. A
    blend is made of the models `fitted` on train; its refits refit them too.
    Raises Skipped, with the reason, where the family can't be used on this data, or not within the night's budget.
    """
    family, config = family_of(run.settings, label)
    config = config_of(config, chosen, searched)
    parents, made_of = [data, *([chosen] if chosen else [])], {}
    if family.blends:
        assert isinstance(config, BlendConfig)
        made_of = (
            members.refitted(run, chosen, lambda name, first: fit_model(run, data, name, fit, first))
            if chosen
            else members.members_of(run, config, fitted or {})
        )
        parents += made_of.values()
    finder = run.settings.models[label].finder if chosen is None else None
    set_threads(run.settings.threads)
    device, feedback = resolve_device(run.settings.device), run.settings.dataset.feedback
    devices = devices_of(run.settings, family)
    call = StageCall(StageName.TRAIN, label, fit, tuned=searched is not None)
    spec = lake.Spec(
        call=call,
        layer="5_models",
        version=VERSION,
        settings={
            "family": family.__name__, "version": family.version, "config": config.model_dump(), "fit": fit,
            "seed": run.settings.seed,
            "select": run.settings.select.model_dump(), "device": on_device(device),
            "precision": run.settings.precision, "label": label,
            "normalize": feedback.normalize, "normalize_to": feedback.normalize_to,
            **({"finder": finder.model_dump()} if finder else {}),
            **({"devices": devices} if devices > 1 else {}),
        },
        parents=tuple(parents),
        head=f"{label}-{fit.replace('+', '-')}",
    )  # fmt: skip

    checkpoint = run.home.lake(run.dataset) / spec.layer / f".checkpoint-{spec.key}.safetensors"

    def write(folder: Path) -> lake.Report:
        epochs = lake.info(chosen)["best_epoch"] if chosen else None
        told = Telling(call.title, epochs or getattr(config, "epochs", None))
        info: dict[str, Any] = {"label": label, "family": standing.family_name(run.settings, label), "fit": fit}
        if made_of:
            info["members"] = {name: path.name for name, path in made_of.items()}
        started = time.perf_counter()
        try:
            deadline = budget.deadline(run, call) if fit == "train" else None
            refit = chosen is not None
            job = Job(run, data, label, fit, family, config, epochs, refit, made_of, checkpoint, deadline)
            model, came = fitting.fit(job, device, told, folder)
        except NotServable as error:
            raise Skipped(str(error)) from error  # nothing is kept: tomorrow's memory or settings may allow it
        info |= {
            "seconds": round(came.earlier_seconds + time.perf_counter() - started, 3),
            "best_epoch": model.best_epoch, "history": told.history,
            "config": model.config.model_dump(), "valid": came.valid,
        }  # fmt: skip
        if finding := came.finding:
            journal.say(f"  {call.title}: {finding.words(info['config'].get('learning_rate'))}")
            info |= {"finder": finding.info(), "config": {**info["config"], **finding.rate_used()}}

        def keep(folder: Path) -> lake.Report:
            save(model, folder)
            came.normalizer.save(folder)
            return lake.Report(rows_in=came.rows, rows_out=came.rows, info=info)

        if came.cut_short:
            after = f" after epoch {len(told.history)}" if told.history else " before it was done"
            raise CutShort(f"{call.title}: the budget ended the fit{after}", keep)
        return keep(folder)

    try:
        folder = lake.build(run, spec, write)
    except CutShort as cut:  # kept for this night only: another one may have the time
        journal.note(run, str(cut))
        own = {**spec.settings, "cut short in": run.run_id}
        spec = replace(spec, call=replace(call, cut_short=True), settings=own)
        folder = lake.build(run, spec, cut.keep)
        seconds = lake.info(folder)["seconds"]  # of the fit, not of writing it: later nights plan by it
        rows = lake.read_manifest(folder)["rows_out"]
        record = {"stage": spec.call.title, "seconds": seconds, "rows_in": rows, "rows_out": rows, "skipped": False}
        journal.append(run, tables.STAGES, [record])
    checkpoint.unlink(missing_ok=True)
    return folder


class CutShort(Exception):
    """The budget's deadline ended the fit early; `keep` writes what it came to."""

    def __init__(self, text: str, keep: Callable[[Path], lake.Report]):
        super().__init__(text)
        self.keep = keep


class Telling:
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
        progress.watcher.rows(rows)

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Take the figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        progress.watcher.at("epoch", epoch, self.epochs, values, epoch * self.rows or None)
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES and not progress.watcher.watches:
            self.said, of = time.monotonic(), f"/{self.epochs}" if self.epochs else ""
            figures = "".join(f"  {name} {value:.4g}" for name, value in values.items())
            journal.say(f"  {self.title}  epoch {epoch}{of}{figures}")


def config_of(config: ModelConfig, chosen: Path | None = None, searched: Path | None = None) -> ModelConfig:
    """The hyperparameters of a fit: those of `chosen`; else the configured ones, with the best that were found."""
    if chosen is not None:
        return type(config).model_validate(lake.info(chosen)["config"])
    best = lake.info(searched)["best"] if searched is not None else None
    return type(config).model_validate({**config.model_dump(), **best["params"]}) if best else config


def family_of(settings: Settings, label: str) -> tuple[type[Recommender], ModelConfig]:
    """The class and the checked hyperparameters of a label; SettingsError names the key at fault."""
    name = standing.family_name(settings, label)
    if name not in MODELS:
        raise layers.SettingsError(
            f"models.{label}: no family is called {name!r}{layers.nearest(name, MODELS)}; "
            f"there are: {', '.join(MODELS)}"
        )
    family = MODELS[name]
    try:
        return family, family.Config.model_validate(settings.models[label].model_extra or {})
    except ValidationError as error:
        where = f"recipe {settings.recipe}"
        raise layers.SettingsError(layers.explain(error, family.Config, where, f"models.{label}.")) from None
