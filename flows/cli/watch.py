"""Monitors scheduled nights from another process, so that killed nights are reported too."""

import time

from flows.cli.status import about_tables, health
from flows.orchestration.schedules import Schedule
from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.reporting import notifications
from pipeline.storage.generations import live_run_id

SECONDS = 60


class Watch:
    """Notifies once when a data set becomes unhealthy, and once when it is healthy again."""

    def __init__(self, home: Home, nights: list[Schedule]):
        self.home, self.nights = home, nights
        self.known: dict[str, str] = {}
        self.next = 0.0

    def look(self) -> None:
        """Check all data sets, at most once a minute. An error in it is reported like a problem: `up` goes on."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + SECONDS
        for night in self.nights:
            try:
                found = problems(self.home, night)
            except Exception as error:  # a file that changed while it was read, a file system that is gone
                found = [f"its state can't be read: {type(error).__name__}: {error}"]
            if found is None:
                continue
            trouble = "; ".join(found)
            if trouble != self.known.get(night.name, ""):
                text = (
                    f"nightrecs: {night.name} is not well: {trouble}" if trouble else f"nightrecs: {night.name} is well"
                )
                log.info(text)
                for failed in notifications.send(text, {"dataset": night.name, "home": str(self.home.root)}):
                    log.info(failed)
                self.known[night.name] = trouble


def problems(home: Home, night: Schedule) -> list[str] | None:
    """The problems that `status` finds, and tables older than the schedule allows; none before the first night.

    None while a night runs and the tables are not too old: its outcome decides. The texts of a problem stay the same
    as long as it lasts.
    """
    try:
        found = health(home, night.name, live_run_id(home, night.name))
    except UnreadableInput:
        return []
    tables = about_tables(home, night.name)
    old: list[str] = []
    if night.max_age is not None and tables["age_hours"] is not None and tables["age_hours"] > night.max_age:
        made = tables["generated_at"]
        old = [f"the tables of {made:%Y-%m-%d %H:%M} UTC are older than {night.max_age:g} hours"]
    if found["running"]:
        return old or None
    return [*found["problems"], *old]
