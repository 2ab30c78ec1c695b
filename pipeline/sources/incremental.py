"""Incremental sources: every file that was read is kept as Parquet, by content, in the order in which it appeared.

A file that changed under its name is a new content. The earlier one no longer counts if the new one begins with it
(lines were added to the file) or with what it began with itself (added lines were corrected), or if
`source.changed_files` says that it is replaced. Files of `source.drop_files` no longer count once they are gone.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.core.filesystem import sha256, write_atomically
from pipeline.sources.file_reader import FileResult
from pipeline.sources.files import remove
from pipeline.storage import lake, state_files

ADVICE = (
    "it lists the files that were read so far: restore it from a backup, or, if all of these files are in the source's "
    "folder, remove it"
)
SIZES, BEGINNINGS = "sizes.json", "beginnings.json"
_BLOCK = 2**20
_MOST = 30
"""Earlier contents that are kept in mind of a file that grows."""
Seen = dict[str, str]
"""SHA-256 of a file's content to its name, in the order in which the files appeared."""
Beginnings = dict[str, list[str]]
"""SHA-256 of a content to those of earlier contents of its file that it begins with, oldest first."""


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


def read_sizes(layer: Path) -> dict[str, int]:
    """Bytes of the files of earlier nights, by SHA-256; older versions did not record them."""
    sizes = state_files.read(folder(layer) / SIZES, dict) or {}
    return {digest: size for digest, size in sizes.items() if isinstance(size, int)}


def read_beginnings(layer: Path) -> Beginnings:
    """What the contents of earlier nights begin with, as far as it is known."""
    found = state_files.read(folder(layer) / BEGINNINGS, dict) or {}
    return {digest: before for digest, before in found.items() if isinstance(before, list)}


def write_seen(layer: Path, seen: Seen, sizes: dict[str, int], beginnings: Beginnings | None = None) -> None:
    """Record the files for later nights, atomically; then delete the rows of contents that no longer count."""
    earlier = read_seen(layer)
    folder(layer).mkdir(parents=True, exist_ok=True)
    begins = {digest: before for digest, before in (beginnings or {}).items() if digest in earlier | seen}
    kept = [*earlier, *seen, *(each for before in begins.values() for each in before)]
    known = {digest: sizes[digest] for digest in kept if digest in sizes}  # a kill before the next line
    write_atomically(folder(layer) / SIZES, json.dumps(known, indent=2))
    if begins:
        write_atomically(folder(layer) / BEGINNINGS, json.dumps(begins, indent=2))
    write_atomically(folder(layer) / "seen.json", json.dumps(seen, indent=2))
    for digest in earlier.keys() - seen.keys():
        for part in folder(layer).glob(f"{digest[:16]}-*"):
            remove(part)


def merge(seen: Seen, present: Seen, replaced: Collection[str] = ()) -> Seen:
    """Earlier files but for those `replaced`, then those with new content; a name that is used already gets a suffix
    from the content.
    """
    merged = {digest: name for digest, name in seen.items() if digest not in replaced}
    names = Counter(merged.values())
    for digest, name in present.items():
        if digest not in merged:
            merged[digest] = f"{name}@{digest[:8]}" if names[name] else name
            names[name] += 1
    return merged


def contents(seen: Seen) -> dict[str, list[str]]:
    """The contents that each file had, by its name in the source, oldest first."""
    found: dict[str, list[str]] = {}
    for digest, name in seen.items():
        found.setdefault(name.removesuffix(f"@{digest[:8]}"), []).append(digest)
    return found


def replaced(
    seen: Seen,
    present: Mapping[str, str],
    changed_files: str,
    is_grown: Callable[[str, str], bool],
    beginnings: Beginnings | None = None,
) -> set[str]:
    """The earlier contents that no longer count. `is_grown` tells whether the file of a name begins with a content.

    `present`: digest by name, since several files may have one content.
    """
    gone: set[str] = set()
    for name, digests in contents(seen).items():
        newest = present.get(name, digests[-1])
        if changed_files == "replace":
            gone |= set(digests) - {newest}
        elif newest not in seen:
            before = {digest: (beginnings or {}).get(digest, []) for digest in digests}
            gone |= {
                digest
                for digest in digests
                if is_grown(name, digest) or any(each == newest or is_grown(name, each) for each in before[digest])
            }
    return gone


def beginnings_of(
    seen: Seen, present: Mapping[str, str], is_grown: Callable[[str, str], bool], earlier: Beginnings
) -> Beginnings:
    """What the contents that count now begin with; `earlier`: those of earlier nights. Otherwise as in `replaced`."""
    found = dict(earlier)
    for name, digests in contents(seen).items():
        newest = present.get(name, digests[-1])
        if newest in seen:
            continue
        known = dict.fromkeys(each for digest in digests for each in [*earlier.get(digest, []), digest])
        if before := [digest for digest in known if is_grown(name, digest)]:
            found[newest] = before[-_MOST:]
    return found


def dropped(seen: Seen, present: Collection[str], drop_files: Collection[str]) -> set[str]:
    """The contents of the files `drop_files`, globs, that are not in the source any more. `present`: digests."""
    return {
        digest
        for name, digests in contents(seen).items()
        for digest in digests
        if digest not in present and any(fnmatchcase(name, pattern) for pattern in drop_files)
    }


def begins_with(path: Path, digest: str, size: int) -> bool:
    """Whether the first `size` bytes of a longer file have this SHA-256."""
    if path.stat().st_size <= size:
        return False
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size and (block := file.read(min(size, _BLOCK))):
            found.update(block)
            size -= len(block)
    return found.hexdigest() == digest


def complete(part: Path, result: FileResult) -> None:
    """Write the manifest that marks a kept file as complete."""
    files = {p.name: sha256(p) for p in sorted(part.iterdir())}
    manifest = {"files": files, "ledger": result.ledger, "rescanned": result.rescanned}
    if result.looks:
        manifest["looks"] = result.looks
    if result.doubts:
        manifest["doubts"] = result.doubts
    lake.write_manifest(part, manifest)


def result_of(part: Path) -> FileResult:
    """The result that the manifest of a kept file records."""
    manifest = lake.read_manifest(part)
    looks, doubts = manifest.get("looks", {}), manifest.get("doubts", {})
    return FileResult(manifest["ledger"], manifest["rescanned"], looks, doubts)


def missing_file(name: str) -> UnreadableInput:
    """The error for a file of an earlier night that has to be read again and is not in the data folder."""
    return UnreadableInput(
        f"{name} was read on an earlier night and has to be read again (settings changed, or its copy in the lake is "
        "damaged), but is not in the data folder: put it back"
    )
