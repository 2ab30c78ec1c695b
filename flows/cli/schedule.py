"""`nightrecs schedule`: records, lists and removes scheduled nights."""

from argparse import Namespace
from pathlib import Path

from pydantic import ValidationError

from flows.cli.output import show
from flows.orchestration.schedules import Schedule, check_comes, path_of, schedules
from flows.prepare import is_as_shipped, prepare, say_where
from pipeline.config.toml_files import is_shipped_name
from pipeline.core.console import log
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.filesystem import delete, write_atomically
from pipeline.core.paths import Home
from pipeline.datasets.names import dataset_name
from pipeline.stages import DATA_STAGES


def schedule(options: Namespace) -> None:
    """Record, list or remove a scheduled night."""
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
        log.info(f"{name} is no longer scheduled; a running `nightrecs up` refuses it from now on")
    else:
        record(home, options)


def record(home: Home, options: Namespace) -> None:
    """Check everything that a night checks before it starts, then record the schedule."""
    if not options.cron:
        raise SettingsError('--cron is missing; --cron "0 3 * * *" is every night at three')
    say_where(options.home)
    places = options.dataset, options.recipe, options.data, options.home, options.overrides
    run = prepare(*places, until=DATA_STAGES[-1])  # without the checks of models, which import torch
    if not is_as_shipped(run.settings, options.dataset, options.recipe):
        run = prepare(*places, run_id=run.run_id)
    own = {key: file_of(getattr(options, key)) for key in ("dataset", "recipe")} | {"data": absolute(options.data)}
    about = {"cron": options.cron, "timezone": options.timezone, "max_age": options.max_age}
    try:
        wanted = Schedule(name=run.dataset, **own, **about, overrides=options.overrides or [])
    except ValidationError as error:
        raise SettingsError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    check_comes(wanted.cron)
    path = path_of(home, run.dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, wanted.model_dump_json(indent=2))
    log.info(f"{run.dataset}: {wanted.cron} ({wanted.timezone}), recipe {run.settings.recipe}, data {run.origin}")
    log.info("`nightrecs up` runs it; one that runs already takes a new night, or a new hour, at its next start")


def file_of(value: str) -> str:
    """The absolute path of a TOML. Names of shipped ones stay, whatever the current folder has of that name."""
    return value if is_shipped_name(value) else str(Path(value).expanduser().resolve())


def absolute(value: str | None) -> str | None:
    """An absolute path, so that the server finds it from another folder."""
    return str(Path(value).expanduser().resolve()) if value else value
