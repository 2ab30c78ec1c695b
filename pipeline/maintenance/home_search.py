"""Searches a whole home for one user, whatever wrote its files: KINDS names the decoder of each kind of file.

A file that no decoder can read is a finding, so that a new kind of file has to be entered here before `forget` can be
done again. Folders of the home's other data sets are left out: their users are other people.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]

from pipeline.core.errors import Locked
from pipeline.core.filesystem import DAMAGED
from pipeline.core.paths import CHECKOUT, Home
from pipeline.maintenance import trace_decoders
from pipeline.sources.files import find_files
from pipeline.sources.user_traces import Person
from pipeline.storage import forgotten_users, journal
from pipeline.storage.lock import lock

OURS = ("warehouse", "mlflow", ".prefect")
"""Folders that nights write; where the home is the checkout, the rest of it is source code."""


@dataclass(frozen=True)
class Finding:
    """A file that names the user, or may, with what was found there. It never holds the id."""

    path: Path
    what: str


@dataclass(frozen=True)
class Kind:
    """How a kind of file is searched, and, where that can be done in place, cleared of the user."""

    name: str
    find: Callable[[Path, Person], Iterable[str]]
    clear: Callable[[Path, Person], int] | None = None
    """Returns how many places were cleared."""


def search(home: Home, dataset: str, person: Person) -> list[Finding]:
    """Everything in the home that names the user, or can't be decoded; empty: the user is nowhere."""
    found, seen = list[Finding](), set[tuple[int, int]]()
    for path in files(home, dataset):
        with suppress(FileNotFoundError):
            about = path.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
        found += [Finding(path, what) for what in look_into(path, person)]
    return found


def look_into(path: Path, person: Person) -> list[str]:
    """What one file has of the user, in words without the id."""
    try:
        kind = kind_of(path)
        if kind is None:
            return ["no decoder knows this kind of file, so nothing says that it does not name the user"]
        return list(kind.find(path, person))
    except FileNotFoundError:
        return []  # gone in the meantime
    except Exception as error:
        return [f"can't be read ({type(error).__name__}), so nothing says that it does not name the user"]


def clear(home: Home, dataset: str, person: Person) -> int:
    """Take the user out of every file that can be changed in place; returns how many places. `search` finds the rest.

    Raises OSError, once all other files are cleared, where files are in use or can't be written.
    """
    cleared, failed = 0, list[str]()
    for path in files(home, dataset):
        if path.name in trace_decoders.CONFIGURATION:
            continue
        try:
            kind = kind_of(path)
            if kind and kind.clear:
                cleared += kind.clear(path, person)
        except FileNotFoundError:
            continue  # deleted in the meantime
        except (OSError, sqlite3.Error) as error:
            failed.append(str(error))
        except (ValueError, pl.exceptions.PolarsError, pa.ArrowException):  # pyright: ignore[reportUnknownMemberType]
            continue  # `search` names the file
    if failed:
        raise OSError("; ".join(failed))
    return cleared


def files(home: Home, dataset: str) -> Iterator[Path]:
    """Files of the home that may name a user of this data set: all but links, other data sets' and the source's own."""
    others, own = _others(home, dataset), _sources(home, dataset)
    running = running_replays(home, dataset)
    for path in _walk(home.root):
        parts = path.relative_to(home.root).parts
        if any(path.is_relative_to(work) for work in running):
            continue
        if path in own or parts[0] == ".git" or (home.root == CHECKOUT and parts[0] not in OURS):
            continue
        if _owner(parts) in others or forgotten_users.is_pending(home, dataset, path):
            continue
        yield path


def running_replays(home: Home, dataset: str) -> list[Path]:
    """Homes of replays that run now: they end by finding the list of forgotten users changed, and delete themselves."""
    running: list[Path] = []
    for work in home.replays(dataset).glob(".[!.]*"):
        try:
            with lock(Home(work), dataset, "forget", "command"):
                pass
        except Locked:
            running.append(work)
    return running


