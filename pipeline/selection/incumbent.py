"""Who takes part in a night beside the recipe's models: the published configuration, and popularity as a floor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.run import Run
from pipeline.config.settings import FLOOR, INCUMBENT, ModelEntry, Settings
from pipeline.models import MODELS
from pipeline.models.blend import BlendConfig
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake

FLOOR_DAYS = 30.0
"""Window of the popularity that is the floor, where there are times."""


class Configuration(BaseModel):
    """What was fitted: a family, all its hyperparameters, and how ratings were normalised. No epochs, no state."""

    model_config = ConfigDict(frozen=True)

    family: str
    hyperparameters: dict[str, Any] = {}
    normalize: dict[str, Any] = {}
    """The `feedback.normalize…` settings."""

    @property
    def blends(self) -> bool:
        """Whether it is a blend of other configurations."""
        return getattr(MODELS.get(self.family), "blends", False)

    def same_as(self, other: "Configuration") -> bool:
        """Equal; of blends, the same members, whatever their labels: weights are learnt anew each night."""
        if self.blends and other.blends:
            return self._members() == other._members()
        return self == other

    def _members(self) -> list[str]:
        return sorted(json.dumps(member, sort_keys=True) for member in self.hyperparameters.get("members", {}).values())

    def completed(self) -> "Configuration":
        """With the defaults of hyperparameters that the family has gained; ValueError where it can't be fitted."""
        if self.family not in MODELS:
            raise ValueError(f"there is no family {self.family!r} any more")
        family = MODELS[self.family]
        try:
            config = family.Config.model_validate(self.hyperparameters)
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
            raise ValueError(f"{self.family} does not take its {keys} any more") from None
        return self.model_copy(update={"hyperparameters": _as_json(config.model_dump())})


@dataclass(frozen=True)
class Contest:
    """Who is who tonight. `added`: configurations beside the recipe's, by label, with the Run to fit them by."""

    configurations: Mapping[str, Configuration] = field(default_factory=dict)
    """Of everybody, by label."""
    added: Mapping[str, Run] = field(default_factory=dict)
    incumbent: str | None = None
    """Label of the published configuration; None: there is none, or it can't be fitted."""
    live: str | None = None
    """Night that published it."""
    floor: str | None = None
    """Label of the popularity that nobody may lose to."""
    said: str | None = None
    """Why there is no incumbent, or no floor."""
    members: Mapping[str, Run] = field(default_factory=dict)
    """What a published blend is made of and tonight has no fit of, by label: fitted before it, not measured."""


def contest(run: Run, live: str | None, recipe: Mapping[str, Configuration]) -> Contest:
    """Find incumbent and floor for the recipe's models, by label; `live` is the night that is published.

    A recipe's model of the incumbent's configuration is the incumbent: nothing is fitted twice. With the gate off
    nobody is added.
    """
    known = dict(recipe)
    if not run.settings.gate.enabled:
        return Contest(known)
    added: dict[str, Run] = {}
    members: dict[str, Run] = {}
    holder, said = None, []
    published, trouble = published_configuration(run, live)
    if trouble:
        said.append(trouble)
    if published:
        holder = next((label for label, configuration in known.items() if configuration.same_as(published)), None)
        if holder is None:
            again, parts = made_again(published, known)
            own = run
            for label, configuration in parts.items():
                members[label] = own = run_with(own, label, configuration)
            holder = INCUMBENT
            known[INCUMBENT], added[INCUMBENT] = published, run_with(own, INCUMBENT, again)
    floor, wanted = find_floor(run, known)
    if floor is None and wanted is None:
        said.append("popularity predicts no ratings, so there is no floor")
    if wanted:
        floor = FLOOR
        known[FLOOR], added[FLOOR] = wanted, run_with(run, FLOOR, wanted)
    return Contest(known, added, holder, live, floor, "; ".join(said) or None, members)


