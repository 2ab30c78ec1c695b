"""The flow that `up` serves: a night as `nightrecs schedule` recorded it, whatever parameters a run has."""

from typing import Any

from prefect import flow
from prefect.states import Failed

from flows.failed_start import recording
from flows.orchestration.schedules import Schedule, schedules
from flows.prepare import prepare
from flows.tasks import conduct_as_flow, flow_run, name_of_run
from pipeline.core.errors import OURS, SettingsError
from pipeline.core.paths import Home
from pipeline.core.redaction import masked

ADJUSTABLE = ("budget.minutes", "seed")
"""Settings that a single flow run may override. None of them changes what is read, where it is written, or what is
checked before it is published."""


@flow(name="nightly", flow_run_name=name_of_run, persist_result=False, log_prints=False)
def scheduled(schedule: str, home: str, overrides: list[str] | None = None) -> Any:
    """A scheduled night; data set, recipe and data are as recorded, and only budget.minutes and seed can be set."""
    try:
        place, night = recorded(schedule, home)
        wanted = [*night.overrides, *allowed(overrides)]
        asked = (night.dataset, night.recipe, night.data, str(place.root), wanted)
        with recording(*asked):
            run = prepare(*asked)
        return conduct_as_flow(run.model_copy(update={"flow_run_id": flow_run.id}))
    except OURS as error:  # the message is for users; a traceback would hide it
        return Failed(message=masked(str(error)), data=error)


def recorded(schedule: str, home: str) -> tuple[Home, Schedule]:
    """The home of this process and its schedule of that name; SettingsError for any other home or name."""
    place = Home.resolve()
    if home != str(place.root):
        raise SettingsError(f"these are the nights of {place.root}, not of {home}")
    for night in schedules(place):
        if night.name == schedule:
            return place, night
    raise SettingsError(f"no night of {schedule!r} is scheduled in {place.root}")


def allowed(overrides: list[str] | None) -> list[str]:
    """The overrides of a flow run; SettingsError if one is not ADJUSTABLE."""
    for override in overrides or []:
        if override.partition("=")[0].strip() not in ADJUSTABLE:
            raise SettingsError(
                f"{override!r} can't be set for one run of a scheduled night, only {' and '.join(ADJUSTABLE)}; "
                "`nightrecs schedule --set` sets it for all"
            )
    return list(overrides or [])
