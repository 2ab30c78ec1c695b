"""`nightrecs doctor --scale`: whether several hosts may use one home. Tried from two processes of this machine.

What a night relies on: the lock of a data set, files that are created once, renames that replace a file at once but
never a folder with content, hard links, and that a process soon reads what another one wrote.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flows.cli.doctor import other_process
from flows.cli.doctor.other_process import FileOperations
from pipeline.core import mounts
from pipeline.core.paths import Home
from pipeline.maintenance.free_space import existing
from pipeline.storage import home_paths
from pipeline.tracking.server import sqlite_url, tracking_uri

Lines = Iterator[tuple[str, str, str]]
WAIT = 5.0
"""Seconds within which a write must be seen by the other side: NFS may cache attributes for so long and more."""
NO_SHARED_HOME = "choose a file system with POSIX locks and renames (NFSv4, EFS, FSx, Filestore, Lustre)"
ROUNDS = 20
PREFECT_DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


class Other:
    """The other process. Its methods are those of FileOperations."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process = process

    def __getattr__(self, operation: str) -> Any:
        def ask(*names: str, **more: str) -> Any:
            wanted = dict(zip(("name", "to" if operation in ("replace", "link") else "text"), names, strict=False))
            assert self._process.stdin and self._process.stdout
            print(json.dumps({"do": operation, **wanted, **more}), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            if not answer:
                raise OSError(f"the other process failed at {operation}")
            return json.loads(answer)

        return ask


@contextmanager
def both_sides(place: Path) -> Generator[tuple[FileOperations, Any, Path]]:
    """Operations of this process and of another one in a temporary folder of `place`."""
    with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as folder:
        command = [sys.executable, other_process.__file__, folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield FileOperations(Path(folder)), Other(process), Path(folder)
            finally:
                assert process.stdin
                process.stdin.close()


def shared_home(home: Home) -> Lines:
    """The file system of the home, what it guarantees, and that no SQLite database is on a network."""
    place = existing(home.warehouse)
    kind = mounts.file_system(place)
    if mounts.is_object_store(kind):
        yield "fail", f"{home.root} is on {kind}, which shows an object store as files", NO_SHARED_HOME
    elif mounts.is_network(kind):
        yield "ok", f"{home.root} is on {kind}", ""
    else:
        yield "ok", f"{home.root} is on {kind}: a file system of this machine, unless it is exported to others", ""
    yield from guarantees(place)
    yield from databases(home)


def guarantees(place: Path) -> Lines:
    """Try what a night relies on, each from both sides."""
    with both_sides(place) as (own, other, folder):
        tried = {
            "flock keeps other processes out": _locks(own, other) and _locks(other, own),
            "O_EXCL creates a file once": _creates_once(own, other) and _creates_once(other, own),
            "a rename replaces a file, and who has it open keeps it": _replaces(own, other, folder),
            "a rename never replaces a folder with content": _keeps_folders(own, other, folder),
            "hard links work, and never replace a file": _links(own, other, folder),
        }
        for what, holds in tried.items():
            yield (
                "ok" if holds else "fail",
                what if holds else f"does not hold: {what}",
                "" if holds else NO_SHARED_HOME,
            )
        longest = max(_seconds_until_read(own, other, str(n)) for n in range(ROUNDS))
        seen = longest < WAIT
        text = f"what one process wrote, the other read {'within' if seen else 'not even after'} {longest:.2f} s"
        yield "ok" if seen else "fail", text, "" if seen else f"mount it with actimeo={WAIT / 2:.0f} or less"
    yield "ok", "tried by two processes of this machine: run it on each host that is to use the home", ""


def _locks(holder: Any, other: Any) -> bool:
    held = holder.lock("lock") == "done" and other.lock("lock") == "refused"
    released = holder.unlock("lock") == "done" and other.lock("lock") == "done"
    return held and released and other.unlock("lock") == "done"


def _creates_once(first: Any, second: Any) -> bool:
    name = f"once-{id(first)}"
    return first.create(name, "first") == "done" and second.create(name, "second") == "refused"


def _replaces(own: FileOperations, other: Any, folder: Path) -> bool:
    own.create("current", "old")
    own.create("next", "new")
    with (folder / "current").open() as reader:
        replaced = other.replace("next", "current") == "done"
        return replaced and reader.read() == "old" and own.read("current") == "new"


def _keeps_folders(own: FileOperations, other: Any, folder: Path) -> bool:
    for name in ("complete", "late"):
        (folder / name).mkdir()
        own.create(f"{name}/manifest", name)
    return other.replace("late", "complete") == "refused" and own.read("complete/manifest") == "complete"


def _links(own: FileOperations, other: Any, folder: Path) -> bool:
    own.create("file", "content")
    linked = other.link("file", "name") == "done" and own.read("name") == "content"
    return linked and (folder / "file").stat().st_nlink == 2 and other.link("file", "name") == "refused"


def _seconds_until_read(own: FileOperations, other: Any, name: str) -> float:
    """How long it takes until this process reads what the other one wrote; at most WAIT."""
    own.read(name)  # so that its absence may be cached
    other.create(name, name)
    start = time.perf_counter()
    while own.read(name) != name and time.perf_counter() - start < WAIT:
        time.sleep(0.01)
    return time.perf_counter() - start


def databases(home: Home, table: str | None = None) -> Lines:
    """SQLite databases on a network file system, where two hosts damage them. `table`: a mount table."""
    found = False
    for who, file, setting in sqlite_databases(home):
        kind = mounts.file_system(existing(file), table)
        if mounts.is_network(kind):
            found = True
            yield (
                "fail",
                f"{who} keeps its SQLite database {file} on {kind}, where two hosts that write damage it",
                f"use PostgreSQL: set {setting}, as the README of flows says"
                if setting
                else f"move it away: mv {file}",
            )
    if not found:
        yield "ok", "no SQLite database is on a network file system", ""


def sqlite_databases(home: Home) -> list[tuple[str, Path, str]]:
    """SQLite files that MLflow and Prefect use, or would use, with this home: whose, path, and the setting."""
    prefect = Path(os.environ.get("PREFECT_HOME") or home.prefect) / "prefect.db"
    urls = {
        ("MLflow", "MLFLOW_TRACKING_URI"): tracking_uri(home),
        ("Prefect", PREFECT_DATABASE): os.environ.get(PREFECT_DATABASE) or sqlite_url(prefect),
    }
    found = [(who, _file_of(url), setting) for (who, setting), url in urls.items() if url.startswith("sqlite")]
    named = {file for _, file, _ in found}
    others = [file for file in home_paths.databases(home) if file not in named]
    return found + [("an earlier night", file, "") for file in others]


def _file_of(url: str) -> Path:
    """The file of an SQLAlchemy address such as `sqlite+aiosqlite:////srv/prefect.db`."""
    path = url.partition(":///")[2].partition("?")[0].removeprefix("file:")
    return Path.cwd() / unquote(path)


CHECKS = {"shared home": shared_home}
