"""What competes with the recipe's models: the published configuration (the incumbent) and popularity (the baseline)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.run import Run
from pipeline.config.settings import BASELINE, INCUMBENT, ModelEntry, Settings
from pipeline.models import MODELS
from pipeline.models.blend import BlendConfig
from pipeline.selection import leaderboard
from pipeline.storage import journal, lake

BASELINE_DAYS = 30.0
"""Window of the popularity baseline in days, where interactions have timestamps."""


class Configuration(BaseModel):
    """What was fitted: a family, all its hyperparameters, and how ratings were normalised. Without epochs and state."""

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
        """Equality; for blends, the same members under any labels, as weights are learnt again every night."""
        if self.blends and other.blends:
            return self._members() == other._members()
        return self == other

    def _members(self) -> list[str]:
        return sorted(json.dumps(member, sort_keys=True) for member in self.hyperparameters.get("members", {}).values())

    def completed(self) -> "Configuration":
        """Add defaults of new hyperparameters of the family; ValueError where it can no longer be fitted."""
        if self.family not in MODELS:
            raise ValueError(f"there is no longer a family {self.family!r}")
        family = MODELS[self.family]
        try:
            config = family.Config.model_validate(self.hyperparameters)
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
            raise ValueError(f"{self.family} no longer accepts {keys}") from None
        return self.model_copy(update={"hyperparameters": _as_json(config.model_dump())})


@dataclass(frozen=True)
class Contest:
    """The models that compete for publication, with their roles."""

    configurations: Mapping[str, Configuration] = field(default_factory=dict[str, Configuration])
    """Of every competing model, by label."""
    added: Mapping[str, Run] = field(default_factory=dict[str, Run])
    """Incumbent and baseline where the recipe does not have them: by label, the Run whose settings include them."""
    incumbent: str | None = None
    """Label of the published configuration; None: there is none, or it can't be fitted."""
    live: str | None = None
    """Run id of the night that published it."""
    baseline: str | None = None
    """Label of the popularity model that the champion must not be significantly worse than."""
    reasons: str | None = None
    """Why there is no incumbent or no baseline."""
    members: Mapping[str, Run] = field(default_factory=dict[str, Run])
    """Members of a published blend that tonight's recipe does not have, by label. They are fitted before the blend and
    not evaluated on their own."""


def contest(run: Run, live: str | None, recipe: Mapping[str, Configuration]) -> Contest:
    """Add incumbent and baseline to the recipe's models; `live` is the run id of the published night.

    Where a model of the recipe has the incumbent's configuration, it is the incumbent, so nothing is fitted twice. With
    the gate disabled nothing is added.
    """
    known = dict(recipe)
    if not run.settings.gate.enabled:
        return Contest(known)
    added: dict[str, Run] = {}
    members: dict[str, Run] = {}
    holder, reasons = None, list[str]()
    published, unusable = published_configuration(run, live)
    if unusable:
        reasons.append(unusable)
    if published:
        holder = next((label for label, configuration in known.items() if configuration.same_as(published)), None)
        if holder is None:
            refitted, missing = to_refit(published, known)
            own = run
            for label, configuration in missing.items():
                members[label] = own = run_with(own, label, configuration)
            holder = INCUMBENT
            known[INCUMBENT], added[INCUMBENT] = published, run_with(own, INCUMBENT, refitted)
    baseline, wanted = find_baseline(run, known)
    if baseline is None and wanted is None:
        reasons.append("popularity predicts no ratings, so there is no baseline")
    if wanted:
        baseline = BASELINE
        known[BASELINE], added[BASELINE] = wanted, run_with(run, BASELINE, wanted)
    return Contest(known, added, holder, live, baseline, "; ".join(reasons) or None, members)


def configured(settings: Settings) -> dict[str, Configuration]:
    """The recipe's models by label, as fitted unless a search, the rate finder or a metric changes them."""
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


def configuration_of(fit: Path) -> Configuration:
    """The configuration of a fit, from its folder in the lake."""
    manifest = lake.read_manifest(fit)
    info, settings = manifest["info"], manifest["settings"]
    normalize = {key: value for key, value in settings.items() if key.startswith("normalize")}
    return Configuration(family=info["family"], hyperparameters=info["config"], normalize=normalize)


def published_configuration(run: Run, live: str | None) -> tuple[Configuration | None, str | None]:
    """The configuration that night `live` published, from its journal, or the reason why it can't compete tonight."""
    if live is None:
        return None, None
    try:
        record = journal.read_run(run.home, run.dataset, live)
        stored = record.get("champion_configuration")
        if stored is not None:
            published = Configuration.model_validate(stored)
        elif made := record.get("made", {}).get("refit"):
            published = configuration_of(Path(made))
        else:
            raise ValueError("it is missing from the journal of that night")
        to_refit(published, {})  # checks the members of a blend
        return published.completed(), None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"the configuration published by night {live} can't compete: {error}"


def to_refit(
    published: Configuration, known: Mapping[str, Configuration]
) -> tuple[Configuration, dict[str, Configuration]]:
    """The configuration to fit tonight; for a blend also its weighted members that `known` lacks, by label.

    A blend keeps its published weights. A member that tonight's models include is not fitted a second time.
    """
    if not published.blends:
        return published, {}
    missing: dict[str, Configuration] = {}
    weights: dict[str, float] = {}
    for label, member in published.hyperparameters["members"].items():
        if not (weight := published.hyperparameters["weights"][label]):
            continue
        member_configuration = Configuration(
            family=member["family"], hyperparameters=member["config"], normalize=published.normalize
        ).completed()
        own = next((name for name, configuration in known.items() if configuration == member_configuration), None)
        if own is None:
            own = f"{INCUMBENT}_{label.removeprefix(f'{INCUMBENT}_')}"
            missing[own] = member_configuration
        weights[own] = weights.get(own, 0.0) + weight
    frozen = {"of": list(weights), "weights": weights}
    return published.model_copy(update={"hyperparameters": frozen}), missing


def find_baseline(run: Run, known: Mapping[str, Configuration]) -> tuple[str | None, Configuration | None]:
    """The label that serves as baseline, or the configuration to add as one; neither where ratings are predicted."""
    if run.settings.select.protocol == "error":
        return None, None
    timed = run.settings.dataset.columns.timestamp is not None
    popular = {label: c for label, c in known.items() if c.family == "popularity"}
    for label, configuration in popular.items():
        if (configuration.hyperparameters.get("window_days") is not None) == timed:
            return label, None
    if popular and len(popular) == len(known):
        return next(iter(popular)), None  # popularity only: another one would add nothing
    window = {"window_days": BASELINE_DAYS} if timed else {}
    normalize = next(iter(known.values())).normalize if known else {}
    return None, Configuration(family="popularity", hyperparameters=window, normalize=normalize)


def run_with(run: Run, label: str, configuration: Configuration) -> Run:
    """The same night with one more model in its settings, and ratings normalised as its configuration says."""
    settings = run.settings
    entry = ModelEntry.model_validate({**configuration.hyperparameters, "family": configuration.family})
    feedback = settings.dataset.feedback
    normalize = {key: value for key, value in configuration.normalize.items() if key in type(feedback).model_fields}
    feedback = type(feedback).model_validate({**feedback.model_dump(), **normalize})
    dataset = settings.dataset.model_copy(update={"feedback": feedback})
    models = {**settings.models, label: entry}
    return run.model_copy(update={"settings": settings.model_copy(update={"models": models, "dataset": dataset})})


def _as_json(value: object) -> Any:
    """The value as read back from a JSON file."""
    return json.loads(json.dumps(value, default=str))
