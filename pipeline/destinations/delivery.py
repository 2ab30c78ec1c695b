"""Brings the destinations of a data set up to date with the live night: after a night, a rollback, or a `forget`.

Callers hold the data set's lock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

from pipeline.config.destinations import Publish
from pipeline.core.console import log
from pipeline.core.fault_injection import fault
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.destinations import record
from pipeline.destinations.errors import NotDelivered
from pipeline.destinations.places import SETTINGS, Settings, check_place, explained, made, names_of, settings_now
from pipeline.destinations.published_file import live_night
from pipeline.destinations.record import Entry
from pipeline.storage import home_identity
from pipeline.storage.file_stores import StoreDown

PAUSES = (2.0, 5.0, 15.0, 30.0, 60.0)
"""Seconds between attempts; the last one repeats."""

LEAST_PATIENCE = 30.0
"""Seconds that an attempt waits for readers in any case."""


@dataclass(frozen=True)
class Delivery:
    """How a destination was brought up to date; `trouble`: why it was not."""

    name: str
    copied: bool
    seconds: float
    trouble: str | None = None


def deliver(
    home: Home, dataset: str, publish: Publish, say: Callable[[str], None] = log.info, patient: bool = True
) -> list[Delivery]:
    """Copy the live night to every destination of `publish` that lacks it.

    Destinations that do not answer are tried again for their `minutes`, unless `patient` is false. `say` gets notes
    about what differs there.
    """
    waiting = [_Attempts(home, dataset, name, settings, say) for name, settings in names_of(publish, dataset).items()]
    began, done = time.monotonic(), dict[str, Delivery]()
    for turn in count():
        pause = PAUSES[min(turn, len(PAUSES) - 1)]
        for each in waiting:
            left = 60 * each.settings.minutes * patient - (time.monotonic() - began)
            copied, trouble, may_help = each.attempt(max(left, LEAST_PATIENCE))
            if trouble is None or not may_help or left <= pause:
                done[each.name] = Delivery(each.name, copied, time.monotonic() - began, trouble)
        waiting = [each for each in waiting if each.name not in done]
        if not waiting:
            break
        time.sleep(pause)
    return list(done.values())


@dataclass(frozen=True)
class _Attempts:
    """Attempts to bring one destination up to date."""

    home: Home
    dataset: str
    name: str
    settings: Settings
    say: Callable[[str], None]

    def attempt(self, patience: float) -> tuple[bool, str | None, bool]:
        """Whether the night was copied, why it failed, and whether trying again may help."""
        try:
            return self._copied(patience), None, False
        except Exception as error:
            trouble = masked(explained(error))
            entry = record.read(self.home, self.dataset).get(self.name) or self._new_entry()
            record.write(self.home, self.dataset, replace(entry, trouble=trouble, since=entry.since or record.now()))
            return False, trouble, isinstance(error, StoreDown)

    def _copied(self, patience: float) -> bool:
        night = live_night(self.home, self.dataset)
        if night is None:
            raise NotDelivered("there is no live night, or its file was changed since (`nightrecs status`)")
        check_place(self.home, self.settings)
        destination = made(self.settings, self.dataset)
        destination.check(night.home_id)
        entry = self._entry_of(destination.address())  # before anything is there
        copied = destination.publish(night, patience, lambda line: self.say(f"{self.name}: {line}"), entry.purge)
        fault("deliver:before_record")
        at = record.now() if copied else entry.at or record.now()
        entry = replace(entry, run_id=night.run_id, sha256=night.sha256, at=at)
        record.write(self.home, self.dataset, replace(entry, trouble=None, since=None, purge=False))
        return copied

    def _entry_of(self, address: str) -> Entry:
        """The record of the destination at this address, written. One of another address stays: its tables do."""
        entries = record.read(self.home, self.dataset)
        entry, earlier = entries.get(self.name), entries.get(at_address(self.name, address))
        if entry and entry.address not in (None, address):
            record.write(self.home, self.dataset, replace(entry, name=at_address(self.name, str(entry.address))))
            entry = None
        if earlier:
            record.drop(self.home, self.dataset, earlier.name)
        entry = replace(earlier or entry or self._new_entry(), name=self.name, address=address)
        entry = replace(entry, settings=self.settings.model_dump(mode="json"))
        record.write(self.home, self.dataset, entry)
        return entry

    def _new_entry(self) -> Entry:
        return Entry(self.name, self.name.partition(" ")[0], self.settings.model_dump(mode="json"))


def at_address(name: str, address: str) -> str:
    """Name of the record of a destination that the same settings led to earlier."""
    return f"{name} @ {address}"


def clear_users(home: Home, dataset: str) -> list[str]:
    """Copy the rebuilt live night to every destination on record, and remove older nights there; for `forget`.

    Returns what could not be reached: it may name the user.
    """
    there = {name: entry for name, entry in record.read(home, dataset).items() if entry.address}
    for entry in there.values():
        record.write(home, dataset, replace(entry, purge=True))
    publish = settings_now(home, dataset)
    configured = names_of(publish, dataset)
    reached = {name.partition(" ")[0]: each for name, each in configured.items() if name in there}
    done = deliver(home, dataset, Publish.model_validate(reached), patient=False)
    left = [f"{each.name} may name the user: {each.trouble}" for each in done if each.trouble]
    return left + [
        f"{name} is no longer in the settings, and may name the user: remove what is there (`nightrecs destinations`), "
        "or put it back"
        for name in there
        if name not in configured
    ]


def remove(home: Home, dataset: str, name: str) -> bool:
    """Remove what was published to a destination on record, and its record; false if nothing was there.

    Raises NotDelivered, and KeyError for a name that is not on record.
    """
    entry, identity = record.read(home, dataset)[name], home_identity.read(home)
    removed = False
    if entry.address is not None and identity is not None:
        try:
            destination = made(SETTINGS[entry.kind].model_validate(entry.settings), dataset)
            if destination.address() != entry.address:
                raise NotDelivered(f"it was published to {entry.address}, and leads to {destination.address()} now")
            removed = destination.remove(identity.id)
        except Exception as error:
            raise NotDelivered(masked(explained(error))) from None
    record.drop(home, dataset, name)
    return removed
