"""Checks of a model's learning-rate finder and search, before the night starts."""

from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError
from pipeline.experiments.families import family_of
from pipeline.experiments.space import Space, grid_of, read_space
from pipeline.selection.leaderboard import family_name
from pipeline.training.optimizers import TrainingConfig


def space_of(settings: Settings, label: str) -> Space:
    """The validated `[models.<label>.search]`."""
    _, config = family_of(settings, label)
    return read_space(
        settings.models[label].search or {}, config, f"recipe {settings.recipe}", f"models.{label}.search"
    )


def check_label(settings: Settings, label: str) -> None:
    """Check finder and search of a label; SettingsError names the invalid key."""
    entry, (_, config) = settings.models[label], family_of(settings, label)
    where, key = f"recipe {settings.recipe}", f"models.{label}"
    name = family_name(settings, label)
    if entry.finder:
        if not isinstance(config, TrainingConfig):
            raise SettingsError(
                f"{where}: {key}.finder: {name} is fitted without gradient steps, so it has no learning rate to find"
            )
        if entry.finder.use and config.schedule == "step":
            raise SettingsError(f"{where}: {key}.finder.use: schedule step names its own learning rates")
    if entry.search is None:
        return
    space = space_of(settings, label)
    if settings.search.sampler == "grid":
        try:
            grid_of(space)
        except ValueError as error:
            raise SettingsError(f"{where}: {key}.search.{error}") from None
    if entry.finder and entry.finder.use and "learning_rate" in space:
        raise SettingsError(f"{where}: {key}: use either finder.use or a search of the learning rate")
