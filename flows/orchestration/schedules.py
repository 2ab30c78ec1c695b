"""Scheduled nights, kept in the home as one JSON file each."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from pipeline.config.base import Name
from pipeline.core.paths import Home
from pipeline.storage import state_files


class Schedule(BaseModel):
    """A night that comes back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """The data set's, as it is published."""
    dataset: str
    """Shipped name, or absolute path of a TOML."""
    recipe: str = "nightly"
    data: str | None = None
    cron: str
    timezone: str = "UTC"
    overrides: list[str] = []
    max_age: float | None = None
    """Hours after which `up` calls the published tables too old."""

    @field_validator("cron")
    @classmethod
    def _cron_is_one(cls, value: str) -> str:
        from prefect.client.schemas.schedules import CronSchedule

        try:
            CronSchedule(cron=value)
        except ValidationError:
            raise ValueError(f'{value!r} is no cron line: minute hour day month weekday, e.g. "0 3 * * *"') from None
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone_is_one(cls, value: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"{value!r} is no timezone, e.g. Europe/Vienna") from None
        return value


def schedules(home: Home) -> list[Schedule]:
    """All recorded nights of a home, by name; one that can't be read is told and left out."""
    found = []
    for path in sorted(folder(home).glob("*.json")):
        if (content := state_files.read(path, dict)) is None:
            continue
        try:
            night = Schedule.model_validate(content)
            if night.name == path.stem:
                found.append(night)
            else:
                state_files.skip(path, f"it is of {night.name}")
        except (ValidationError, ValueError) as error:
            state_files.skip(path, str(error))
    return found


def folder(home: Home) -> Path:
    """Where schedules are kept."""
    return home.warehouse / "schedules"


def path_of(home: Home, name: str) -> Path:
    """File of one data set's schedule."""
    return folder(home) / f"{name}.json"
