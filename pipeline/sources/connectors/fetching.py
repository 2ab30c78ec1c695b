"""Fetches what is not a file of this machine into a folder that a night then reads like any other data folder.

The folder holds the result of every query as Parquet, the downloaded objects under their URLs, and links to what is in
the data set's own folder. It belongs to one process, which holds a lock on it: rows of all users are in it, also of
forgotten ones, so it goes when the process ends. What a killed process left goes when the next night is prepared.
"""

import fcntl
import glob
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.dataset import Dataset, Reading
from pipeline.config.queries import check_url
from pipeline.core.console import log
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, write_atomically
from pipeline.core.redaction import without_users
from pipeline.sources.connectors import (
    fetched_objects,
    file_queries,
    object_stores,
    postgres_queries,
    query_results,
    sqlite_queries,
)
from pipeline.sources.connectors.file_queries import Limits
from pipeline.sources.connectors.problems import Where
from pipeline.storage import state_files

PREFIX = ".fetched-"
"""Hidden, so that backups leave it out."""
RECORD, LOCK = ".fetched.json", ".lock"
SECTIONS = ("source", "items", "users", "impressions")


@dataclass(frozen=True)
class Request:
    """What is fetched, and for whom."""

    dataset: Dataset
    toml: Path
    own: Path
    """The data set's own folder: relative paths are relative to it."""
    memory_limit: str | None = None
    threads: int = 0
    rows: int | None = None
    """Only so many rows of each query, for a look at them."""
    layer: Path | None = None
    """The data set's `1_raw`: what an incremental source has read there is not downloaded again."""


def is_needed(dataset: Dataset) -> bool:
    """Whether a section has a query, or files that are not on this machine."""
    return any(section.query is not None or _remote(section) for _, section in _sections(dataset))


def is_local(dataset: Dataset) -> bool:
    """Whether the interactions themselves are files of this machine."""
    return dataset.source.query is None and not _remote(dataset.source)


def check(dataset: Dataset, toml: Path) -> None:
    """Raise SettingsError if keys of a section contradict each other."""
    for name, section in _sections(dataset):
        if section.query is not None and section.files:
            raise Where(toml, name).setting("query", "files and query both say what is read: give one of them")
    if dataset.source.query is not None and dataset.source.mode == "incremental":
        raise Where(toml, "source").setting(
            "query", 'mode = "incremental" adds up files, and a query returns all rows each night: leave the mode out'
        )
    if dataset.published and not is_local(dataset):
        raise Where(toml, "source").setting("query", "a [published] split has files of its own: leave one of them out")


def fetch(request: Request, folder: Path) -> Dataset:
    """Fill `folder`, which exists and is empty, unless it is filled for the same request already.

    Returns the data set whose files are in it. Raises SettingsError and UnreadableInput that name the key.
    """
    dataset = request.dataset
    named = without_users(dataset.model_dump(mode="json"))
    asked = json.loads(json.dumps({"dataset": named, "own": str(request.own)}))
    before = state_files.read(folder / RECORD, dict)
    sections, notes = dict(_sections(dataset)), []
    if before is None or before.get("asked") != asked:
        _mirror(request.own, folder)
        for name, section in sections.items():
            notes += _fetch_section(request, folder, name, section)
        fault("fetch:before_record")
        write_atomically(folder / RECORD, json.dumps({"asked": asked, "notes": notes}))
        fault("fetch:after_record")
    found = {name: section.model_copy(update={"files": _files(name, section, request.own)})
             for name, section in sections.items()}  # fmt: skip
    return dataset.model_copy(update=found)


def notes_of(folder: Path) -> list[str]:
    """What was fetched into a folder, one sentence each; nothing for any other folder."""
    record = state_files.read(folder / RECORD, dict)
    return [str(note) for note in record["notes"]] if record else []


