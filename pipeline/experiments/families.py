"""Family and hyperparameters of a label in a recipe."""

from pathlib import Path

from pydantic import ValidationError

from pipeline.config import loader
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.models import ModelConfig, Recommender, registry
from pipeline.selection import leaderboard
from pipeline.storage import lake


def config_of(config: ModelConfig, train_fit: Path | None = None, search_dir: Path | None = None) -> ModelConfig:
    """Hyperparameters of a fit: those of `train_fit`, otherwise the configured ones with the best of a search."""
    if train_fit is not None:
        return type(config).model_validate(lake.info(train_fit)["config"])
    best = lake.info(search_dir)["best"] if search_dir is not None else None
    return type(config).model_validate({**config.model_dump(), **best["params"]}) if best else config


def family_of(settings: Settings, label: str) -> tuple[type[Recommender], ModelConfig]:
    """The class and the checked hyperparameters of a label; SettingsError names the key at fault."""
    try:
        family = registry.find(leaderboard.family_name(settings, label))
    except SettingsError as error:
        raise SettingsError(f"models.{label}: {error}") from error
    try:
        return family, family.Config.model_validate(settings.models[label].model_extra or {})
    except ValidationError as error:
        where = f"recipe {settings.recipe}"
        raise SettingsError(loader.explain(error, family.Config, where, f"models.{label}.")) from None
