"""Finds what is no longer needed: old generations, results in the lake, leftovers of dead nights, MLflow runs.

Never the live generation, what a rollback or the next night needs, files of incremental sources, or a journal.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

from pipeline.config.publishing import Keep
from pipeline.core.console import log
from pipeline.core.errors import Locked
from pipeline.core.filesystem import delete, unless_full
from pipeline.core.paths import Home
from pipeline.destinations import health
from pipeline.maintenance import shared_results
from pipeline.maintenance.rollback import next_target
from pipeline.sources.connectors import fetching
from pipeline.storage import checksums, journal, lake, state_files
from pipeline.storage.garbage import Garbage, of_path
from pipeline.storage.generations import kept_generations, live_run_id, old_generations
from pipeline.storage.lock import lock

LAYERS = "[1-9]_*"
SOURCE_FILES = "files"
"""Below `1_raw`: what incremental sources have read so far. It can't be read again, so it always stays."""


def keep_of(home: Home, dataset: str) -> Keep:
    """The `[keep]` of the newest night's settings; the defaults where there is none."""
    for run_id in reversed(journal.run_ids(home, dataset)):
        with suppress(ValueError):
            if settings := journal.read_settings(home, dataset, run_id):
                return Keep.model_validate(settings.get("keep", {}))
    return Keep()


def leftovers(home: Home, dataset: str, keep: Keep) -> list[Garbage]:
    """Everything that may go. The caller holds the lock, so files with temporary names belong to dead nights."""
    before = time.time() - keep.days * 86_400
    gone = set(old_generations(home, dataset, keep.generations))
    if keep.generations > 1:
        gone.discard(next_target(home, dataset) or "")
    old = [path for run_id in sorted(gone) if _older(path := home.generation(dataset, run_id), before)]
    generations = set(kept_generations(home, dataset)) - {path.stem for path in old}
    used = used_folders(home, dataset, needed_nights(home, dataset, keep, generations))
    unused = _unused(home, dataset, used)
    found = [_generation(home, dataset, path) for path in old]
    found += [of_path("lake", path, home.root) for path in unused if _older(path, before)]
    old = [path for path in _reports(home, dataset, keep, generations) if _older(path, before)]
    found += [of_path("report", path, home.root) for path in old]
    found += [of_path("temporary", path, home.root) for path in _temporary(home, dataset)]
    found += shared_results.leftovers(home, dataset, used, before)
    found += [Garbage("destination", *each) for each in health.old_nights(home, dataset)]
    return found + _in_mlflow(home, dataset, keep, generations, before)


def _generation(home: Home, dataset: str, path: Path) -> Garbage:
    """A published file; its checksum goes with it."""

    def remove() -> None:
        delete(path)
        with unless_full(f"the checksum of {path.name} stays in the record until the next night"):
            checksums.drop_removed(home, dataset)

    return replace(of_path("generation", path, home.root), remove=remove)


def needed_nights(home: Home, dataset: str, keep: Keep, generations: set[str]) -> list[str]:
    """Nights whose results in the lake stay: the newest, the live one, and of the kept `generations` the one a rollback
    would go to and those that are not yet logged to MLflow."""
    nights = journal.run_ids(home, dataset)
    needed = {*nights[-keep.lake_nights :], live_run_id(home, dataset), *({next_target(home, dataset)} & generations)}
    for run_id in generations & set(nights):
        if not journal.read_run(home, dataset, run_id).get("mlflow_run_id"):
            needed.add(run_id)
    return sorted(run_id for run_id in needed if run_id)


def used_folders(home: Home, dataset: str, run_ids: Iterable[str]) -> set[Path]:
    """Folders that these nights made or reused, and all of their parents."""
    root, used = home.lake(dataset), set[Path]()
    waiting = [root.joinpath(*Path(f).parts[-2:]) for run_id in run_ids for f in _named(home, dataset, run_id)]
    while waiting:
        folder = waiting.pop()  # its last two names: a home can be moved
        if folder not in used:
            used.add(folder)
            with suppress(OSError, ValueError, KeyError, TypeError):
                waiting += [root.joinpath(*Path(p).parts[-2:]) for p in lake.read_manifest(folder)["parents"]]
    return used


def _named(home: Home, dataset: str, run_id: str) -> list[str]:
    """Folders that a night's journal names."""
    listed = state_files.read_lines(home.journal(dataset) / run_id / "folders.txt")
    made: dict[str, object] = (journal.find_run(home, dataset, run_id) or {}).get("made") or {}
    for name, value in made.items():
        if name != "champion":
            several = cast("list[object]", value) if isinstance(value, list) else [value]
            listed += [item for item in several if isinstance(item, str)]
    return listed


def needed_folders(home: Home, dataset: str) -> set[Path]:
    """Results that stay by the `[keep]` of the newest night."""
    nights = needed_nights(home, dataset, keep_of(home, dataset), set(kept_generations(home, dataset)))
    return used_folders(home, dataset, nights)


def _unused(home: Home, dataset: str, used: set[Path]) -> Iterator[Path]:
    for folder in sorted(home.lake(dataset).glob(f"{LAYERS}/[!.]*")):
        if folder.is_dir() and folder not in used and folder.name != SOURCE_FILES:
            yield folder


def _reports(home: Home, dataset: str, keep: Keep, generations: set[str]) -> Iterator[Path]:
    """Reports of nights beyond `mlflow_nights`; `nightrecs report` writes them again from what is still stored."""
    needed = {*journal.run_ids(home, dataset)[-keep.mlflow_nights :], *generations}
    for path in sorted((home.reports / dataset).glob("*.html")):
        if path.stem not in needed:
            yield path


def _temporary(home: Home, dataset: str) -> Iterator[Path]:
    """Unfinished files of nights that ended; checkpoints stay while the newest night could resume from them."""
    nights = journal.run_ids(home, dataset)
    newest = journal.read_run(home, dataset, nights[-1]) if nights else {}
    # On a full disk a night that never ended is not closed yet
    resumable = bool(nights) and journal.as_ended(newest, live_run_id(home, dataset))["outcome"] == "crashed"
    for path in sorted(home.lake(dataset).glob(f"{LAYERS}/.*")):
        if not (resumable and path.name.startswith(".checkpoint-")):
            yield path
    yield from fetching.abandoned(home.lake(dataset) / lake.SOURCE)
    yield from sorted(home.generations(dataset).glob(".*"))
    yield from sorted(home.warehouse.glob(f".{dataset}.duckdb.next"))
    yield from sorted(home.journal(dataset).glob("*/.*.json.*"))
    for work in sorted(home.replays(dataset).glob(".[!.]*")):
        with suppress(Locked), unless_full(f"{work.name} can't be locked"), lock(Home(work), dataset, "gc", "command"):
            yield work  # a replay that was killed or refused


def _in_mlflow(home: Home, dataset: str, keep: Keep, generations: set[str], before: float) -> list[Garbage]:
    """Runs of nights beyond `mlflow_nights`; models and their nights stay as long as their generation."""
    nights = journal.run_ids(home, dataset)
    if not any(journal.read_run(home, dataset, run_id).get("mlflow_run_id") for run_id in nights):
        return []
    from pipeline.tracking import cleanup  # imports mlflow, which takes seconds

    newest = set(nights[-keep.mlflow_nights :])
    try:
        return cleanup.leftovers(home, dataset, newest, generations, before)
    except Exception as error:  # MLflow is a view: what else may go does not wait for it
        log.info(f"nothing is removed from MLflow: {type(error).__name__}: {error}")
        return []


def _older(path: Path, before: float) -> bool:
    return path.stat().st_mtime <= before
