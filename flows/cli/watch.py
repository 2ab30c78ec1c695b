"""Monitors scheduled nights from another process, so that killed nights are reported too."""

import re
import time
from collections.abc import Iterable

from flows.cli.status import about_tables, health
from flows.orchestration.schedules import Schedule
from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.reporting import notifications
from pipeline.storage.generations import live_run_id

SECONDS = 60
_PROCESS = re.compile(r"\b(process|PID) \d+", re.IGNORECASE)
_UNREADABLE = "its state can't be read: "


class Watch:
    """Notifies once when a data set becomes unhealthy, and once when it is healthy again."""

    def __init__(self, home: Home, nights: list[Schedule]):
        self.home, self.nights = home, nights
        self.known: dict[str, dict[str, str]] = {}
        """By data set: the texts of its problems that were sent, by `_kind`."""
        self.next = 0.0

    def look(self) -> None:
        """Check all data sets, at most once a minute. An error in it is reported like a problem: `up` goes on."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + SECONDS
        for night in self.nights:
            known = self.known.get(night.name, {})
            try:
                texts = problems(self.home, night, known.values())
            except Exception as error:  # a file that changed while it was read, a file system that is gone
                texts = [*known.values(), f"{_UNREADABLE}{type(error).__name__}: {error}"]
            found = {_kind(text): text for text in texts}
            if found.keys() != known.keys():
                trouble = "; ".join(found.values())
                text = (
                    f"nightrecs: {night.name} is not well: {trouble}" if trouble else f"nightrecs: {night.name} is well"
                )
                log.info(text)
                for failed in notifications.send(text, {"dataset": night.name, "home": str(self.home.root)}):
                    log.info(failed)
                self.known[night.name] = found


def _kind(problem: str) -> str:
    """The text without what varies while the problem lasts: ids of processes, and the file that an error names."""
    if problem.startswith(_UNREADABLE):
        return _UNREADABLE + problem.removeprefix(_UNREADABLE).partition(":")[0]
    return _PROCESS.sub(r"\1", problem)


def problems(home: Home, night: Schedule, known: Iterable[str] = ()) -> list[str]:
    """The problems that `status` finds, and tables older than the schedule allows; none before the first night.

    While a night runs: those that are `known`, as its outcome decides, and tables that are too old.
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
        return list(dict.fromkeys([*known, *old]))
    return [*found["problems"], *old]
