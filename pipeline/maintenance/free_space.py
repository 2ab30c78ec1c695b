"""Whether the disks of a home have room for a data set's next night, by what its last published night wrote."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.mounts import file_system
from pipeline.core.paths import Home
from pipeline.schemas import tables
from pipeline.storage import journal, state_files

LEAST = 16 * 2**20
"""Bytes that any night needs: its journal, MLflow's records, the report."""
MANIFEST = "manifest.json"
"""Of storage.lake, which imports pydantic: `status` starts without it."""
SHARING = {"btrfs", "xfs"}
"""File systems on which the live file may share its blocks with the generation (storage.copying)."""


@dataclass(frozen=True)
class Room:
    """The disk of a home that is the fullest for a night."""

    place: Path
    """A folder on it."""
    free: int
    """Bytes that a user other than root may write."""
    needed: int
    """Bytes that the last published night wrote there, or LEAST. Results that it reused do not count."""

    @property
    def trouble(self) -> str | None:
        """What is wrong; None if there is room. The text stays the same while the disk fills further."""
        if self.free >= self.needed:
            return None
        return (
            f"the disk of {self.place} is too full for the next night, which needs about {self.needed / 1e6:,.0f} MB "
            "there: free some space; `nightrecs gc` removes what is no longer needed"
        )


def room(home: Home, dataset: str, live: str | None) -> Room:
    """The disk with the least room for the next night. `live`: run id of the published night."""
    needed: dict[int, int] = {}
    places: dict[int, Path] = {}
    for folder, size in _writes(home, dataset, live):
        place = existing(folder)
        disk = disk_of(place)
        places.setdefault(disk, place)
        needed[disk] = needed.get(disk, 0) + size
    found = [Room(place, free_bytes(place), max(LEAST, needed[disk])) for disk, place in places.items()]
    return min(found, key=lambda each: each.free - each.needed)


def _writes(home: Home, dataset: str, live: str | None) -> Iterator[tuple[Path, int]]:
    """Folders of the home and the bytes that a night writes there."""
    published = home.live(dataset).stat().st_size if home.live(dataset).exists() else 0
    yield home.warehouse, 0 if file_system(existing(home.warehouse)) in SHARING else published
    yield home.generations(dataset), published
    yield home.lake(dataset), made_bytes(home, dataset, live) if live else 0


def made_bytes(home: Home, dataset: str, run_id: str) -> int:
    """Bytes of the results in the lake that a night made itself, as far as they are still there."""
    stages = journal.read(home, dataset, tables.STAGES, run_id)
    made = set(stages.filter(~stages["skipped"])["stage"])
    total = 0
    for name in dict.fromkeys(state_files.read_lines(home.journal(dataset) / run_id / "folders.txt")):
        folder = home.lake(dataset) / name
        with suppress(OSError, ValueError, KeyError, TypeError):  # removed by gc, or damaged
            if state_files.load(folder / MANIFEST, dict)["stage"] in made:
                total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return total


def disk_of(place: Path) -> int:
    """Number of the file system of a folder."""
    return place.stat().st_dev


def free_bytes(place: Path) -> int:
    """Free bytes of the disk of a folder, for a user other than root."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def existing(path: Path) -> Path:
    """The nearest existing path at or above `path`."""
    return next(place for place in (path, *path.parents) if place.exists())
