"""Keys of a recipe that say what is published, what may stop it, and what is kept of it."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from pipeline.config.base import Fraction, Section


class Checks(Section):
    """Bounds of the audits in `sql/checks`; where one is absent, the audit only warns."""

    max_shrink: Annotated[float, Field(gt=0, le=1)] = 0.9
    """A source that lost this share of the last published night's rows stops the night (exit 3)."""
    max_age_days: PositiveFloat | None = None
    """Oldest that the newest interaction may be when the night starts."""
    max_future_days: Annotated[float, Field(ge=0)] = 1.0
    """How far ahead of the night's start an interaction may be: time zones, clocks that are off."""
    min_coverage: Fraction | None = None
    """Share of the items that take part which must be in somebody's list."""


class Gate(Section):
    """What a new champion must show on valid, against the published configuration and windowed popularity."""

    enabled: bool = True
    """false: plainly the best on valid is published."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A challenger may be worse than the incumbent by this share of the incumbent's figure, and no more."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals that decide; for segments split among them (Bonferroni)."""
    min_segment_users: PositiveInt = 100
    """A smaller segment can't stop a challenger."""


class Churn(Section):
    """How much lists may differ from the published ones; change is 1 - Jaccard, mean over the users of both."""

    warn_change: Fraction = 0.7
    """Above it the night says so."""
    max_change: Fraction | None = None
    """Above it nothing is published (exit 3)."""
    accept: bool = False
    """true: `max_change` is let pass; `run --accept-churn` sets it for one night."""


class Export(Section):
    """What is published."""

    top_n: PositiveInt = 20
    similar_items: NonNegativeInt = 20
    popular_items: PositiveInt = 100
    popular_windows: list[PositiveInt] = Field(default=[7, 30])
    """Days before the last interaction, beside the whole history."""
    exclude_items: str | None = None
    """CSV of items that are never recommended, below the data folder: item_id, and if wanted reason, from, until."""
    only_items: str | None = None
    """CSV of the only items that are recommended; as exclude_items."""
    max_per_attribute: dict[str, PositiveInt] = Field(default={})
    """Attribute of the item catalog to the most items of one of its values in a list, e.g. { genres = 3 }."""
    fresh_days: PositiveInt | None = None
    """Only items with an interaction in so many days before the newest of all are recommended."""


class Keep(Section):
    """What is kept of past nights: generations by every night that publishes, the rest by `nightrecs gc`."""

    generations: PositiveInt = 7
    """Published databases to roll back to, the live one among them."""
    lake_nights: PositiveInt = 3
    """Newest nights whose results in the lake stay; beside them those of the live one and of the one before."""
    mlflow_nights: PositiveInt = 30
    """Newest nights that stay in MLflow; their registered models stay as long as the generation."""
    days: Annotated[float, Field(ge=0)] = 0
    """`gc` removes nothing younger, however much there is."""
