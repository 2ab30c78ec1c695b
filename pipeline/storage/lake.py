"""Keyed folders between the stages: built once, completed by a manifest written last, skipped when it holds."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sha256, sync, write_atomically
from pipeline.core.stage_call import StageCall
from pipeline.schemas import tables
from pipeline.storage import journal, state_files

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Spec:
    """Identity of a result. Equal spec, equal content: a stage whose folder is complete is skipped."""

    call: StageCall
    """What makes it; its title is what people see, e.g. `clean` or `train ease`."""
    layer: str
    """Folder of the lake, e.g. `2_clean`."""
    version: int
    """Of the stage's code; raise it when the result changes."""
    settings: Mapping[str, Any]
    """Those that matter for the result, and no others."""
    parents: tuple[Path, ...] = ()
    head: str = ""
    """Readable start of the folder's name."""

    @property
    def key(self) -> str:
        """64-bit hash of all that determines the content."""
        identity = [
            self.call.title,
            self.version,
            dict(self.settings),
            [p.name.rsplit("-", 1)[-1] for p in self.parents],
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class StageResult:
    """What a stage says of its work. `ledger`: rows by reason; `info`: small JSON for later stages and people."""

    rows_in: int | None = None
    rows_out: int | None = None
    ledger: dict[str, int] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    kept_as: Spec | None = None
    """Where what was made is another thing than what was asked for; None: it is that."""


class NotYetKnown(FileNotFoundError):
    """What is asked for depends on a result that isn't there yet."""

    def __init__(self, place: Path):
        super().__init__(f"{place} is not there yet")
        self.place = place


def build(run: Run, spec: Spec, write: Callable[[Path], StageResult]) -> Path:
    """The folder of `spec`: the complete one that is there, or what `write(temporary folder)` makes.

    That is completed, and journaled, as the spec that the report of `write` names, if it names one.
    """
    target = folder_of(run, spec)
    with journal.stage(run, spec.call.title) as record:
        if progress.listener().shows_epochs and spec.parents and (rows := read_manifest(spec.parents[0])["rows_out"]):
            progress.listener().rows(rows)
        skipped = is_complete(target)
        if not skipped:
            target = _write(run, spec, write)
        manifest = read_manifest(target)
        journal.record_artifact(run, target)
        rows = {name: manifest[name] for name in ("rows_in", "rows_out")}
        record.update(stage=manifest["stage"], skipped=skipped, **rows)
    if ledger := manifest["ledger"]:
        records = [{"stage": manifest["stage"], "reason": reason, "rows": rows} for reason, rows in ledger.items()]
        journal.append(run, tables.ROW_LEDGER, records)
    return target


def folder_of(run: Run, spec: Spec) -> Path:
    """Where the result of `spec` is, once it is built."""
    return run.home.lake(run.dataset) / spec.layer / f"{spec.head or spec.call.title.replace(' ', '-')}-{spec.key}"


def _write(run: Run, spec: Spec, write: Callable[[Path], StageResult]) -> Path:
    """Build in a folder of our own, complete it, rename it to where it belongs."""
    target = folder_of(run, spec)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    for leftover in (target, *target.parent.glob(f".{target.name}.*")):  # of killed nights; the lock is ours
        _remove(leftover)
    stage = spec.call.stage
    temporary.mkdir(parents=True)
    try:
        fault(f"{stage}:before_write")
        report = write(temporary)
        spec = report.kept_as or spec
        target = folder_of(run, spec)
        fault(f"{stage}:before_manifest")
        _complete(temporary, spec, report)
        fault(f"{stage}:before_rename")
        _remove(target)
        temporary.rename(target)
        fault(f"{stage}:after_rename")
    finally:
        _remove(temporary)
    sync(target.parent)
    return target


def info(folder: Path) -> dict[str, Any]:
    """What the stage that built `folder` noted for others. Raises NotYetKnown where none has built it."""
    return read_manifest(folder)["info"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a complete folder. Raises NotYetKnown where there is none, or state_files.Damaged."""
    try:
        return state_files.load(folder / MANIFEST, dict)
    except FileNotFoundError:
        raise NotYetKnown(folder) from None


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write manifest.json, atomically, with a hash of itself."""
    content = json.loads(json.dumps(manifest, default=str))
    write_atomically(folder / MANIFEST, json.dumps({**content, "own_hash": _own_hash(content)}, indent=2))


def holds(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is as it was written, by the hash of itself."""
    return manifest.get("own_hash") == _own_hash(manifest)


def _own_hash(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "own_hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Its manifest holds and every file has the hash written there (a flipped byte in Parquet reads without error)."""
    try:
        manifest = read_manifest(folder)
        files = manifest["files"]
        if not holds(manifest):
            return False
        return all(sha256(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _complete(folder: Path, spec: Spec, report: StageResult) -> None:
    """Sync all files, then write the manifest: its existence means the folder is whole."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync(path)
        files[str(path.relative_to(folder))] = sha256(path)
    manifest = {
        "stage": spec.call.title, "version": spec.version, "key": spec.key, "settings": dict(spec.settings),
        "parents": [str(p) for p in spec.parents], "rows_in": report.rows_in, "rows_out": report.rows_out,
        "ledger": report.ledger, "info": report.info, "files": files,
    }  # fmt: skip
    write_manifest(folder, manifest)


def _remove(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:  # a stray file under a folder's name
        folder.unlink(missing_ok=True)
