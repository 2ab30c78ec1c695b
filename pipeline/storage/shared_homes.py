"""What the homes that share a lake tell each other: users whom all leave out, and which results each still needs."""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.run_ids import utcnow
from pipeline.storage import forgotten_users
from pipeline.storage.file_stores import AlreadyThere, Changed, FileStore, StoreDown, StoreError
from pipeline.storage.forgotten_users import Forgotten

if TYPE_CHECKING:
    from pipeline.storage.shared_lake import SharedLake

FORGOTTEN, HOMES = "forgotten.json", "homes/"


@dataclass(frozen=True)
class OtherHome:
    """A home that uses the lake."""

    id: str
    days: float
    """Since its last night."""
    needed: frozenset[str]
    """Results, as `<layer>/<name>`."""


def shared_list(store: FileStore, url: str) -> tuple[Forgotten, str | None]:
    """The users whom every home leaves out, and the version of the list. Raises StoreError if it is damaged."""
    found = store.read(FORGOTTEN)
    if found is None:
        return Forgotten(), None
    try:
        content = json.loads(found[0])
        return Forgotten(str(content["salt"]), frozenset(map(str, content["users"]))), found[1]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{url}/{FORGOTTEN} is damaged: remove it, and forget the users again") from None


def agree_on_forgotten(shared: "SharedLake") -> str | None:
    """Make the home's list and the shared one the union of both. Returns what is to be noted.

    Raises StoreError. The caller holds the lock of the home.
    """
    for _ in range(5):
        own = forgotten_users.read(shared.home, shared.dataset)
        theirs, version = shared_list(shared.store, shared.url)
        if own and theirs and own.salt != theirs.salt:
            raise StoreError(
                f"this home and the others of {shared.url} have forgotten users separately, so nobody can tell whether "
                "they are the same: use another URL for this home"
            )
        both = Forgotten(theirs.salt or own.salt, own.hashes | theirs.hashes)
        try:
            if both.hashes != theirs.hashes:
                _put(shared.store, FORGOTTEN, {"salt": both.salt, "users": sorted(both.hashes)}, version)
        except (Changed, AlreadyThere):
            continue
        if not (new := len(both.hashes - own.hashes)):
            return None
        forgotten_users.write(shared.home, shared.dataset, both)
        return (
            f"{new} users were forgotten in another home of {shared.url}: nights of this home leave them out "
            "from now on. Its earlier files name them until `nightrecs forget` is called here, too"
        )
    raise StoreDown(f"{shared.url}/{FORGOTTEN} is changed by other homes all the time")


def register(shared: "SharedLake", needed: list[str]) -> None:
    """Say which results this home needs. Raises StoreError. The caller holds the lock of the home."""
    key = f"{HOMES}{shared.home_id}.json"
    content = {"home": shared.home_id, "at": f"{utcnow():%Y-%m-%dT%H:%M:%S}", "needed": sorted(needed)}
    found = shared.store.read(key)
    try:
        _put(shared.store, key, content, found and found[1])
    except (Changed, AlreadyThere):
        raise StoreDown(f"{shared.url}/{key} was changed by another process") from None


def others(shared: "SharedLake") -> list[OtherHome]:
    """The other homes that have registered. Raises StoreError; one whose file is damaged needs nothing, for now."""
    found: list[OtherHome] = []
    for key in shared.store.entries(HOMES):
        read = shared.store.read(key)
        name = key.removeprefix(HOMES).removesuffix(".json")
        if read is None or name == shared.home_id or not key.endswith(".json"):
            continue
        try:
            content = json.loads(read[0])
            days = (utcnow() - dt.datetime.fromisoformat(str(content["at"]))).total_seconds() / 86_400
            found.append(OtherHome(name, days, frozenset(map(str, content["needed"]))))
        except (ValueError, KeyError, TypeError):
            found.append(OtherHome(name, 0.0, frozenset()))
    return found


def _put(store: FileStore, key: str, content: Mapping[str, object], version: str | None) -> None:
    text = json.dumps(content, indent=1).encode()
    if version is None:
        store.create(key, text)
    else:
        store.swap(key, text, version)
