"""Incremental sources: every file that was read is kept as Parquet, by content, in the order in which it appeared."""

import json
from collections import Counter
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import sha256, write_atomically
from pipeline.sources.file_reader import FileResult
from pipeline.storage import lake, state_files

ADVICE = (
    "it lists the files that were read so far: restore it from a backup, or, if all of these files are in the source's "
    "folder, remove it"
)
Seen = dict[str, str]
"""SHA-256 of a file's content to its name, in the order in which the files appeared."""


def folder(layer: Path) -> Path:
    """Folder of the kept files, below the lake's `1_raw`."""
    return layer / "files"


def read_seen(layer: Path) -> Seen:
    """The files of earlier nights. Raises state_files.Damaged if the list is unreadable: rows would be missing."""
    path = folder(layer) / "seen.json"
    try:
        seen = state_files.load(path, dict, ADVICE)
    except FileNotFoundError:
        return {}
    if not all(isinstance(name, str) for name in seen.values()):
        raise state_files.Damaged(path, "a file name is not a string", ADVICE)
    return seen


def write_seen(layer: Path, seen: Seen) -> None:
    """Record the files for later nights, atomically."""
    folder(layer).mkdir(parents=True, exist_ok=True)
    write_atomically(folder(layer) / "seen.json", json.dumps(seen, indent=2))


def merge(seen: Seen, present: Seen) -> Seen:
    """Earlier files first, then those with new content; a name that was used before gets a suffix from the content."""
    merged = dict(seen)
    names = Counter(merged.values())
    for digest, name in present.items():
        if digest not in merged:
            merged[digest] = f"{name}@{digest[:8]}" if names[name] else name
            names[name] += 1
    return merged


def complete(part: Path, result: FileResult) -> None:
    """Write the manifest that marks a kept file as complete."""
    files = {p.name: sha256(p) for p in sorted(part.iterdir())}
    manifest = {"files": files, "ledger": result.ledger, "rescanned": result.rescanned}
    if result.looks:
        manifest["looks"] = result.looks
    lake.write_manifest(part, manifest)


def result_of(part: Path) -> FileResult:
    """The result that the manifest of a kept file records."""
    manifest = lake.read_manifest(part)
    return FileResult(manifest["ledger"], manifest["rescanned"], manifest.get("looks", {}))


def missing_file(name: str) -> UnreadableInput:
    """The error for a file of an earlier night that has to be read again and is not in the data folder."""
    return UnreadableInput(
        f"{name} was read on an earlier night and has to be read again (settings changed, or its copy in the lake is "
        "damaged), but is not in the data folder: put it back"
    )
