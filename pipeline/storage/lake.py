"""Stage results in keyed folders: built once, complete once the manifest is written, then reused."""

import errno
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sha256, sync, temporary_name, write_atomically
from pipeline.core.paths import Home
from pipeline.core.stage_call import StageCall
from pipeline.schemas import tables
from pipeline.storage import journal, state_files

if TYPE_CHECKING:
    from pipeline.storage.shared_lake import SharedLake

SOURCE = "0_source"
"""Folder of the lake with source files that are generated, or given as frames."""
MANIFEST = "manifest.json"
_LEFTOVER = re.compile(r"\..+\.([0-9]+|[0-9a-f]{16})|\.scratch-.*")
"""Names of unfinished folders; older versions ended them with the id of a process. Checkpoints have other names."""


@dataclass(frozen=True)
class Spec:
    """Identity of a result. Equal specs have equal content, so a stage whose folder is complete is skipped."""

    call: StageCall
    """The stage that builds it; its title is shown, e.g. `clean` or `train ease`."""
    layer: str
    """Folder of the lake, e.g. `2_clean`."""
    version: int
    """Version of the stage's code; raise it when the result changes."""
    settings: Mapping[str, Any]
    """The settings that affect the result, and no others."""
    parents: tuple[Path, ...] = ()
    head: str = ""
    """Readable prefix of the folder's name; by default the title."""
    private: bool = False
    """Never fetched from a shared lake, nor put there: building it leaves more in the home than the result."""

    @property
    def key(self) -> str:
        """64-bit hash of everything that determines the content."""
        identity = [
            self.call.title,
            self.version,
            dict(self.settings),
            [p.name.rsplit("-", 1)[-1] for p in self.parents],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class StageResult:
    """What a stage reports about its result. `ledger`: rows by reason; `info`: small JSON for later stages."""

    rows_in: int | None = None
    rows_out: int | None = None
    ledger: dict[str, int] = field(default_factory=dict[str, int])
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    kept_as: Spec | None = None
    """The spec to store the result under, if it differs from the requested one (a fit that was cut short)."""


class NotYetKnown(FileNotFoundError):
    """The value depends on a result that isn't built yet."""

    def __init__(self, place: Path):
        super().__init__(f"{place} is not there yet")
        self.place = place


def build(run: Run, spec: Spec, write: Callable[[Path], StageResult]) -> Path:
    """Return the folder of `spec`; if it isn't complete, fetch it from the shared lake or build it by
    `write(temporary folder)`.

    A result with `kept_as` is stored and journaled under that spec. With `[lake] url`, the result is in the shared lake
    afterwards. Raises shared_lake.LakeDown if that can't be reached.
    """
    target, shared = folder_of(run, spec), shared_with(run, spec)
    with journal.stage(run, spec.call.title) as record:
        if progress.listener().shows_epochs and spec.parents and (rows := read_manifest(spec.parents[0])["rows_out"]):
            progress.listener().rows(rows)
        skipped = is_complete(target)
        fetched = not skipped and shared is not None and shared.fetch(target)
        if not (skipped or fetched):
            target = _write(run, spec, write)
        if shared and not fetched and (changed := shared.keep(target)):
            journal.note(run, f"{journal.WARNING}{spec.call.title}: {changed}")
        manifest = read_manifest(target)
        journal.record_artifact(run, target)
        rows = {name: manifest[name] for name in ("rows_in", "rows_out")}
        record.update(stage=manifest["stage"], skipped=skipped or fetched, **rows)
    if ledger := manifest["ledger"]:
        records = [{"stage": manifest["stage"], "reason": reason, "rows": rows} for reason, rows in ledger.items()]
        journal.append(run, tables.ROW_LEDGER, records)
    return target


def shared_with(run: Run, spec: Spec) -> "SharedLake | None":
    """The shared lake of a result. None for a replay, which is to make everything again."""
    if not run.settings.lake or run.as_of or spec.private:
        return None
    from pipeline.storage.shared_lake import SharedLake

    return SharedLake(run.home, run.dataset, run.settings.lake)


def folder_of(run: Run, spec: Spec) -> Path:
    """The folder of `spec`, which may not exist yet."""
    return run.home.lake(run.dataset) / spec.layer / f"{spec.head or spec.call.title.replace(' ', '-')}-{spec.key}"


def _write(run: Run, spec: Spec, write: Callable[[Path], StageResult]) -> Path:
    """Build in a temporary folder, complete it, and rename it. Of several processes the first to complete it wins."""
    target = folder_of(run, spec)
    temporary = temporary_name(target)
    stage = spec.call.stage
    temporary.mkdir(parents=True)
    try:
        fault(f"{stage}:before_write")
        result = write(temporary)
        spec = result.kept_as or spec
        target = folder_of(run, spec)
        fault(f"{stage}:before_manifest")
        _complete(temporary, spec, result)
        fault(f"{stage}:before_rename")
        place(temporary, target)
        fault(f"{stage}:after_rename")
    finally:
        _remove(temporary)
    sync(target.parent)
    return target


@contextmanager
def scratch(folder: Path) -> Generator[Path]:
    """A folder next to `folder`, an unfinished result, for what it is made of; other machines may write there too.

    It goes with the block. What one of them still adds goes at the start of the next night.
    """
    made = folder.with_name(f".scratch-{secrets.token_hex(8)}")
    made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place(temporary: Path, target: Path) -> None:
    """Rename a complete folder to its name, unless a complete one has it: equal keys have equal content.

    A damaged folder that has the name goes. A rename never replaces a folder with content, so no process can take away
    what another one has just completed.
    """
    while True:
        try:
            temporary.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if is_complete(target):
                return
            aside = temporary_name(target)
            with suppress(FileNotFoundError):  # another process moved it
                target.rename(aside)
            if is_complete(aside):  # another process completed it after the look
                with suppress(OSError):  # and a third one has the name by now
                    aside.rename(target)
            _remove(aside)


def remove_leftovers(home: Home, dataset: str) -> list[str]:
    """Remove unfinished folders of nights that ended; returns their names. The caller holds the lock.

    Only here: during a night another process may be at work in such a folder.
    """
    found = leftovers(home, dataset)
    for path in found:
        _remove(path)
    return [path.name for path in found]


def leftovers(home: Home, dataset: str) -> list[Path]:
    """Unfinished folders. Those of a night that runs are among them; checkpoints are not, as the next night needs them."""
    return [path for path in sorted(home.lake(dataset).glob("*/.*")) if _LEFTOVER.fullmatch(path.name)]


def info(folder: Path) -> dict[str, Any]:
    """The `info` of the stage that built `folder`. Raises NotYetKnown if it isn't built."""
    return read_manifest(folder)["info"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a complete folder. Raises NotYetKnown if there is none, or state_files.Damaged."""
    try:
        return state_files.load(folder / MANIFEST, dict)
    except FileNotFoundError:
        raise NotYetKnown(folder) from None


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json, atomically, with a hash of its content."""
    content = json.loads(json.dumps(manifest, default=str))
    write_atomically(folder / MANIFEST, json.dumps({**content, "own_hash": _own_hash(content)}, indent=2))


def holds(manifest: dict[str, Any]) -> bool:
    """Whether a manifest matches the hash in it."""
    return manifest.get("own_hash") == _own_hash(manifest)


def _own_hash(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "own_hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether the manifest and all files match their hashes. (Parquet with a flipped byte reads without an error.)"""
    try:
        manifest = read_manifest(folder)
        files = manifest["files"]
        if not holds(manifest):
            return False
        return all(sha256(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _complete(folder: Path, spec: Spec, result: StageResult) -> None:
    """Sync all files, then write the manifest: its existence means that the folder is complete."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[str(path.relative_to(folder))] = sha256(path)
    manifest = {
        "stage": spec.call.title, "version": spec.version, "key": spec.key, "settings": dict(spec.settings),
        "parents": [str(p) for p in spec.parents], "rows_in": result.rows_in, "rows_out": result.rows_out,
        "ledger": result.ledger, "info": result.info, "files": files,
    }  # fmt: skip
    write_manifest(folder, manifest)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:  # a stray file under a folder's name
        folder.unlink(missing_ok=True)
