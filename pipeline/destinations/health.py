"""Whether destinations can be reached, and what of the live night is there; for `doctor`, `run --plan`, `status`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.config.destinations import Publish
from pipeline.core.console import log
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.destinations import record
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.destinations.places import Settings, check_place, explained, made, names_of, settings_now
from pipeline.destinations.published_file import live_night
from pipeline.storage import home_identity

CHECK_SECONDS = 10.0
LOOK_SECONDS = 5.0
"""For `status`, which monitors call."""
SHOWN = 3
"""Missing parts that a message names."""


@dataclass(frozen=True)
class Look:
    """What a look at a destination found that has the live night on record."""

    damage: list[str]
    """What is missing, e.g. `table recommendations is missing`."""
    trouble: str | None = None
    """Why nothing could be seen."""

    def __str__(self) -> str:
        """`damaged: table recommendations is missing, table users has 12 of 300 rows`."""
        if self.trouble:
            return f"it can't be looked at now: {self.trouble}"
        more = f", and {len(self.damage) - SHOWN} more" if len(self.damage) > SHOWN else ""
        return f"damaged: {', '.join(self.damage[:SHOWN])}{more}"


def troubles(home: Home, dataset: str, busy: bool = False) -> list[str]:
    """What is wrong: destinations that lack the live night, or are no longer in the settings. Reaches none of them.

    `busy`: a night or a command holds the lock, and may be copying: only what has failed counts.
    """
    entries, wanted = record.read(home, dataset), names_of(settings_now(home, dataset), dataset)
    if not entries and not wanted:
        return []
    night = live_night(home, dataset)
    found: list[str] = []
    for name in wanted:
        entry = entries.get(name)
        if night is None or (entry and entry.has(night.run_id, night.sha256)):
            continue
        if busy and not (entry and entry.trouble):
            continue
        has = f"it has night {entry.run_id}" if entry and entry.run_id else "it has no night"
        users = ", and nights that name a user who is to be forgotten" if entry and entry.purge else ""
        why = f"; failing since {entry.since} UTC: {entry.trouble}" if entry and entry.trouble else ""
        found.append(f"{name} does not have the live night: {has}{users}{why}")
    return found + [
        f"{name} is no longer in the settings, and has tables of night {entry.run_id}: put it back, or remove what is "
        "there (`nightrecs destinations`)"
        for name, entry in entries.items()
        if name not in wanted and entry.address
    ]


def looks(home: Home, dataset: str, seconds: float | None = None) -> dict[str, Look]:
    """What is really there, by destination; of those whose record says that they have the live night.

    Each has `seconds` to answer, CHECK_SECONDS by default.
    """
    entries, wanted = record.read(home, dataset), names_of(settings_now(home, dataset), dataset)
    night, found = live_night(home, dataset) if entries else None, dict[str, Look]()
    if night is None:
        return found
    for name, settings in wanted.items():
        entry = entries.get(name)
        if entry is None or not entry.has(night.run_id, night.sha256):
            continue

        def look(settings: Settings = settings, address: str | None = entry.address) -> list[str]:
            destination = made(settings, dataset)
            if (now := destination.address()) != address:
                raise NotDelivered(f"the settings lead to {now} now, and the tables are at {address}")
            return destination.damage(night)

        try:
            found[name] = Look(within(CHECK_SECONDS if seconds is None else seconds, look))
        except Exception as error:
            found[name] = Look([], masked(explained(error)))
    return found


def damaged(home: Home, dataset: str) -> list[str]:
    """Destinations that have lost a part of the live night. One that does not answer is not among them.

    Each has LOOK_SECONDS to answer.
    """
    return [f"{name} is {look}" for name, look in looks(home, dataset, LOOK_SECONDS).items() if look.damage]


def check(home: Home, dataset: str, publish: Publish) -> list[tuple[str, str | None, str]]:
    """Name, trouble and what is there of each destination of `publish`; each has CHECK_SECONDS to answer."""
    identity = home_identity.read(home)
    found: list[tuple[str, str | None, str]] = []
    for name, settings in names_of(publish, dataset).items():

        def look(settings: Settings = settings) -> str:
            check_place(home, settings)
            return made(settings, dataset).check(identity.id if identity else None)

        try:
            found.append((name, None, within(CHECK_SECONDS, look)))
        except Exception as error:
            found.append((name, masked(explained(error)), ""))
    return found


def old_nights(home: Home, dataset: str) -> list[tuple[str, int, Callable[[], None]]]:
    """Nights beyond `keep` in a folder or bucket, and what killed copies left there: name, bytes, how to remove it.

    Nothing of a place that does not answer within CHECK_SECONDS; that is logged.
    """
    settings, identity = settings_now(home, dataset).parquet, home_identity.read(home)
    if settings is None or identity is None or f"parquet {settings.url}" not in record.read(home, dataset):
        return []
    from pipeline.destinations.parquet import Parquet

    place = Parquet(settings, dataset)
    try:
        check_place(home, settings)
        found = within(CHECK_SECONDS, lambda: place.leftovers(identity.id, settings.keep))
    except Exception as error:
        log.info(f"nothing is removed from {settings.url}: {masked(explained(error))}")
        return []
    return [
        (f"{settings.url}/nights/{name}", sum(files.values()), lambda files=files: place.remove_night(files))
        for name, files in found.items()
    ]


T = TypeVar("T")


def within(seconds: float, action: Callable[[], T]) -> T:
    """The result of an action that has so many seconds. After that it goes on in a thread that nothing waits for."""
    results: list[T] = []
    errors: list[Exception] = []

    def tried() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise NotNow(f"no answer within {seconds:g} s")
    return results[0]
