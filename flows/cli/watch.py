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
        """Check all data sets, at most once a minute."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + SECONDS
        for night in self.nights:
            trouble = "; ".join(problems(self.home, night))
            if trouble != self.known.get(night.name, ""):
                text = (
                    f"nightrecs: {night.name} is not well: {trouble}" if trouble else f"nightrecs: {night.name} is well"
                )
                log.info(text)
                for failed in notifications.send(text, {"dataset": night.name, "home": str(self.home.root)}):
                    log.info(failed)
                self.known[night.name] = trouble


def problems(home: Home, night: Schedule) -> list[str]:
    """The problems that `status` finds, and tables older than the schedule allows; none before the first night."""
    try:
        found = health(home, night.name, live_run_id(home, night.name))
    except UnreadableInput:
        return []
    if found["running"]:
        return []
    age = about_tables(home, night.name)["age_hours"]
    if night.max_age is not None and age is not None and age > night.max_age:
        found["problems"].append(f"the tables are {age:.0f} hours old, more than {night.max_age:g}")
    return found["problems"]
