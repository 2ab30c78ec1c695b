"""Published generations: which one is live, the atomic swap to another one, and which ones may go."""

import os
from pathlib import Path

from pipeline.config.run import utcnow
from pipeline.core.errors import Held, Refused
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sync
from pipeline.core.paths import Home
from pipeline.storage import checksums, journal, reader, warehouse
from pipeline.storage.copying import copy_file


def go_live(home: Home, dataset: str, run_id: str, again: bool = False) -> list[str]:
    """Make a copy of a generation the live file, atomically; returns what a person should know.

    Where that night is live already nothing is done, unless `again`. Raises Refused where the generation is not the
    file that was published; then the live file is as it was.
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
        raise Refused(f"{checksums.generation_trouble(home, dataset, run_id)}; the live tables are as they were")
    if not wanted:  # of a home of an earlier version
        checksums.record_generation(home, dataset, run_id, following.sha256)
    checksums.record_live(home, dataset, *([current] if current else []), following)
    said = set_logs_aside(live, run_id)  # DuckDB would refuse the new file next to an old log
    fault("publish:before_replace")
    os.replace(temporary, live)
    fault("publish:after_replace")
    sync(live.parent)
    checksums.record_live(home, dataset, following)
    return said


def set_logs_aside(live: Path, before: str) -> list[str]:
    """Rename DuckDB's logs next to the live file; returns what to say of each."""
    said = []
    for log in checksums.logs(live):
        aside = log.rename(log.with_name(f"{log.name}.stray-before-{before}"))
        said.append(
            f"{log.name} was next to the live file: somebody opened it for writing; it is set aside as {aside.name}"
        )
    return said


def restore_live(home: Home, dataset: str, before: str | None = None) -> list[str]:
    """Make the live file what was published again, where somebody changed it; returns what a person should know.

    The caller holds the lock. `before` names what is set aside. In homes of earlier versions the live file and its
    generation are one file; they become two here.
    """
    live = home.live(dataset)
    if not live.exists():
        return []
    said = set_logs_aside(live, before or f"{utcnow():%Y%m%dT%H%M%S}")
    trouble = checksums.live_trouble(home, dataset, deep=True)
    run_id = checksums.last_live(home, dataset) if trouble else live_run_id(home, dataset)
    generation = home.generation(dataset, run_id) if run_id else None
    if run_id is None or generation is None or not generation.exists():
        return [*said, f"{trouble}, and its generation is gone: the next night replaces it"] if trouble else said
    if trouble or generation.samefile(live):
        try:
            said += go_live(home, dataset, run_id, again=True)
        except Refused as refused:
            return [*said, f"{trouble or live.name} can't be made from its generation: {refused}"]
        return [*said, f"{trouble}; it is restored from its generation"] if trouble else said
    entry = checksums.live_entry(home, dataset)
    if entry is None or len(checksums.read(home, dataset).live) > 1:  # a copied home, or a swap that was cut short
        checksums.record_live(home, dataset, entry or checksums.fingerprint(live, run_id))
    return said


def live_run_id(home: Home, dataset: str) -> str | None:
    """The night that is live; None before the first publish.

    By the record of checksums; where the live file has changed since, or in homes of earlier versions, it is the
    generation of which the live name is a link, or what the file says of itself.
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
    except (warehouse.DatabaseError, Held):  # a file that can't be read must not keep the next night from replacing it
        return checksums.last_live(home, dataset)


def kept_generations(home: Home, dataset: str) -> list[str]:
    """Run ids of the generations that are or were live, oldest first: those that a rollback may go to."""
    live = live_run_id(home, dataset)
    return [run_id for run_id in _generations(home, dataset) if run_id == live or _published(home, dataset, run_id)]


def old_generations(home: Home, dataset: str, keep: int) -> list[str]:
    """All but the newest `keep` of those, and never the live one; what a night that died before the swap left goes."""
    live, kept = live_run_id(home, dataset), kept_generations(home, dataset)[-keep:]
    return [run_id for run_id in _generations(home, dataset) if run_id != live and run_id not in kept]


def _generations(home: Home, dataset: str) -> list[str]:
    return sorted(path.stem for path in home.generations(dataset).glob("[!.]*.duckdb"))


def _published(home: Home, dataset: str, run_id: str) -> bool:
    """Whether its journal says so; where that is gone, nothing speaks against it."""
    record = journal.find_run(home, dataset, run_id)
    return record is None or record["outcome"] == "published"


def drop_old_generations(home: Home, dataset: str, keep: int) -> None:
    """Delete them."""
    for run_id in old_generations(home, dataset, keep):
        home.generation(dataset, run_id).unlink()


OLDEST_READABLE = "v1.2.0"  # so that older DuckDB clients can open the file
