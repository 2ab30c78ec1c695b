"""Which of a user's own items lists leave out: all of them, none, or those of the last days.

One rule for published lists, evaluation, audits and explanations: `seen` and `hide_days` of a recipe.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.config.settings import ModelEntry, Settings
from pipeline.core.errors import SettingsError
from pipeline.preparation.events import masking_condition, masking_rows

FAMILY = "repeats"
LABELS = (FAMILY, "own_repeats")
"""Labels for the baseline of repeats; the first one that no model of the recipe has."""
SEARCHED = {"half_life_days": {"low": 7.0, "high": 365.0, "log": True}, "interval_weight": {"low": 0.0, "high": 0.9}}


@dataclass(frozen=True)
class SeenRule:
    """The keys `seen` and `hide_days`."""

    allow: bool = False
    """Items that the user has may be listed again."""
    hide_days: int | None = None
    """With `allow`: not those of the last days."""

    @classmethod
    def of(cls, settings: Mapping[str, Any] | Settings) -> "SeenRule":
        """Of settings, or of their JSON, which older nights wrote without these keys."""
        tree = settings.model_dump(include={"seen", "hide_days"}) if isinstance(settings, Settings) else settings
        return cls(tree.get("seen") == "allow", tree.get("hide_days"))

    @property
    def key(self) -> dict[str, Any]:
        """For lake keys: empty by default."""
        return {"seen": "allow", "hide_days": self.hide_days} if self.allow else {}

    def hides(self, times: pl.Series, as_of: dt.datetime | pl.Series | None) -> pl.Series:
        """Which events (N,) with these times keep their items out of a list as of that time, boolean.

        Events at or after `as_of` are recent. Without `as_of`, no event is.
        """
        if not self.allow:
            return pl.repeat(True, len(times), eager=True)
        if self.hide_days is None or as_of is None:
            return pl.repeat(False, len(times), eager=True)
        return (times > as_of - dt.timedelta(days=self.hide_days)).fill_null(False)

    def condition(self) -> str:
        """The same for a list as of the newest row, as a SQL condition on the rows of `source_rows`."""
        if not self.allow:
            return "true"
        if self.hide_days is None:
            return "false"
        return f"timestamp > (SELECT max(timestamp) FROM source_rows) - INTERVAL {self.hide_days} DAY"

    def check_times(self, untimed: int, rows: int) -> None:
        """Raise SettingsError if the rule goes by time and a row has none."""
        if self.hide_days is not None and untimed:
            raise SettingsError(
                f"hide_days goes by time, but {untimed:,} of {rows:,} rows have none: set "
                "dataset.columns.timestamp to the column with the times, or leave hide_days out"
            )

    def masks_until(self) -> str:
        """SQL expression on a row: the end of the time in which lists are made without its item."""
        if not self.allow:
            return "CAST('infinity' AS TIMESTAMP)"
        return f"timestamp + INTERVAL {self.hide_days or 0} DAY"

    def masking(
        self, earlier: pl.DataFrame, held: pl.DataFrame, kind: str, since: dt.datetime | None = None
    ) -> pl.Series:
        """Which encoded rows of earlier splits keep their item out of the lists that must find those of `held`.

        A list is as of the cut in time of `held` (kind global_time), else of the user's first held-out row in it.
        `since`: that cut, if `held` has not the rows of all users.
        """
        masks = earlier["masks"] if "masks" in earlier.columns else pl.repeat(True, earlier.height, eager=True)
        if not self.allow or self.hide_days is None:
            return masks if not self.allow else masks & False
        if kind == "global_time":
            cut = since or held["timestamp"].min()
            return masks & self.hides(earlier["timestamp"], cut if isinstance(cut, dt.datetime) else None)
        first = held.filter("target").group_by("user_idx").agg(as_of=pl.col("timestamp").min())
        as_of = earlier.select("user_idx").join(first, on="user_idx", how="left", maintain_order="left")["as_of"]
        return masks & self.hides(earlier["timestamp"], as_of)


HIDE = SeenRule()
"""The default."""


def hidden(rows: pl.DataFrame, places: pl.Series, settings: Settings, newest: object) -> pl.Series:
    """Which of the raw rows at `places` keep their item out of published lists, boolean.

    `newest`: the time of the newest row of the source.
    """
    events, as_of = settings.dataset.events, newest if isinstance(newest, dt.datetime) else None
    found = SeenRule.of(settings).hides(rows["timestamp"].gather(places), as_of)
    return found & masking_rows(rows, places, events) if events else found


def hiding_condition(settings: Settings) -> str:
    """The same as a SQL condition on the rows of `source_rows`."""
    return f"({masking_condition(settings.dataset.events)}) AND {SeenRule.of(settings).condition()}"


def completed(settings: Settings) -> Settings:
    """The settings of a recipe with `seen = "allow"`, completed; others as they are.

    A user's rows of one item stay apart (`feedback.repeats = "separate"`), because a merged row can't be predicted from
    earlier ones, and a model of the family `repeats` takes part.
    """
    if settings.seen == "hide":
        return settings
    dataset, models = settings.dataset, settings.models
    if dataset.feedback.repeats is None:
        feedback = dataset.feedback.model_copy(update={"repeats": "separate"})
        dataset = dataset.model_copy(update={"feedback": feedback})
    if FAMILY not in {entry.family or label for label, entry in models.items()}:
        free = next(label for label in LABELS if label not in models)
        given: dict[str, Any] = {"family": FAMILY}
        if dataset.columns.timestamp and any(entry.search for entry in models.values()):
            given["search"] = SEARCHED
        models = {free: ModelEntry.model_validate(given), **models}
    return settings.model_copy(update={"dataset": dataset, "models": models})