def configured(settings: Settings) -> dict[str, Configuration]:
    """The recipe's models by label, as they are fitted where no search, rate finder or figure changes them."""
    normalize = settings.dataset.feedback.model_dump(mode="json", include={"normalize", "normalize_to"})
    known: dict[str, Configuration] = {}
    for label in sorted(settings.models, key=lambda label: leaderboard.is_blend(settings, label)):
        given = settings.models[label].model_extra or {}
        own = Configuration(family=leaderboard.family_name(settings, label), hyperparameters=given, normalize=normalize)
        own = own.completed()
        if own.blends:
            config = BlendConfig.model_validate(own.hyperparameters)
            of = leaderboard.members_of(config, {name: each.family for name, each in known.items()}, [])
            members = {name: {"family": known[name].family, "config": known[name].hyperparameters} for name in of}
            own.hyperparameters["members"] = members
        known[label] = own
    return known


def configuration_of(fitted: Path) -> Configuration:
    """What was fitted in a folder of `train`."""
    manifest = lake.read_manifest(fitted)
    info, settings = manifest["info"], manifest["settings"]
    normalize = {key: value for key, value in settings.items() if key.startswith("normalize")}
    return Configuration(family=info["family"], hyperparameters=info["config"], normalize=normalize)


def published_configuration(run: Run, live: str | None) -> tuple[Configuration | None, str | None]:
    """The configuration that made the lists of night `live`, from its journal, or why it can't take part tonight."""
    if live is None:
        return None, None
    try:
        record = journal.read_run(run.home, run.dataset, live)
        stored = record.get("champion_configuration")
        if stored is None and not (made := record.get("made", {}).get("refit")):
            raise ValueError("its journal does not have it")
        published = Configuration.model_validate(stored) if stored else configuration_of(Path(made))
        made_again(published, {})  # so are its members
        return published.completed(), None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"the configuration published by night {live} can't take part: {error}"


def made_again(
    published: Configuration, known: Mapping[str, Configuration]
) -> tuple[Configuration, dict[str, Configuration]]:
    """The configuration to fit tonight, and by label what else it takes: of a blend, its members with a weight.

    The weights stay as they were published; a member that tonight has a fit of is that fit.
    """
    if not published.blends:
        return published, {}
    parts: dict[str, Configuration] = {}
    weights: dict[str, float] = {}
    for label, member in published.hyperparameters["members"].items():
        if not (weight := published.hyperparameters["weights"][label]):
            continue
        part = Configuration(
            family=member["family"], hyperparameters=member["config"], normalize=published.normalize
        ).completed()
        own = next((name for name, configuration in known.items() if configuration == part), None)
        if own is None:
            own = f"{INCUMBENT}_{label.removeprefix(f'{INCUMBENT}_')}"
            parts[own] = part
        weights[own] = weights.get(own, 0.0) + weight
    frozen = {"of": list(weights), "weights": weights}
    return published.model_copy(update={"hyperparameters": frozen}), parts


def find_floor(run: Run, known: Mapping[str, Configuration]) -> tuple[str | None, Configuration | None]:
    """The label that is the floor, or the configuration to add as one; neither where ratings are predicted."""
    if run.settings.select.protocol == "error":
        return None, None
    timed = run.settings.dataset.columns.timestamp is not None
    popular = {label: c for label, c in known.items() if c.family == "popularity"}
    for label, configuration in popular.items():
        if (configuration.hyperparameters.get("window_days") is not None) == timed:
            return label, None
    if popular and len(popular) == len(known):
        return next(iter(popular)), None  # nothing but popularity: there is nothing to hold against it
    window = {"window_days": FLOOR_DAYS} if timed else {}
    normalize = next(iter(known.values())).normalize if known else {}
    return None, Configuration(family="popularity", hyperparameters=window, normalize=normalize)


def run_with(run: Run, label: str, configuration: Configuration) -> Run:
    """The same night with one more model, normalised as its configuration says."""
    settings = run.settings
    entry = ModelEntry.model_validate({**configuration.hyperparameters, "family": configuration.family})
    feedback = settings.dataset.feedback
    normalize = {key: value for key, value in configuration.normalize.items() if key in type(feedback).model_fields}
    feedback = type(feedback).model_validate({**feedback.model_dump(), **normalize})
    dataset = settings.dataset.model_copy(update={"feedback": feedback})
    models = {**settings.models, label: entry}
    return run.model_copy(update={"settings": settings.model_copy(update={"models": models, "dataset": dataset})})


def _as_json(value: Any) -> Any:
    """As it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))
