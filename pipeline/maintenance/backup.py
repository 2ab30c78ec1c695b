"""Writes a home into one file, under the locks of all its data sets.

In it: published files, journals, the lake, reports, replays, schedules, MLflow's database and artifacts. Not in it, as
it is made again: what is temporary, locks, logs, the state of running services, and Prefect's folder with its database
and the auth string. So it has no secrets of services. It has user ids: its mode is 0600.
"""

import fcntl
import os
import shutil
import sqlite3
import stat
import tarfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.config.run import utcnow
from pipeline.core.code_version import code_version
from pipeline.core.console import log
from pipeline.core.errors import Locked, UnreadableInput
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sync
from pipeline.core.paths import Home
from pipeline.maintenance import archive
from pipeline.maintenance.rollback import between_nights
from pipeline.storage import home_identity, operation_log, sqlite_files

MLFLOW_DB = "mlflow/mlflow.db"


@dataclass(frozen=True)
class Backup:
    """A backup that was written."""

    file: Path
    bytes: int
    files: int
    datasets: tuple[str, ...]


def datasets_of(home: Home) -> list[str]:
    """Every data set of a home."""
    root = home.journal("_").parent
    journals = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set[str]()
    return sorted(journals | {path.stem for path in home.warehouse.glob("[!.]*.duckdb")})


def back_up(home: Home, file: Path) -> Backup:
    """Write a backup of `home` to `file`, which must not exist and must be outside the home.

    It appears under its name once it is complete. Raises UnreadableInput where it can't be written there, and Locked
    where a night or a command is running.
    """
    datasets = datasets_of(home)
    if not datasets:
        raise UnreadableInput(f"{home.root} is no home, or nothing was ever run in it")
    file = _checked(home, file)
    with ExitStack() as held:
        for dataset in datasets:
            held.enter_context(between_nights(home, dataset, "backup"))
        with _unfinished(file) as (part, opened):
            paths = list(_files(home, datasets))
            _check_space(paths, file)
            count = _write(home, datasets, paths, part, opened)
            fault("backup:before_rename")
            _publish(part, file)
        for dataset in datasets:
            operation_log.record(home, dataset, "backup", file=str(file))
    return Backup(file, file.stat().st_size, count, tuple(datasets))


def known_backups(home: Home, dataset: str) -> list[str]:
    """Paths of the backups that were made of this home and are still there, oldest first."""
    files = (entry.get("file") for entry in operation_log.read(home, dataset, "backup"))
    return [file for file in dict.fromkeys(files) if isinstance(file, str) and Path(file).is_file()]


def _checked(home: Home, file: Path) -> Path:
    file = file.expanduser().absolute()
    if os.path.lexists(file):
        raise UnreadableInput(f"{file} exists; a backup overwrites nothing. Choose another name, or remove it")
    if not file.parent.is_dir():
        raise UnreadableInput(f"there is no folder {file.parent} to write a backup to")
    if file.parent.resolve().is_relative_to(home.root):
        raise UnreadableInput(
            f"{file} is inside the home, where `forget` searches; choose a folder outside {home.root}"
        )
    return file


@contextmanager
def _unfinished(file: Path) -> Generator[tuple[Path, IO[bytes]]]:
    """An empty file next to `file`, with mode 0600 and locked; what a killed backup left there is overwritten."""
    part = file.with_name(f".{file.name}.part")
    try:
        number = os.open(part, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise UnreadableInput(f"can't write to {file.parent}: {error.strerror}") from None
    with os.fdopen(number, "r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(part.stat(), os.fstat(number))
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise Locked(f"another backup to {file} is being written")
        opened.truncate(0)
        os.fchmod(number, 0o600)
        try:
            yield part, opened
        finally:
            part.unlink(missing_ok=True)


def _write(home: Home, datasets: list[str], paths: Iterable[tuple[str, Path]], part: Path, opened: IO[bytes]) -> int:
    """Write all files; returns their number."""
    identity = home_identity.read(home)
    header = archive.Header(
        home_id=identity.id if identity else "",
        home_path=str(home.root),
        made_at=f"{utcnow().isoformat()}Z",
        written_by=code_version(),
        datasets=tuple(datasets),
    )
    entries: dict[str, archive.Entry] = {}
    with tarfile.open(fileobj=opened, mode="w|", format=tarfile.PAX_FORMAT, bufsize=archive.CHUNK) as tar:
        archive.add_json(tar, archive.HEADER, archive.as_json(header))
        with _snapshot(home.mlflow_db, part.with_name(f"{part.name}.db")) as database:
            if database:
                entries[MLFLOW_DB] = archive.add_file(tar, MLFLOW_DB, database)
        for name, path in paths:
            entries[name] = archive.add_file(tar, name, path)
            fault("backup:after_file")
        for name, path in _below(home.root, home.mlflow_artifacts, hidden=True):  # after the database that names them
            with suppress(FileNotFoundError):
                entries[name] = archive.add_file(tar, name, path)
        archive.add_json(
            tar, archive.CHECKSUMS, {"files": {name: archive.as_json(entry) for name, entry in entries.items()}}
        )
    opened.flush()
    os.fsync(opened.fileno())
    return len(entries)


@contextmanager
def _snapshot(database: Path, copy: Path) -> Generator[Path | None]:
    """A consistent copy of an SQLite database, which servers may be writing to; None where there is none."""
    if not database.is_file():
        yield None
        return
    try:
        sqlite_files.copy(database, copy, stat.S_IMODE(database.stat().st_mode))
    except sqlite3.DatabaseError as error:
        raise UnreadableInput(f"{database} can't be read ({error}); repair it or move it away") from None
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _files(home: Home, datasets: list[str]) -> Iterator[tuple[str, Path]]:
    """Every file of the warehouse that is kept, by its name in the home."""
    single = [home.marker, *(home.live(dataset) for dataset in datasets)]
    single += sorted((home.warehouse / "schedules").glob("[!.]*.json"))
    yield from ((str(path.relative_to(home.root)), path) for path in single if path.is_file())
    for dataset in datasets:
        reports = home.reports / dataset
        for folder in (home.journal(dataset), home.generations(dataset), reports, home.replays(dataset)):
            yield from _below(home.root, folder)
        yield from _below(home.root, home.lake(dataset))


def _below(root: Path, folder: Path, hidden: bool = False) -> Iterator[tuple[str, Path]]:
    """Regular files below a folder, in order. Names that begin with a dot are temporary, unless `hidden`."""
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for name in sorted(name for name in names if hidden or not name.startswith(".")):
            path = Path(at, name)
            if path.is_symlink() or not path.is_file():
                log.warning(f"{path} is no regular file; it is not in the backup")
            else:
                yield str(path.relative_to(root)), path


def _check_space(paths: Iterable[tuple[str, Path]], file: Path) -> None:
    needed, free = sum(path.stat().st_size for _, path in paths), shutil.disk_usage(file.parent).free
    if free < needed:
        raise UnreadableInput(f"the backup needs about {needed:,} bytes, and {free:,} are free in {file.parent}")


def _publish(part: Path, file: Path) -> None:
    """Give the complete file its name, without overwriting another one."""
    try:
        os.link(part, file)
    except FileExistsError:
        raise UnreadableInput(f"{file} was created meanwhile; a backup overwrites nothing") from None
    except OSError:  # no hard links in this file system
        part.rename(file)
    sync(file.parent)