def _walk(root: Path) -> Iterator[Path]:
    for folder, names, found in os.walk(root):
        names.sort()
        if Path(folder) == root == CHECKOUT:
            names[:] = [name for name in names if name in OURS]
        for name in sorted(found):
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path


def _owner(parts: tuple[str, ...]) -> str | None:
    """The data set whose folder or published file a path is; None: the home's."""
    if parts[:2] == ("mlflow", "artifacts"):
        return parts[2] if len(parts) > 3 else None
    if parts[0] != "warehouse":
        return None
    if len(parts) == 2:
        name, dot, _ = parts[1].partition(".duckdb")
        return name.removeprefix(".") if dot else None
    return parts[2] if len(parts) > 3 else None


def _others(home: Home, dataset: str) -> set[str]:
    """The other data sets of the home."""
    places = [home.warehouse / name for name in ("journal", "generations", "lake", "reports", "replays")]
    names = {path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()}
    return (names | {path.stem for path in home.warehouse.glob("[!.]*.duckdb")}) - {dataset}


def _sources(home: Home, dataset: str) -> set[Path]:
    """Source files within the home: they are the operator's, and every night leaves the user out of them."""
    found: set[Path] = set()
    for run_id in journal.run_ids(home, dataset):
        with suppress(OSError, ValueError, KeyError, TypeError):
            data = Path(journal.read_run(home, dataset, run_id)["data"])
            if not data.is_relative_to(home.root) or data.is_relative_to(home.warehouse):
                continue
            settings = json.loads((home.journal(dataset) / run_id / "settings.json").read_text())["dataset"]
            patterns: list[str] = list(settings["source"]["files"])
            for name in ("items", "users"):
                reading: dict[str, list[str]] = settings.get(name) or {}
                patterns += reading.get("files", [])
            published: dict[str, str | None] = settings.get("published") or {}
            patterns += filter(None, published.values())
            for pattern in patterns:
                with suppress(ValueError):
                    found |= {data / name for name in find_files(data, [pattern])}
    return found


def kind_of(path: Path) -> Kind | None:
    """The decoder of a file, by its first bytes, else by its name, else as text; None where it is neither."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return Kind("empty", lambda path, person: ())
    if head[8:12] == b"DUCK":
        return KINDS["duckdb"]
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return KINDS[name]
    if DAMAGED in path.suffixes or path.suffix.startswith(f"{DAMAGED}-"):
        return KINDS["damaged"]
    if name := next((name for end, name in NAMES.items() if path.name.endswith(end)), None):
        return KINDS[name]
    if ".wal" in path.suffixes:
        return KINDS["log"]
    return KINDS["text"] if _is_text(path) else None


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if b"\0" in block:
                return False
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


MAGIC = {
    b"PAR1": "parquet",
    b"SQLite format 3\0": "sqlite",
    b"\x89PNG": "bytes",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}
NAMES = {
    ".json": "json", ".jsonl": "json", ".safetensors": "bytes", "-wal": "log", "-shm": "bytes", "-journal": "log",
    ".duckdb.wal": "log",
}  # fmt: skip
KINDS = {
    "duckdb": Kind("duckdb", trace_decoders.find_in_duckdb),  # rebuilt by the stage, never changed in place
    "parquet": Kind("parquet", trace_decoders.find_in_parquet, trace_decoders.clear_parquet),
    "sqlite": Kind("sqlite", trace_decoders.find_in_sqlite, trace_decoders.clear_sqlite),
    "json": Kind("json", trace_decoders.find_in_json, trace_decoders.clear_json),
    "text": Kind("text", trace_decoders.find_in_text, trace_decoders.clear_text),
    "gzip": Kind("gzip", partial(trace_decoders.find_packed, "gzip")),
    "zstd": Kind("zstd", partial(trace_decoders.find_packed, "zstd")),
    "log": Kind("log", trace_decoders.find_in_log),
    "damaged": Kind("damaged", trace_decoders.find_in_damaged, trace_decoders.remove_damaged),
    "bytes": Kind("bytes", trace_decoders.find_bytes),  # numbers and images
}
