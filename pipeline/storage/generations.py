"""Published generations: which one is live, the atomic swap to another one, and which ones may go."""

import os
from pathlib import Path

from pipeline.core.errors import Held, Refused
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sync
from pipeline.core.paths import Home
from pipeline.core.run_ids import utcnow
from pipeline.storage import checksums, journal, reader, warehouse
from pipeline.storage.copying import copy_file


def go_live(home: Home, dataset: str, run_id: str, again: bool = False) -> list[str]:
    """Make a copy of a generation the live file, atomically. Returns warnings.

    Nothing is done if that run is live already, unless `again`. Raises Refused if the generation is not the file that
    was published; the live file is then unchanged.
    """
    generation, live = home.generation(dataset, run_id), home.live(dataset)
    current, wanted = checksums.live_entry(home, dataset), checksums.read(home, dataset).generations.get(run_id)
    if not again and current and current.run_id == run_id and (not wanted or current.sha256 == wanted[-1]):
        return []
    temporary = live.with_name(f".{live.name}.next")
    temporary.unlink(missing_ok=True)
    fault("publish:before_link")
    copy_file(generation, temporary, 0o440)
    following = checksums.fingerprint(temporary, run_id)
    if wanted and following.sha256 not in wanted:
        temporary.unlink()
        raise Refused(f"{checksums.generation_trouble(home, dataset, run_id)}; the live tables are unchanged")
    if not wanted:  # of a home of an earlier version
        checksums.record_generation(home, dataset, run_id, following.sha256)
    checksums.record_live(home, dataset, *([current] if current else []), following)
    notes = set_logs_aside(live, run_id)  # DuckDB would refuse the new file next to an old log
    fault("publish:before_replace")
    os.replace(temporary, live)
    fault("publish:after_replace")
    sync(live.parent)
    checksums.record_live(home, dataset, following)
    return notes


def set_logs_aside(live: Path, before: str) -> list[str]:
    """Rename DuckDB's logs next to the live file. Returns a warning for each."""
    notes: list[str] = []
    for log in checksums.logs(live):
        aside = log.rename(log.with_name(f"{log.name}.stray-before-{before}"))
        notes.append(
            f"{log.name} was next to the live file: it was opened for writing; the log is set aside as {aside.name}"
        )
    return notes


def restore_live(home: Home, dataset: str, before: str | None = None) -> list[str]:
    """Restore the live file if it was changed after it was published. Returns warnings.

    The caller holds the lock. `before` is part of the names of files that are set aside. In homes of earlier
    versions the live file and its generation are one file; they become two here.
    """
    live = home.live(dataset)
    if not live.exists():
        return []
    notes = set_logs_aside(live, before or f"{utcnow():%Y%m%dT%H%M%S}")
    trouble = checksums.live_trouble(home, dataset, deep=True)
    run_id = checksums.last_live(home, dataset) if trouble else live_run_id(home, dataset)
    generation = home.generation(dataset, run_id) if run_id else None
    if run_id is None or generation is None or not generation.exists():
        return [*notes, f"{trouble}, and its generation is missing: the next night replaces it"] if trouble else notes
    if trouble or generation.samefile(live):
        try:
            notes += go_live(home, dataset, run_id, again=True)
        except Refused as refused:
            return [*notes, f"{trouble or live.name} can't be restored from its generation: {refused}"]
        return [*notes, f"{trouble}; it is restored from its generation"] if trouble else notes
    entry = checksums.live_entry(home, dataset)
    if entry is None or len(checksums.read(home, dataset).live) > 1:  # a copied home, or an interrupted swap
        checksums.record_live(home, dataset, entry or checksums.fingerprint(live, run_id))
    return notes


def live_run_id(home: Home, dataset: str) -> str | None:
    """The run that is live; None before the first publish.

    It is read from the recorded checksums. If the live file has changed since, or in homes of earlier versions, it is
    the generation that the live file is a link to, or the newest published run in the file.
    """
    live = home.live(dataset)
    if not live.exists():
        return None
    if entry := checksums.live_entry(home, dataset):
        return entry.run_id
    if linked := checksums.linked_generation(home, dataset):
        return linked
    try:
        with reader.open_file(live) as con:
            return con.sql("select max(run_id) from runs where outcome = 'published'").fetchall()[0][0]
    except (warehouse.DatabaseError, Held):  # the next run must be able to replace a file that can't be read
        return checksums.last_live(home, dataset)


def kept_generations(home: Home, dataset: str) -> list[str]:
    """Run ids of the generations that are or were live, oldest first: the possible targets of a rollback."""
    live = live_run_id(home, dataset)
    return [run_id for run_id in _generations(home, dataset) if run_id == live or _published(home, dataset, run_id)]


def old_generations(home: Home, dataset: str, keep: int) -> list[str]:
    """Run ids of generations to drop: all but the newest `keep` and the live one, and those that never went live."""
    live, kept = live_run_id(home, dataset), kept_generations(home, dataset)[-keep:]
    return [run_id for run_id in _generations(home, dataset) if run_id != live and run_id not in kept]


def _generations(home: Home, dataset: str) -> list[str]:
    return sorted(path.stem for path in home.generations(dataset).glob("[!.]*.duckdb"))


def _published(home: Home, dataset: str, run_id: str) -> bool:
    """Whether the run was published, by its journal; assumed if the journal is missing."""
    record = journal.find_run(home, dataset, run_id)
    return record is None or record["outcome"] == "published"


def drop_old_generations(home: Home, dataset: str, keep: int) -> None:
    """Delete the generations of `old_generations`, and the records of their checksums."""
    for run_id in old_generations(home, dataset, keep):
        home.generation(dataset, run_id).unlink()
    checksums.drop_removed(home, dataset)


OLDEST_READABLE = "v1.2.0"  # so that older DuckDB clients can open the file
UNFINISHED = (".*.building*", ".*.tmp")
"""Globs of files, and of folders with what DuckDB spilled, that a killed night leaves next to the generations."""
