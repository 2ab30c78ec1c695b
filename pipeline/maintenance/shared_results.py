"""A shared lake between nights: what a home needs there, what may go, and the removal of a user's rows."""

import json
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.config.lake import Lake
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.destinations.health import LOOK_SECONDS, within
from pipeline.maintenance.home_search import look_into
from pipeline.sources.user_traces import Person
from pipeline.storage import forgotten_users, journal, shared_homes, state_files
from pipeline.storage.file_stores import Entry, Missing, StoreError
from pipeline.storage.garbage import Garbage
from pipeline.storage.shared_lake import MANIFEST, PROBES, SharedLake

ABSENT_DAYS = 30
"""After so many days without a night, a home no longer needs anything."""
DAY = 86_400.0
"""Seconds that an unfinished or new result of another home stays, whatever it is."""
ADVICE = "if it is gone for good, remove it from"
_RESULT = re.compile(r"([1-9]_\w+/[^/]+)/(.+)", re.DOTALL).fullmatch


def current(home: Home, dataset: str) -> SharedLake | None:
    """The shared lake of the newest night's settings."""
    for run_id in reversed(journal.run_ids(home, dataset)):
        if settings := journal.read_settings(home, dataset, run_id):
            try:
                chosen = Lake.model_validate(settings.get("lake") or {})
            except ValueError:
                continue
            return SharedLake(home, dataset, chosen) if chosen else None
    return None


def on_record(home: Home, dataset: str) -> Iterator[SharedLake]:
    """Every shared lake that a night of this home has used."""
    for url, place in (state_files.read(home.lakes(dataset), dict) or {}).items():
        yield SharedLake(home, dataset, Lake.model_validate({**place, "url": url}))


def begin(run: Run, needed: Iterable[Path]) -> list[str]:
    """Before a night uses its shared lake: put it on record, agree with other homes on users who are left out, and say
    which results this home needs. Returns what is to be noted. Raises UnreadableInput if it can't be reached.
    """
    settings = run.settings.lake
    shared = SharedLake(run.home, run.dataset, settings)
    known = state_files.read(run.home.lakes(run.dataset), dict) or {}
    wanted = {**known, settings.url: settings.model_dump(exclude={"url"})}
    if wanted != known:
        write_atomically(run.home.lakes(run.dataset), json.dumps(wanted, indent=1))
    try:
        note = shared_homes.agree_on_forgotten(shared)
        shared_homes.register(shared, _names(needed))
    except StoreError as error:
        raise UnreadableInput(f"lake.url {shared.url}: {masked(str(error))}") from None
    return [note] if note else []


def end(run: Run, needed: Iterable[Path]) -> None:
    """After a night: say which results this home needs. If the lake can't be reached, the next night does so."""
    shared = SharedLake(run.home, run.dataset, run.settings.lake)
    try:
        shared_homes.register(shared, _names(needed))
    except StoreError as error:
        log.info(f"{shared.url} does not know yet which results this home needs: {masked(str(error))}")


def leftovers(home: Home, dataset: str, needed: Iterable[Path], before: float) -> list[Garbage]:
    """What may go from the shared lake: results that no home needs and that are older than `before` (seconds since
    1970), files that killed nights left, and homes that have been absent for long. The caller holds the lock.
    """
    shared = current(home, dataset)
    if shared is None:
        return []
    try:
        return list(_leftovers(shared, set(_names(needed)), before))
    except StoreError as error:
        log.info(f"nothing is removed from {shared.url}: {masked(str(error))}")
        return []


def _leftovers(shared: SharedLake, needed: set[str], before: float) -> Iterator[Garbage]:
    entries = shared.store.entries()
    results: dict[str, dict[str, Entry]] = {}
    for key, entry in entries.items():
        if found := _RESULT(key):
            results.setdefault(found[1], {})[found[2]] = entry
    there = {each.id: each for each in shared_homes.others(shared)}
    absent = [each.id for each in there.values() if each.days > ABSENT_DAYS]
    present = [each for each in there.values() if each.days <= ABSENT_DAYS]
    kept = needed.union(*(each.needed for each in present))
    settled = time.time() - DAY if present else float("inf")
    for name, files in results.items():
        manifest = files.get(MANIFEST)
        if manifest and name not in kept and manifest.modified <= min(before, settled):
            yield _garbage(shared, name, files)
            continue
        token = _token(shared, name, files) if manifest else None
        stray = {
            rest: entry
            for rest, entry in files.items()
            if rest != MANIFEST
            and rest.split("/")[0] != token
            and (rest.startswith(f"{shared.home_id[:8]}-") or entry.modified <= settled)
        }
        if stray:
            yield _garbage(shared, name, stray)
    probes = {
        key: each for key, each in entries.items() if key.startswith(PROBES) and each.modified <= time.time() - DAY
    }
    homes = {key: entries[key] for key in (f"{shared_homes.HOMES}{each}.json" for each in absent) if key in entries}
    for key, entry in {**probes, **homes}.items():
        yield Garbage("lake", f"{shared.url}/{key}", entry.bytes, partial(shared.store.remove, [key]))


