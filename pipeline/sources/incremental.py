"""Incremental sources: every file that was read is kept as Parquet, by content, in the order in which it appeared.

A file that changed under its name is a new content. The earlier one no longer counts if the new one begins with it
(lines were added to the file), or if `source.changed_files` says that it is replaced. Files of `source.drop_files` no
longer count once they are gone. After a night whose source was refused, the contents of the last admitted night count,
and what the files have now.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
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
SIZES, WAITING = "sizes.json", "waiting.json"
_BLOCK = 2**20
Seen = dict[str, str]
"""SHA-256 of a file's content to its name, in the order in which the files appeared."""


def folder(layer: Path) -> Path:
    """Folder of the kept files, below the lake's `1_raw`."""
    return layer / "files"


def read_seen(layer: Path) -> Seen:
    """The files of earlier nights that count. Raises state_files.Damaged if a list is unreadable: rows would miss."""
    waiting = _read_waiting(layer)
    return waiting.counting if waiting else _read_list(layer, "seen.json")


def read_refused(layer: Path) -> Seen:
    """The files that were read by nights whose source was refused, and by none that was admitted."""
    waiting = _read_waiting(layer)
    return waiting.refused if waiting else {}


def _read_list(layer: Path, name: str) -> Seen:
    path = folder(layer) / name
    try:
        return _checked(path, state_files.load(path, dict, ADVICE))
    except FileNotFoundError:
        return {}


def _checked(path: Path, seen: object) -> Seen:
    if not isinstance(seen, dict) or not all(isinstance(name, str) for name in seen.values()):
        raise state_files.Damaged(path, "a file name is not a string", ADVICE)
    return seen


@dataclass(frozen=True)
class Waiting:
    """What is known of the files until the next night is admitted; then those of `seen.json` count."""

    counting: Seen
    """Files that count although they are gone."""
    refused: Seen
    """Files that only refused nights have read, which count while they are there."""
    admitted: Seen
    """The files of the last admitted night."""


def _read_waiting(layer: Path) -> Waiting | None:
    path = folder(layer) / WAITING
    try:
        found = state_files.load(path, dict, ADVICE)
    except FileNotFoundError:
        return None
    return Waiting(*(_checked(path, found.get(each.name)) for each in fields(Waiting)))


def _write_waiting(layer: Path, waiting: Waiting) -> None:
    write_atomically(folder(layer) / WAITING, json.dumps(asdict(waiting), indent=2))


def read_sizes(layer: Path) -> dict[str, int]:
    """Bytes of the files of earlier nights, by SHA-256; older versions did not record them."""
    sizes = state_files.read(folder(layer) / SIZES, dict) or {}
    return {digest: size for digest, size in sizes.items() if isinstance(size, int)}


def write_seen(layer: Path, seen: Seen, sizes: dict[str, int]) -> None:
    """Record the files for later nights, atomically. Rows of contents that no longer count go when `judge` admits."""
    latest, waiting = _read_list(layer, "seen.json"), _read_waiting(layer)
    earlier = waiting.counting if waiting else latest
    refused = {digest: name for digest, name in waiting.refused.items() if digest in seen} if waiting else {}
    folder(layer).mkdir(parents=True, exist_ok=True)
    known = {
        digest: sizes[digest] for digest in latest | earlier | seen if digest in sizes
    }  # a kill before the next line
    write_atomically(folder(layer) / SIZES, json.dumps(known, indent=2))
    kept = seen
    if waiting or seen != earlier:
        of_refused = {name for name, digests in contents(seen).items() if refused.keys() & set(digests)}
        stay = {digest for name, digests in contents(earlier).items() if name in of_refused for digest in digests}
        counting = {digest: name for digest, name in earlier.items() if digest in seen or digest in stay}
        counting |= {digest: name for digest, name in seen.items() if digest not in refused}
        admitted = waiting.admitted if waiting else earlier
        _write_waiting(layer, Waiting(counting, refused, admitted))
        kept = seen | counting | admitted
    write_atomically(folder(layer) / "seen.json", json.dumps(seen, indent=2))
    _remove_rows(layer, latest.keys() - kept.keys())


def judge(layer: Path, *, is_refused: bool) -> None:
    """Record whether the source of the latest night was admitted; then its files are those that count."""
    waiting = _read_waiting(layer)
    if waiting is None:
        return
    seen = _read_list(layer, "seen.json")
    if is_refused:
        refused = {digest: name for digest, name in seen.items() if digest not in waiting.admitted}
        _write_waiting(layer, Waiting(waiting.admitted, refused, waiting.admitted))
        return
    (folder(layer) / WAITING).unlink()
    _remove_rows(layer, (waiting.counting | waiting.admitted).keys() - seen.keys())


def _remove_rows(layer: Path, digests: Collection[str]) -> None:
    for digest in digests:
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
    seen: Seen, present: Mapping[str, str], changed_files: str, is_grown: Callable[[str, str], bool]
) -> set[str]:
    """The earlier contents that no longer count. `is_grown` tells whether the file of a name begins with a content.

    `present`: digest by name, since several files may have one content.
    """
    gone: set[str] = set()
    for name, digests in contents(seen).items():
        newest = present.get(name, digests[-1])
        if changed_files == "replace":
            gone |= set(digests) - {newest}
        elif newest not in digests:
            gone |= {digest for digest in digests if is_grown(name, digest)}
    return gone


def dropped(seen: Seen, present: Collection[str], drop_files: Collection[str]) -> set[str]:
    """The contents of the files `drop_files`, globs, that are not in the source any more. `present`: digests."""
    return contents_of(seen, drop_files) - set(present)


def contents_of(seen: Seen, patterns: Collection[str]) -> set[str]:
    """The contents of the files whose name one of the globs matches."""
    return {
        digest
        for name, digests in contents(seen).items()
        for digest in digests
        if any(fnmatchcase(name, pattern) for pattern in patterns)
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
