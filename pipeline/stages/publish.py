"""Swaps the live name to an audited generation: readers see the whole old file or the whole new one."""

import os
from pathlib import Path

from pipeline import journal, warehouse
from pipeline.paths import Home
from pipeline.run import Run

KEPT_GENERATIONS = 7


def publish_tables(run: Run, building: Path) -> Path:
    """Make the audited file a generation of its own, read-only, and the live one; returns the live name."""
    with journal.stage(run, "publish"):
        return _publish(run, building)


def _publish(run: Run, building: Path) -> Path:
    home, dataset = run.home, run.dataset
    generation = home.generation(dataset, run.run_id)
    journal.sync(building)
    building.chmod(0o440)
    building.rename(generation)
    journal.sync(generation.parent)
    go_live(home, dataset, run.run_id)
    journal.close_run(run, "published")
    drop_old_generations(home, dataset)
    return home.live(dataset)


def go_live(home: Home, dataset: str, run_id: str) -> None:
    """Point the live name at a generation, atomically."""
    generation, live = home.generation(dataset, run_id), home.live(dataset)
    if live.exists() and live.samefile(generation):
        return  # replacing a file by itself does nothing
    temporary = live.with_name(f".{live.name}.next")
    temporary.unlink(missing_ok=True)
    os.link(generation, temporary)
    stray = live.with_name(live.name + ".wal")
    if stray.exists():  # DuckDB would refuse the new file beside an old log
        stray.rename(live.with_name(f"{stray.name}.stray-before-{run_id}"))
    os.replace(temporary, live)
    journal.sync(live.parent)


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


def drop_old_generations(home: Home, dataset: str, keep: int = KEPT_GENERATIONS) -> None:
    """Delete all but the newest `keep` generations; never the live one."""
    live = live_run_id(home, dataset)
    for path in sorted(home.generations(dataset).glob("[!.]*.duckdb"))[:-keep]:
        if path.stem != live:
            path.unlink()
