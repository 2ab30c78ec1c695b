"""Swaps the live name to an audited generation: readers see the whole old file or the whole new one."""

import os
from pathlib import Path

from pipeline import journal, warehouse
from pipeline.faults import fault
from pipeline.paths import Home
from pipeline.run import Run


def publish_tables(run: Run, building: Path) -> Path:
    """Make the audited file a generation of its own, read-only, and the live one; returns the live name."""
    with journal.stage(run, "publish"):
        return _publish(run, building)


def _publish(run: Run, building: Path) -> Path:
    home, dataset = run.home, run.dataset
    generation = home.generation(dataset, run.run_id)
    journal.sync(building)
    building.chmod(0o440)
    fault("publish:before_rename")
    building.rename(generation)
    journal.sync(generation.parent)
    if aside := go_live(home, dataset, run.run_id):
        beside = "a DuckDB log lay beside the live file: somebody opened it for writing"
        journal.note(run, f"warning: {beside}; it is set aside as {aside.name}")
    fault("publish:before_close")
    journal.close_run(run, "published")
    fault("publish:before_drop")
    drop_old_generations(home, dataset, run.settings.keep.generations)
    return home.live(dataset)


def go_live(home: Home, dataset: str, run_id: str) -> Path | None:
    """Point the live name at a generation, atomically; where a stray log was set aside to, if there was one."""
    generation, live = home.generation(dataset, run_id), home.live(dataset)
    if live.exists() and live.samefile(generation):
        return None  # replacing a file by itself does nothing
    temporary = live.with_name(f".{live.name}.next")
    temporary.unlink(missing_ok=True)
    fault("publish:before_link")
    os.link(generation, temporary)
    stray = live.with_name(live.name + ".wal")
    aside = None
    if stray.exists():  # DuckDB would refuse the new file beside an old log
        aside = stray.rename(live.with_name(f"{stray.name}.stray-before-{run_id}"))
    fault("publish:before_replace")
    os.replace(temporary, live)
    fault("publish:after_replace")
    journal.sync(live.parent)
    return aside


def live_run_id(home: Home, dataset: str) -> str | None:
    """The night whose generation is live; None before the first publish.

    A home that was copied without its hard links has no such generation; then the live file says it itself.
    """
    live = home.live(dataset)
    if not live.exists():
        return None
    for generation in home.generations(dataset).glob("[!.]*.duckdb"):
        if generation.samefile(live):
            return generation.stem
    try:
        with warehouse.connect(live, read_only=True) as con:
            return con.sql("select max(run_id) from runs where outcome = 'published'").fetchall()[0][0]
    except warehouse.DatabaseError:
        return None  # a file that can't be read must not keep the next night from replacing it


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
