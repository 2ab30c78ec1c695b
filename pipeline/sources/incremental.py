"""Incremental sources: each file ever read is kept as Parquet, by content, in the order of first sight."""

import json
from collections import Counter
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import sha256, write_atomically
from pipeline.sources.file_reader import FileResult
from pipeline.storage import lake, state_files

ADVICE = (
    "it lists the files that were read so far: put it back from a backup, or, where all of them are in the source's "
    "folder, remove it"
)
Seen = dict[str, str]
"""SHA-256 of a file's content to its name, in the order of first sight."""


def folder(layer: Path) -> Path:
    """Where the parts are kept, below the lake's `1_raw`."""
    return layer / "files"


def read_seen(layer: Path) -> Seen:
    """The files of earlier nights. Raises state_files.Damaged: without the list, their rows would be missing."""
    path = folder(layer) / "seen.json"
    try:
        seen = state_files.load(path, dict, ADVICE)
    except FileNotFoundError:
        return {}
    if not all(isinstance(name, str) for name in seen.values()):
        raise state_files.Damaged(path, "a file's name is no text", ADVICE)
    return seen


def write_seen(layer: Path, seen: Seen) -> None:
    """Remember the files for the nights to come; atomic."""
    folder(layer).mkdir(parents=True, exist_ok=True)
    write_atomically(folder(layer) / "seen.json", json.dumps(seen, indent=2))


def merge(seen: Seen, present: Seen) -> Seen:
    """Earlier files first, then those new by content; a name used before gets a mark of the content."""
    merged = dict(seen)
    names = Counter(merged.values())
    for digest, name in present.items():
        if digest not in merged:
            merged[digest] = f"{name}@{digest[:8]}" if names[name] else name
            names[name] += 1
    return merged


def complete(part: Path, result: FileResult) -> None:
    """Mark a part as whole."""
    files = {p.name: sha256(p) for p in sorted(part.iterdir())}
    manifest = {"files": files, "ledger": result.ledger, "rescanned": result.rescanned}
    lake.write_manifest(part, manifest)


def result_of(part: Path) -> FileResult:
    """What was noted of a whole part."""
    manifest = lake.read_manifest(part)
    return FileResult(manifest["ledger"], manifest["rescanned"])


def missing_file(name: str) -> UnreadableInput:
    """A file of an earlier night that has to be read again, and is no longer there."""
    return UnreadableInput(
        f"{name} was read on an earlier night; it has to be read again (other settings, or its copy in the lake "
        "is damaged) and isn't there: put it back"
    )
