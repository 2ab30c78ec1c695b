"""Weights of interactions in a fit and in histories: by event type, quantity and age."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from pipeline.training.context import ModelConfig, NotServable
from pipeline.training.interactions import Facts, History, Interactions

SEARCHED = "event_weights."
"""Prefix of one event type's weight as a hyperparameter."""


class WeightsConfig(ModelConfig):
    """Hyperparameters of all families that weigh interactions."""

    use_weights: bool = False
    """Interactions count by event type and quantity. Set for data sets with `[events]` or `feedback.repeats`, unless it
    is set here."""
    event_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    """Event type to its weight; types that are absent have that of `dataset.events.weights`."""
    quantity_exponent: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A quantity n counts as n ** quantity_exponent; 0: the quantity doesn't matter."""
    half_life_days: PositiveFloat | None = None
    """An interaction that is so many days older than the newest one counts half. Unset: age doesn't matter."""

    added_later: ClassVar[tuple[str, ...]] = ("use_weights", "event_weights", "quantity_exponent", "half_life_days")

    def value_of(self, name: str) -> Any:
        """The value of a hyperparameter, or of one event type (`event_weights.view`)."""
        if name.startswith(SEARCHED):
            return self.event_weights.get(name.removeprefix(SEARCHED))
        return super().value_of(name)

    @property
    def names(self) -> list[str]:
        """Names of the hyperparameters, with those of single event types."""
        return [*super().names, *(SEARCHED + kind for kind in self.event_weights)]

    @property
    def weighs(self) -> bool:
        """Whether interactions may have different weights."""
        return self.use_weights or self.half_life_days is not None

    @model_validator(mode="before")
    @classmethod
    def _gather_weights(cls, values: Any) -> Any:
        """`event_weights.view = 0.1`, as searches name it, is an entry of `event_weights`."""
        if not isinstance(values, dict):
            return values
        single = {name.removeprefix(SEARCHED): of for name, of in values.items() if name.startswith(SEARCHED)}
        if not single:
            return values
        others = {name: of for name, of in values.items() if not name.startswith(SEARCHED)}
        return {**others, "event_weights": {**(others.get("event_weights") or {}), **single}}


def weighed(history: History, config: ModelConfig) -> History:
    """The history with every item once and `weights` (E,), ordered by item, if the config weighs interactions.

    Weights of several events of a user with an item add up; items of weight 0 are left out. A history without facts, or
    with weights already, is returned as it is, as is every history of a config that does not weigh.
    """
    facts = history.facts
    if history.weights is not None or facts is None:
        return history
    if not isinstance(config, WeightsConfig) or not config.weighs:
        return history if facts.kinds is None else history.distinct()
    each = weigh(facts, config)  # (E,)
    keys, place = torch.unique(history.rows * history.n_items + history.items, return_inverse=True)  # (E',), (E,)
    weights = each.new_zeros(len(keys)).index_add_(0, place, each)  # (E',)
    keys, weights = keys[weights > 0], weights[weights > 0]
    distinct = History.of(keys // history.n_items, keys % history.n_items, len(history), history.n_items)
    return replace(distinct, weights=weights)


def weigh(facts: Facts, config: WeightsConfig) -> Tensor:
    """Weight of every event, (E,): of its type, times quantity ** quantity_exponent, times 2 ** (-age / half-life)."""
    factors: list[Tensor] = []
    if config.use_weights and facts.kinds is not None and config.event_weights:
        table = torch.tensor([config.event_weights[kind] for kind in sorted(config.event_weights)])  # (T,)
        factors.append(table.to(facts.kinds.device)[facts.kinds])
    if config.use_weights and facts.quantities is not None:
        factors.append(facts.quantities**config.quantity_exponent)
    if config.half_life_days is not None and facts.ages is not None:
        factors.append(torch.exp2(-facts.ages / config.half_life_days).clamp(min=1e-6))  # never 0, which is no event
    weights = torch.ones(len(facts), device=facts.device)
    for factor in factors:
        weights = weights * factor
    return weights


def row_weights(rows: Interactions, config: WeightsConfig) -> Tensor | None:
    """Weight of every row, (N,); None if the config or the rows have none."""
    check_times(rows, config)
    return weigh(rows.facts, config) if rows.facts is not None and config.weighs else None


def history_of(train: Interactions, config: ModelConfig) -> History:
    """The histories that a fit learns from: `weighed`. Raises NotServable if a half-life meets rows without times."""
    if isinstance(config, WeightsConfig):
        check_times(train, config)
    return weighed(train.history(), config)


def check_times(rows: Interactions, config: WeightsConfig) -> None:
    """Raise NotServable if the config has a half-life and the rows have no times."""
    if config.half_life_days is not None and (rows.facts is None or rows.facts.ages is None):
        raise NotServable("half_life_days goes by time, and this data set has no times")
