"""Scheduled nights. The home keeps each in a JSON file of its own."""

import asyncio
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from pipeline.config.base import Name
from pipeline.core.errors import SettingsError
from pipeline.core.paths import Home
from pipeline.storage import state_files

RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
"""Of the fields of a cron line: minute, hour, day, month, weekday."""


class Schedule(BaseModel):
    """A night that runs at the times of a cron line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """Name of the data set, as it is published."""
    dataset: str
    """Shipped name, or absolute path of a TOML."""
    recipe: str = "nightly"
    data: str | None = None
    cron: str
    timezone: str = "UTC"
    overrides: list[str] = []
    max_age: float | None = None
    """Maximum age of the published tables in hours; `up` checks it."""

    @field_validator("cron")
    @classmethod
    def _cron_is_one(cls, value: str) -> str:
        if is_simple(value):
            return value
        from prefect.client.schemas.schedules import CronSchedule  # takes more than a second

        try:
            CronSchedule(cron=value)
        except ValidationError:
            raise ValueError(f'{value!r} is not a cron line: minute hour day month weekday, e.g. "0 3 * * *"') from None
        return value

    @field_validator("max_age")
    @classmethod
    def _age_is_one(cls, value: float | None) -> float | None:
        if value is not None and not value >= 0:
            raise ValueError(f"max_age = {value:g}: the maximum age of the tables is a number of hours from 0 on")
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone_is_one(cls, value: str) -> str:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a time zone, e.g. Europe/Vienna") from None
        return value


def is_simple(cron: str) -> bool:
    """Whether every field is `*` or a number in its range. Such a line is valid; Prefect checks all others."""
    fields = cron.split(" ")
    return len(fields) == len(RANGES) and all(
        field == "*" or (re.fullmatch("[0-9]{1,2}", field) and low <= int(field) <= high)
        for field, (low, high) in zip(fields, RANGES, strict=True)
    )


def check_comes(cron: str) -> None:
    """Raise SettingsError for a line that is never due, such as one for the 31st of February."""
    if is_simple(cron) and ("*" in cron.split(" ")[2:4] or int(cron.split(" ")[2]) <= 28):  # every month has the day
        return
    from prefect.server.schemas.schedules import CronSchedule  # takes seconds

    try:
        asyncio.run(CronSchedule(cron=cron).get_dates(1))
    except ValueError:  # of Prefect's parser: it finds no date
        raise SettingsError(
            f"--cron {cron!r} never comes: no month that it names has the day that it names; correct day or month"
        ) from None


def schedules(home: Home) -> list[Schedule]:
    """All scheduled nights of a home, by name. A file that can't be read is reported and left out."""
    found = []
    for path in sorted(folder(home).glob("*.json")):
        if (content := state_files.read(path, dict)) is None:
            continue
        try:
            night = Schedule.model_validate(content)
            if night.name == path.stem:
                found.append(night)
            else:
                state_files.skip(path, f"it belongs to {night.name}")
        except (ValidationError, ValueError) as error:
            state_files.skip(path, str(error))
    return found


def folder(home: Home) -> Path:
    """Folder of the schedules."""
    return home.warehouse / "schedules"


def path_of(home: Home, name: str) -> Path:
    """File of one data set's schedule."""
    return folder(home) / f"{name}.json"
