"""Whether destinations can be reached, and whether they have the live night; for `doctor`, `run --plan`, `status`."""

import threading
from collections.abc import Callable
from typing import TypeVar

from pipeline.config.destinations import Publish
from pipeline.core.console import log
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.destinations import record
from pipeline.destinations.errors import NotNow
from pipeline.destinations.places import Settings, check_place, explained, made, names_of, settings_now
from pipeline.destinations.published_file import live_night
from pipeline.storage import home_identity

CHECK_SECONDS = 10.0


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
