"""`nightrecs schedule`: nights to run at their hour, kept in the home as one JSON file each."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from flows.look import dataset_name, show
from flows.start import prepare, say_where
from pipeline import journal, layers, state_files
from pipeline.contracts import UnreadableInput
from pipeline.leftovers import delete
from pipeline.paths import Home
from pipeline.section import Name


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


def schedule(options: Any) -> None:
    """Record, list or remove a night."""
    home = Home.resolve(options.home)
    if options.dataset is None:
        show([s.model_dump(exclude={"overrides"}) for s in schedules(home)], options)
    elif options.remove:
        name = dataset_name(options.dataset)
        path = path_of(home, name)
        if not path.exists():
            known = ", ".join(s.name for s in schedules(home)) or "none"
            raise UnreadableInput(f"no night of {name!r} is scheduled; scheduled: {known}")
        delete(path)
        journal.say(f"{name} is no longer scheduled; a running `nightrecs up` refuses it from now on")
    else:
        record(home, options)


def record(home: Home, options: Any) -> None:
    """Check all that a night would check before it starts, then keep it."""
    if not options.cron:
        raise layers.SettingsError('say when: --cron "0 3 * * *" is every night at three')
    say_where(options.home)
    run = prepare(options.dataset, options.recipe, options.data, options.home, options.overrides)
    own = {key: absolute(getattr(options, key)) for key in ("dataset", "recipe", "data")}
    about = {"cron": options.cron, "timezone": options.timezone, "max_age": options.max_age}
    try:
        wanted = Schedule(name=run.dataset, **own, **about, overrides=options.overrides or [])
    except ValidationError as error:
        raise layers.SettingsError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    path = path_of(home, run.dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    journal.write_atomically(path, wanted.model_dump_json(indent=2))
    journal.say(f"{run.dataset}: {wanted.cron} ({wanted.timezone}), recipe {run.settings.recipe}, data {run.data}")
    journal.say("`nightrecs up` runs it; one that runs already takes a new night, or a new hour, at its next start")


def absolute(value: str | None) -> str | None:
    """A path as the server will find it from elsewhere; names of shipped things stay."""
    path = Path(value).expanduser() if value else None
    return str(path.resolve()) if path and path.exists() else value


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
