"""One night, as its stages see it: small, immutable, and JSON, so that tasks can pass it on."""

import datetime as dt
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.config.settings import Settings
from pipeline.core.paths import Home

LATEST_YEAR = 3000
"""Ids from then on are not taken for a night's."""


class Run(BaseModel):
    """Who runs, on what, where. Stages get it first, then the folders of the stages before."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    run_id: str
    home_root: Path
    data: Path
    """Folder in which `dataset.source.files` are looked for."""
    settings: Settings
    started_at: dt.datetime
    """UTC, naive."""
    as_of: dt.datetime | None = None
    """A replay: only interactions before this moment exist. UTC, naive."""
    flow_run_id: str | None = None
    """Prefect's id of the night, where it runs there."""

    @property
    def home(self) -> Home:
        """Where this run writes."""
        return Home(self.home_root)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.settings.dataset.name


def utcnow() -> dt.datetime:
    """Now in UTC, naive, as every table keeps it."""
    return dt.datetime.now(dt.UTC).replace(tzinfo=None)


def new_run_id(now: dt.datetime, earlier: list[str]) -> str:
    """`20261122T030000.123Z-4f2a`: ordered by time, and after every earlier one even if the clock went back."""
    stamp = now.strftime("%Y%m%dT%H%M%S.") + f"{now.microsecond // 1000:03d}Z"
    last = max((moment for run_id in earlier if (moment := moment_of(run_id))), default=None)
    if last and stamp <= last.strftime("%Y%m%dT%H%M%S.") + f"{last.microsecond // 1000:03d}Z":
        return new_run_id(last + dt.timedelta(milliseconds=1), [])
    return f"{stamp}-{secrets.token_hex(2)}"


def moment_of(run_id: str) -> dt.datetime | None:
    """When a night began, by its id; None where that is no time, or one so late that the clock was wrong."""
    try:
        moment = dt.datetime.strptime(run_id[:20], "%Y%m%dT%H%M%S.%fZ")
    except ValueError:
        return None
    return moment if moment.year < LATEST_YEAR else None
