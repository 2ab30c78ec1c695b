"""Family and hyperparameters of a label in a recipe."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.config.settings import ModelEntry, Settings
from pipeline.core.errors import SettingsError
from pipeline.core.stage_call import Fit
from pipeline.models import ModelConfig, Recommender, registry
from pipeline.selection import leaderboard
from pipeline.storage import lake
from pipeline.training.device import resolve_device
from pipeline.training.event_weights import SEARCHED, WeightsConfig


def config_of(config: ModelConfig, train_fit: Path | None = None, search_dir: Path | None = None) -> ModelConfig:
    """Hyperparameters of a fit: those of `train_fit`, otherwise the configured ones with the best of a search."""
    if train_fit is not None:
        return type(config).model_validate(lake.info(train_fit)["config"])
    best = lake.info(search_dir)["best"] if search_dir is not None else None
    return type(config).model_validate({**config.model_dump(), **best["params"]}) if best else config


def rows_of(data: Path, fit: Fit = "train") -> int | None:
    """Number of rows of a fit on `data`, a split, or the encoded rows for `all`; None where that is not built yet."""
    try:
        manifest = lake.read_manifest(data)
    except lake.NotYetKnown:
        return None
    if fit == "all":
        return manifest["rows_out"]
    return sum(manifest["info"]["rows"][name] for name in fit.split("+"))


def sized(settings: Settings, label: str, data: Path) -> tuple[type[Recommender], ModelConfig]:
    """As `family_of`, for a fit on the train rows of the split `data`: large fits may have other defaults.

    A refit, which takes the configuration of a fit, has those of that fit.
    """
    return sized_for(settings, label, rows_of(data))


def sized_for(settings: Settings, label: str, rows: int | None) -> tuple[type[Recommender], ModelConfig]:
    """As `sized`, for so many train rows; None: not known yet, so the defaults of small fits."""
    family, config = family_of(settings, label)
    alone = settings.devices == 1 and settings.scale.hosts == 1
    if rows is None or not alone or resolve_device(settings.device).type != "cpu":
        return family, config
    given = config.model_fields_set | {*(settings.models[label].search or {})}
    return family, family.config_at(config, rows, given)


def weighed_by_data(config: ModelConfig, dataset: Dataset) -> ModelConfig:
    """The config of a family that weighs interactions, completed by what the data set says; others as they are.

    `use_weights` is on for data sets with `[events]` or `repeats`, unless the recipe sets it.
    """
    if not isinstance(config, WeightsConfig) or not dataset.is_weighted:
        return config
    weights = dict(sorted(dataset.events.weights.items())) if dataset.events else {}
    own = {kind: weight for kind, weight in config.event_weights.items() if kind in weights}
    use = config.use_weights if "use_weights" in config.model_fields_set else True
    return config.model_copy(update={"use_weights": use, "event_weights": {**weights, **own}})


def weights_space(settings: Settings, config: ModelConfig) -> dict[str, Any]:
    """With `dataset.events.search`: the weights of types other than the target's, from 1 % of the target's up to it."""
    events = settings.dataset.events
    if events is None or not events.search or not isinstance(config, WeightsConfig) or not config.use_weights:
        return {}
    highest = max(config.event_weights[kind] for kind in events.targets)
    searched = [kind for kind in config.event_weights if events.weights[kind] and kind not in events.targets]
    return {SEARCHED + kind: {"low": highest / 100, "high": highest, "log": True} for kind in searched}


def with_weights(settings: Settings) -> Settings:
    """The settings with what the data set says about weights written into each model's, searches of weights included.

    So the journal has it, and the published configuration is compared with it. Unchanged for other data sets.
    """
    if not settings.dataset.is_weighted:
        return settings
    models: dict[str, ModelEntry] = {}
    for label, entry in settings.models.items():
        config = family_of(settings, label)[1]
        models[label] = entry
        if isinstance(config, WeightsConfig):
            own = config.model_dump(include={"use_weights", "event_weights"})
            given = {**entry.model_dump(exclude_unset=True), **own}
            if space := weights_space(settings, config):
                given["search"] = {**space, **(entry.search or {})}
            models[label] = ModelEntry.model_validate(given)
    return settings.model_copy(update={"models": models})


def family_of(settings: Settings, label: str) -> tuple[type[Recommender], ModelConfig]:
    """The class and the checked hyperparameters of a label; SettingsError names the key at fault."""
    try:
        family = registry.find(leaderboard.family_name(settings, label))
    except SettingsError as error:
        raise SettingsError(f"models.{label}: {error}") from error
    try:
        config = family.Config.model_validate(settings.models[label].model_extra or {})
        return family, weighed_by_data(config, settings.dataset)
    except ValidationError as error:
        where = f"recipe {settings.recipe}"
        raise SettingsError(loader.explain(error, family.Config, where, f"models.{label}.")) from None
