"""Checksums of published files, recorded when they go live, in one JSON file per data set.

The live file is a copy of its generation, so the file also records which run is live. A file with the recorded size
and modification time is assumed to be unchanged. Its SHA-256 is computed if they differ, if the file is small, or if
the caller asks for it.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.core import filesystem
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home

SMALL = 32 * 2**20
"""Largest size in bytes of a file whose checksum is always computed."""
LOGS = (".wal", ".wal.checkpoint", ".wal.recovery")
"""Suffixes of DuckDB's logs. A published file must have none: DuckDB would replay it for every reader."""


@dataclass(frozen=True)
class Live:
    """The live file as it was published."""

    run_id: str
    sha256: str
    bytes: int
    mtime_ns: int

    def looks_like(self, path: Path) -> bool:
        """Whether a file has the recorded size and modification time."""
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.bytes, self.mtime_ns)


@dataclass(frozen=True)
class Record:
    """Checksums of one data set. During a swap there are two values: the old one and the new one."""

    generations: dict[str, list[str]]
    """SHA-256 by run id."""
    live: list[Live]


def read(home: Home, dataset: str) -> Record:
    """The recorded checksums; empty for a home of an earlier version, or if the file can't be read."""
    try:
        stored = json.loads(home.checksums(dataset).read_text())
        generations = {str(run_id): [str(d) for d in digests] for run_id, digests in stored["generations"].items()}
        return Record(generations, [Live(**entry) for entry in stored["live"]])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Record({}, [])


def _write(home: Home, dataset: str, record: Record) -> None:
    path = home.checksums(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"generations": record.generations, "live": [asdict(entry) for entry in record.live]}
    write_atomically(path, json.dumps(stored, indent=1))


def record_generation(home: Home, dataset: str, run_id: str, *digests: str) -> None:
    """Record a generation, and drop the records of generations that no longer exist."""
    record = read(home, dataset)
    kept = _existing(home, dataset, record)
    _write(home, dataset, replace(record, generations={**kept, run_id: list(digests)}))


def drop_removed(home: Home, dataset: str) -> None:
    """Drop the records of generations that no longer exist."""
    record = read(home, dataset)
    kept = _existing(home, dataset, record)
    if kept != record.generations:
        _write(home, dataset, replace(record, generations=kept))


def _existing(home: Home, dataset: str, record: Record) -> dict[str, list[str]]:
    return {name: of for name, of in record.generations.items() if home.generation(dataset, name).exists()}


def record_live(home: Home, dataset: str, *live: Live) -> None:
    """Record the live file; before a swap, the old one and the new one."""
    _write(home, dataset, replace(read(home, dataset), live=list(live)))


def fingerprint(path: Path, run_id: str) -> Live:
    """The record for a file that is, or is about to be, live."""
    stat = path.stat()
    return Live(run_id, filesystem.sha256(path), stat.st_size, stat.st_mtime_ns)


def live_entry(home: Home, dataset: str) -> Live | None:
    """The record that matches the size and modification time of the live file."""
    live, record = home.live(dataset), read(home, dataset)
    while True:
        if entry := next((entry for entry in record.live if live.exists() and entry.looks_like(live)), None):
            return entry
        before, record = record, read(home, dataset)
        if record == before:  # else a run swapped the file between the two reads
            return None


def last_live(home: Home, dataset: str) -> str | None:
    """The run that was live last according to the record, whatever happened to the live file."""
    entries = read(home, dataset).live
    return entries[0].run_id if entries else None


def linked_generation(home: Home, dataset: str) -> str | None:
    """The generation that the live file is a hard link to, as earlier versions of Nightrecs published it."""
    live = home.live(dataset)
    paths = home.generations(dataset).glob("[!.]*.duckdb")
    return next((path.stem for path in paths if live.exists() and path.samefile(live)), None)


def logs(path: Path) -> list[Path]:
    """DuckDB's logs next to a published file: it was opened for writing, or they were put there."""
    return [log for suffix in LOGS if (log := path.with_name(path.name + suffix)).exists()]


def live_trouble(home: Home, dataset: str, deep: bool = False) -> str | None:
    """How the live file differs from what was published; None if it doesn't, or if nothing is recorded.

    `deep` always computes the checksum. Nothing is recorded for a live file that is a link to a generation, as
    earlier versions published it.
    """
    live, entry, record = home.live(dataset), live_entry(home, dataset), read(home, dataset)
    if not record.live or not live.exists() or (entry is None and linked_generation(home, dataset)):
        return None
    if entry and not deep and entry.bytes > SMALL:
        return None
    found = filesystem.sha256(live)
    wanted = [entry.sha256] if entry else [entry.sha256 for entry in record.live]
    if found in wanted:
        return None
    return f"{live.name} was changed after it was published (SHA-256 {found[:12]}…, published {wanted[0][:12]}…)"


def generation_trouble(home: Home, dataset: str, run_id: str) -> str | None:
    """How a generation differs from what was published; None if it doesn't, or if nothing is recorded."""
    wanted, path = read(home, dataset).generations.get(run_id), home.generation(dataset, run_id)
    if not wanted or (found := filesystem.sha256(path)) in wanted:
        return None
    name = f"{path.parent.name}/{path.name}"
    return f"generation {name} was changed after it was published (SHA-256 {found[:12]}…, published {wanted[0][:12]}…)"