def _token(shared: SharedLake, name: str, files: dict[str, Entry]) -> str | None:
    """The token of a complete result. It is read only where there is a choice."""
    tokens = {rest.split("/")[0] for rest in files if "/" in rest}
    if len(tokens) < 2:
        return next(iter(tokens), None)
    read = shared.store.read(f"{name}/{MANIFEST}")
    try:
        return str(json.loads(read[0])["token"]) if read else None
    except (ValueError, KeyError, TypeError):
        return None


def _garbage(shared: SharedLake, name: str, files: dict[str, Entry]) -> Garbage:
    """Files of a result, the manifest first: one that is half removed is none."""
    keys = [f"{name}/{rest}" for rest in sorted(files, key=lambda rest: rest != MANIFEST)]
    size = sum(entry.bytes for entry in files.values())
    return Garbage("lake", f"{shared.url}/{name}", size, partial(shared.store.remove, keys))


def before_forgetting(home: Home, dataset: str) -> None:
    """Have the shared list of forgotten users before this home begins one of its own, which could not be merged.

    Raises UnreadableInput if it can't be had.
    """
    if home.forgotten(dataset).exists():
        return
    for shared in on_record(home, dataset):
        try:
            shared_homes.agree_on_forgotten(shared)
        except StoreError as error:
            raise UnreadableInput(
                f"the list of forgotten users in {shared.url} can't be read, so nothing was begun: "
                f"{masked(str(error))}. Try again; {ADVICE} {home.lakes(dataset)}"
            ) from None


def forgotten_elsewhere(home: Home, dataset: str) -> tuple[int, str] | None:
    """How many users other homes of the newest night's lake have forgotten since then, and its URL; None: no one, or
    the lake can't be reached.
    """
    shared = current(home, dataset)
    if shared is None:
        return None
    try:
        theirs, _ = within(LOOK_SECONDS, lambda: shared_homes.shared_list(shared.store, shared.url))
    except StoreError:
        return None
    new = theirs.hashes - forgotten_users.read(home, dataset).hashes
    return (len(new), shared.url) if new else None


def forget(home: Home, dataset: str) -> int:
    """Delete all results of the data set from every shared lake on record, also those of other homes, which then leave
    the user out, too. Returns how many. Raises StoreError, once all others are cleared, if one can't be reached.
    """
    deleted, failed = 0, list[str]()
    for shared in on_record(home, dataset):
        try:
            shared_homes.agree_on_forgotten(shared)
            keys = _with_rows(shared)
            shared.store.remove(sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")))
            deleted += sum(key.endswith(f"/{MANIFEST}") for key in keys)
        except StoreError as error:
            failed.append(f"{shared.url} may name the user: {masked(str(error))}; {ADVICE} {home.lakes(dataset)}")
    if failed:
        raise StoreError("; ".join(failed))
    return deleted


def search(home: Home, dataset: str, person: Person) -> list[str]:
    """What in the shared lakes on record names the user, or can't be searched, in words without the id."""
    found: list[str] = []
    for shared in on_record(home, dataset):
        try:
            with tempfile.TemporaryDirectory(prefix="nightrecs-search-") as folder:
                for number, key in enumerate(_with_rows(shared)):
                    path = Path(folder, f"{number}{''.join(Path(key).suffixes[-2:])}")
                    with suppress(Missing):  # another home removed it meanwhile
                        shared.store.get(key, path)
                    if not path.exists():
                        continue
                    found += [f"{shared.url}/{key}: {what}" for what in look_into(path, person)]
                    path.unlink(missing_ok=True)
            if odd := shared.store.odd_key:
                found.append(f"{shared.url}: the key {odd!r} has an empty part, so it can't be searched: remove it")
        except StoreError as error:
            found.append(f"{shared.url}: it could not be searched: {masked(str(error))}")
    return found


def _with_rows(shared: SharedLake) -> list[str]:
    """Everything of the data set there that may name a user."""
    own = (shared_homes.FORGOTTEN, shared_homes.HOMES, PROBES)
    return [key for key in shared.store.entries() if not key.startswith(own)]


def _names(folders: Iterable[Path]) -> list[str]:
    return sorted(f"{folder.parent.name}/{folder.name}" for folder in folders)
