"""Fits one model family on one part of the data, and keeps its state."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pydantic import ValidationError

from pipeline import budget, journal, lake, layers, progress, tables
from pipeline.device import memory_budget, on_device, resolve_device, set_threads
from pipeline.finder import RateFinder
from pipeline.guide import validator
from pipeline.interactions import Interactions
from pipeline.models import MODELS, FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.blend import BlendConfig
from pipeline.models.saving import save
from pipeline.normalize import Normalizer
from pipeline.question import load_parts
from pipeline.ranking import ScoreError
from pipeline.rng import seed_of
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.stages import members
from pipeline.training import seeded

VERSION = 3
SECONDS_BETWEEN_LINES = 5.0


class Skipped(Exception):
    """A family can't be used on this data; the message says why."""


def fit_model(
    run: Run,
    data: Path,
    label: str,
    fit: str = "train",
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
    title = f"train {label}" + (" tuned" if searched else "") + ("" if fit == "train" else f" on {fit}")
    spec = lake.Spec(
        stage=title,
        layer="5_models",
        version=VERSION,
        settings={
            "family": family.__name__, "version": family.version, "config": config.model_dump(), "fit": fit,
            "seed": run.settings.seed,
            "select": run.settings.select.model_dump(), "device": on_device(device),
            "precision": run.settings.precision, "label": label,
            "normalize": feedback.normalize, "normalize_to": feedback.normalize_to,
            **({"finder": finder.model_dump()} if finder else {}),
        },
        parents=tuple(parents),
        head=f"{label}-{fit.replace('+', '-')}",
    )  # fmt: skip

    checkpoint = run.home.lake(run.dataset) / spec.layer / f".checkpoint-{spec.key}.safetensors"

    def write(folder: Path) -> lake.Report:
        if fit == "all":
            shape = lake.info(data)
            frame = pl.read_parquet(data / "interactions.parquet")
            train = Interactions.of_frame(frame, shape["n_users"], shape["n_items"], device)
            parts = None
        else:
            parts = load_parts(data, device)
            train = parts.fitted_on(fit)
        epochs = lake.info(chosen)["best_epoch"] if chosen else None
        told = Telling(title, epochs or getattr(config, "epochs", None), len(train))
        info: dict[str, Any] = {"label": label, "family": config_family(run.settings, label), "fit": fit}
        finding = RateFinder(finder) if finder else None
        started = time.perf_counter()
        try:
            deadline = budget.deadline(run, label, title) if fit == "train" else None
            normalizer = Normalizer.fit(feedback.normalize, train.ratings, feedback.normalize_to)
            guide = validator(parts, run.settings, family, normalizer) if parts and not chosen else None
            context = FitContext(
                device=device,
                precision=run.settings.precision,
                seed=seed_of(run.settings.seed, "fit", label),
                log=told,
                validate=guide,
                per_user=guide.per_user if guide else None,
                epochs=epochs,
                checkpoint=checkpoint,
                deadline=deadline,
                finder=finding,
                memory=memory_budget(run.settings.memory_limit, device),
            )
            if isinstance(config, BlendConfig):
                model = members.assemble(config, made_of, device)
                info["members"] = {name: path.name for name, path in made_of.items()}
            else:
                model = build(family, config, train.n_users, train.n_items, context.seed)
            model.fit(normalizer.on(train), context)
            valid = figure_on_valid(model, told.history, context) if run.settings.budget.minutes else None
        except (NotServable, ScoreError) as error:
            diverged = isinstance(error, ScoreError)
            reason = f"the fit diverged: {error}; lower learning_rate or raise l2" if diverged else str(error)
            raise Skipped(reason) from error  # nothing is kept: tomorrow's memory or settings may allow it
        info |= {
            "seconds": round(context.course.earlier_seconds + time.perf_counter() - started, 3),
            "best_epoch": model.best_epoch, "history": told.history,
            "config": model.config.model_dump(), "valid": valid,
        }  # fmt: skip
        if finding:
            journal.say(f"  {title}: {finding.words(info['config'].get('learning_rate'))}")
            info |= {"finder": finding.info(), "config": {**info["config"], **finding.rate_used()}}

        def keep(folder: Path) -> lake.Report:
            save(model, folder)
            normalizer.save(folder)
            return lake.Report(rows_in=len(train), rows_out=len(train), info=info)

        if context.cut_short:
            after = f" after epoch {len(told.history)}" if told.history else " before it was done"
            raise CutShort(f"{title}: the budget ended the fit{after}", keep)
        return keep(folder)

    try:
        folder = lake.build(run, spec, write)
    except CutShort as cut:  # kept for this night only: another one may have the time
        journal.note(run, str(cut))
        own = {**spec.settings, "cut short in": run.run_id}
        spec = replace(spec, stage=f"{title}, cut short", settings=own)
        folder = lake.build(run, spec, cut.keep)
        seconds = lake.info(folder)["seconds"]  # of the fit, not of writing it: later nights plan by it
        rows = lake.read_manifest(folder)["rows_out"]
        record = {"stage": spec.stage, "seconds": seconds, "rows_in": rows, "rows_out": rows, "skipped": False}
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

    def __init__(self, title: str, epochs: int | None, rows: int = 0):
        self.title, self.epochs, self.rows = title, epochs, rows
        progress.watcher.rows(rows)
        self.history: list[dict[str, float]] = []
        self.said = time.monotonic()

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Take the figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        progress.watcher.at("epoch", epoch, self.epochs, values, epoch * self.rows or None)
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES and not progress.watcher.watches:
            self.said, of = time.monotonic(), f"/{self.epochs}" if self.epochs else ""
            figures = "".join(f"  {name} {value:.4g}" for name, value in values.items())
            journal.say(f"  {self.title}  epoch {epoch}{of}{figures}")


def build(family: type[Recommender], config: ModelConfig, n_users: int, n_items: int, seed: int) -> Recommender:
    """A new model; its initial values depend on `seed` alone, and torch's global generator is left as it was."""
    with seeded(seed):
        return family(config, n_users, n_items)


def config_of(config: ModelConfig, chosen: Path | None = None, searched: Path | None = None) -> ModelConfig:
    """The hyperparameters of a fit: those of `chosen`; else the configured ones, with the best that were found."""
    if chosen is not None:
        return type(config).model_validate(lake.info(chosen)["config"])
    best = lake.info(searched)["best"] if searched is not None else None
    return type(config).model_validate({**config.model_dump(), **best["params"]}) if best else config


def figure_on_valid(model: Recommender, history: list[dict[str, float]], context: FitContext) -> float | None:
    """The figure that selects, higher is better: the best epoch's, else asked of the fitted model."""
    if known := [epoch["valid"] for epoch in history if "valid" in epoch]:
        return max(known)
    with torch.no_grad():
        return context.validate(model) if context.validate else None


def config_family(settings: Settings, label: str) -> str:
    """Name of the family behind a label."""
    return settings.models[label].family or label


def family_of(settings: Settings, label: str) -> tuple[type[Recommender], ModelConfig]:
    """The class and the checked hyperparameters of a label; SettingsError names the key at fault."""
    name = config_family(settings, label)
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
