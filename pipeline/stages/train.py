"""Fits one model family on one part of the data, and keeps its state."""

import time
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from pipeline import journal, lake, layers, measure
from pipeline.device import memory_budget, on_device, resolve_device, set_threads
from pipeline.interactions import Interactions
from pipeline.models import MODELS, FitContext, ModelConfig, NotServable, Recommender
from pipeline.models.saving import save
from pipeline.normalize import Normalizer
from pipeline.ranking import ScoreError
from pipeline.rng import seed_of
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.training import seeded

VERSION = 2
SECONDS_BETWEEN_LINES = 5.0


class Skipped(Exception):
    """A family can't be used on this data; the message says why."""


def fit_model(run: Run, data: Path, label: str, fit: str = "train", chosen: Path | None = None) -> Path:
    """Fit `label` on `train`, `train+valid` (`data`: the split) or `all` (`data`: the encoded rows).

    Ratings are normalised by statistics of these rows. A fit on `train` is guided by valid; the others take
    their number of epochs from `chosen`, that first fit. A long fit that is killed goes on from its checkpoint.
    Raises Skipped, with the reason, where the family can't be used on this data.
    """
    family, config = family_of(run.settings, label)
    set_threads(run.settings.threads)
    device = resolve_device(run.settings.device)
    title = f"train {label}" if fit == "train" else f"train {label} on {fit}"
    spec = lake.Spec(
        stage=title,
        layer="5_models",
        version=VERSION,
        settings={
            "family": family.__name__, "version": family.version, "config": config.model_dump(), "fit": fit,
            "seed": run.settings.seed,
            "select": run.settings.select.model_dump(), "device": on_device(device),
            "precision": run.settings.precision, "label": label,
            "normalize": run.settings.dataset.feedback.normalize,
        },
        parents=(data,) if chosen is None else (data, chosen),
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
            parts = measure.load_parts(data, device)
            train = parts.fitted_on(fit)
        epochs = lake.info(chosen)["best_epoch"] if chosen else None
        told = Telling(title, epochs or getattr(config, "epochs", None))
        info: dict[str, Any] = {"label": label, "family": config_family(run.settings, label), "fit": fit}
        started = time.perf_counter()
        try:
            normalizer = Normalizer.fit(run.settings.dataset.feedback.normalize, train.ratings)
            context = FitContext(
                device=device,
                precision=run.settings.precision,
                seed=seed_of(run.settings.seed, "fit", label),
                log=told,
                validate=measure.validator(parts, run.settings, family, normalizer)
                if parts and chosen is None
                else None,
                epochs=epochs,
                checkpoint=checkpoint,
                memory=memory_budget(run.settings.memory_limit, device),
            )
            model = build(family, config, train.n_users, train.n_items, context.seed)
            model.fit(normalizer.on(train), context)
        except (NotServable, ScoreError) as error:
            diverged = isinstance(error, ScoreError)
            reason = f"the fit diverged: {error}; lower learning_rate or raise l2" if diverged else str(error)
            raise Skipped(reason) from error  # nothing is kept: tomorrow's memory or settings may allow it
        save(model, folder)
        normalizer.save(folder)
        info |= {
            "seconds": round(time.perf_counter() - started, 3), "best_epoch": model.best_epoch, "history": told.history,
            "config": config.model_dump(),
        }  # fmt: skip
        return lake.Report(rows_in=len(train), rows_out=len(train), info=info)

    folder = lake.build(run, spec, write)
    checkpoint.unlink(missing_ok=True)
    return folder


class Telling:
    """Keeps the figures of every epoch, and says them while the fit runs: at most a line every few seconds."""

    def __init__(self, title: str, epochs: int | None):
        self.title, self.of = title, f"/{epochs}" if epochs else ""
        self.history: list[dict[str, float]] = []
        self.said = time.monotonic()

    def __call__(self, epoch: int, values: dict[str, float]) -> None:
        """Take the figures of an epoch, 1-based."""
        self.history.append({"epoch": epoch, **values})
        if time.monotonic() - self.said >= SECONDS_BETWEEN_LINES:
            self.said = time.monotonic()
            figures = "".join(f"  {name} {value:.4g}" for name, value in values.items())
            journal.say(f"  {self.title}  epoch {epoch}{self.of}{figures}")


def build(family: type[Recommender], config: ModelConfig, n_users: int, n_items: int, seed: int) -> Recommender:
    """A new model; its initial values depend on `seed` alone, and torch's global generator is left as it was."""
    with seeded(seed):
        return family(config, n_users, n_items)


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
