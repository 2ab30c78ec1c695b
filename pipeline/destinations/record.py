"""What each destination of a data set has, as far as this home knows: one JSON file next to the journal.

A destination that is no longer in the settings stays on record until it is removed or abandoned: its tables are still
there, so `forget` must know of it.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.core.run_ids import utcnow
from pipeline.storage import state_files


@dataclass(frozen=True)
class Entry:
    """The record of one destination. No text in it has credentials or ids."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Its section of the settings."""
    address: str | None = None
    """Where the tables are; None before the first publication."""
    run_id: str | None = None
    """Night that was copied there last."""
    sha256: str | None = None
    """Of the published file that it was copied from."""
    at: str | None = None
    """When, UTC."""
    trouble: str | None = None
    """Why the last attempt failed."""
    since: str | None = None
    """Since when attempts have failed, UTC."""
    purge: bool = False
    """Older nights there still name a user who is to be forgotten."""

    def has(self, run_id: str | None, sha256: str | None) -> bool:
        """Whether it has the night with this run id and published file."""
        return not self.purge and (self.run_id, self.sha256) == (run_id, sha256)


def read(home: Home, dataset: str) -> dict[str, Entry]:
    """Every destination on record, by name. Damaged entries are left out."""
    content = state_files.read(home.destinations(dataset), dict) or {}
    found: dict[str, Entry] = {}
    known = set(Entry.__dataclass_fields__)
    for name, values in content.items():
        if isinstance(values, dict) and isinstance(values.get("kind"), str):  # pyright: ignore
            kept = {key: value for key, value in values.items() if key in known}  # pyright: ignore
            found[name] = Entry(**{**kept, "name": name})
    return found


def write(home: Home, dataset: str, entry: Entry) -> None:
    """Add or replace an entry. The caller holds the lock."""
    _save(home, dataset, {**read(home, dataset), entry.name: entry})


def drop(home: Home, dataset: str, name: str) -> None:
    """Remove an entry. The caller holds the lock."""
    _save(home, dataset, {key: entry for key, entry in read(home, dataset).items() if key != name})


def _save(home: Home, dataset: str, entries: dict[str, Entry]) -> None:
    path = home.destinations(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: asdict(entry) for name, entry in entries.items()}
    write_atomically(path, masked(json.dumps(stored, indent=1)))


def now() -> str:
    """The time for an entry."""
    return utcnow().isoformat(timespec="seconds")