def own(folder: Path) -> None:
    """Create the folder, and hold a lock on it until this process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    with suppress(BlockingIOError):  # this process prepares the same night twice: under Prefect, and before
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def abandoned(parent: Path) -> Iterator[Path]:
    """Folders below `parent` whose process has ended without removing them."""
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        with suppress(OSError), (folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the process still has it otherwise
            yield folder


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes have fetched."""
    for folder in abandoned(parent):
        delete(folder)


def _sections(dataset: Dataset) -> Iterator[tuple[str, Reading]]:
    for name in SECTIONS:
        section = getattr(dataset, name)
        if section is not None:
            yield name, section


def _remote(section: Reading) -> list[str]:
    return [pattern for pattern in section.files if object_stores.is_remote(pattern)]


def _files(name: str, section: Reading, own: Path) -> list[str]:
    """Patterns of a section's files in the folder. What is above the data set's own folder is named absolutely."""
    if section.query is not None:
        return [_result(name)]
    return [
        f"{glob.escape(str(own))}/{pattern}"
        if ".." in Path(pattern).parts and not object_stores.is_remote(pattern)
        else pattern
        for pattern in section.files
    ]


def _result(name: str) -> str:
    return f"{name}.query.parquet"


def _mirror(own: Path, folder: Path) -> None:
    """Link everything in the data set's own folder, so that lists and catalogs there are found under their names."""
    for stale in folder.iterdir():
        if stale.name != LOCK:
            delete(stale)
    for entry in own.iterdir() if own.is_dir() else ():
        if not entry.name.startswith("."):
            (folder / entry.name).symlink_to(entry.absolute())


def _fetch_section(request: Request, folder: Path, name: str, section: Reading) -> list[str]:
    """Fetch what one section needs; returns what there is to note."""
    where, notes = Where(request.toml, name), []
    for pattern in _remote(section):
        known = _known(request) if name == "source" else None
        files, size, unchanged = object_stores.download(pattern, folder, where, known)
        if known and known.new and request.layer:
            fetched_objects.write(request.layer, known)
        kept = f"; {unchanged:,} unchanged since an earlier night were not downloaded" if unchanged else ""
        notes.append(f"{name}: {files:,} file{'s' * (files != 1)}, {size:,} bytes, of {pattern}{kept}")
    if section.query is not None:
        log.info(f"{name}: the query runs …")
        target = folder / _result(name)
        delete(target)  # a link to a file of that name
        fault("fetch:before_query")
        rows, place = _run(request, folder, section, target, where)
        fault("fetch:after_query")
        notes.append(f"{name}: {rows:,} rows of the query{place}")
    return notes


def _known(request: Request) -> "fetched_objects.Known | None":
    """Objects of an incremental source whose rows are kept; None for other sources."""
    if request.dataset.source.mode != "incremental" or request.layer is None:
        return None
    return fetched_objects.read(request.dataset, request.layer)


def _run(request: Request, folder: Path, section: Reading, target: Path, where: Where) -> tuple[int, str]:
    """Run a section's query; returns its number of rows, and where it ran."""
    limits = Limits(folder / ".spill", request.memory_limit, request.threads, request.rows)
    query, url, key = str(section.query), section.url, "url"
    if section.url_env:
        key, url = "url_env", os.environ.get(section.url_env)
        if not url:
            raise where.setting(key, f"the environment variable {section.url_env} is not set")
    if url is None:
        rows = file_queries.write(query, request.own, section.database, target, where, limits)
        return rows, f" on {section.database}" if section.database else ""
    try:
        check_url(url, f"the variable {section.url_env}" if section.url_env else key, may_have_password=True)
    except ValueError as error:
        raise where.setting(key, str(error)) from None
    if url.startswith("sqlite"):
        return sqlite_queries.write(query, url, request.own, target, where, limits), f" on {url}"
    server = postgres_queries.server_of(section, url, where)
    if request.rows is not None:
        query = f"SELECT * FROM ({query_results.trimmed(query)}) AS q LIMIT {request.rows}"
    return postgres_queries.write(query, server, target, where, limits), f" on {server.shown}"
