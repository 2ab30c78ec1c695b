"""Publishes nights as Parquet files to a folder or an S3 bucket.

owner.json                           the data set and the home that the place belongs to
latest.json                          pointer to the newest complete night; swapped as a whole
nights/<run id>-<sha>/<table>.parquet
nights/<run id>-<sha>/manifest.json  put last: a night without it is incomplete

A reader reads latest.json once, then the files of the night that it names. Nights stay as long as `keep` says, so a
reader that began before a swap goes on with its files.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config.destinations import ParquetDestination
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, sha256
from pipeline.core.run_ids import utcnow
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.destinations.published_file import Night, PublishedTable, opened, rows_of, tables_of
from pipeline.storage import warehouse
from pipeline.storage.file_stores import AlreadyThere, Changed, FileStore, store_of

FORMAT = 1
"""Raise it when readers of an earlier format can't read what this version writes."""
OWNER, LATEST, NIGHTS, MANIFEST = "owner.json", "latest.json", "nights/", "manifest.json"


class Parquet:
    """A folder or a prefix of a bucket as a destination."""

    kind = "parquet"

    def __init__(self, settings: ParquetDestination, dataset: str):
        self.settings, self.dataset = settings, dataset

    @property
    def name(self) -> str:
        """`parquet s3://bucket/prefix`."""
        return f"{self.kind} {self.settings.url}"

    def address(self) -> str:
        """The endpoint, if the settings have one, and the URL."""
        return f"{self.settings.endpoint} {self.settings.url}" if self.settings.endpoint else self.settings.url

    def check(self, home_id: str | None) -> str:
        """Look whether the place can be published to. Raises StoreError; returns what is there."""
        store = store_of(self.settings)
        self._check_owner(store, home_id)
        latest = _content(store.read(LATEST))
        if not self.settings.is_bucket:
            _check_folder(Path(self.settings.url))
        return f"it has night {latest.get('run_id')}" if latest else "nothing is published there yet"

    def publish(self, night: Night, patience: float, say: Callable[[str], None], alone: bool = False) -> bool:
        """Make `night` the latest one; false if it is already. `alone`: no other night stays. Raises StoreError."""
        store = store_of(self.settings)
        self._check_owner(store, night.home_id)
        self._take(store, night.home_id)
        folder, found = _folder(night), store.read(LATEST)
        manifest = f"{folder}/{MANIFEST}"
        is_latest = _content(found).get("manifest") == manifest
        listed = store.read(manifest)
        lost = _damage(store, night) if listed else []
        if listed is None or lost:
            if lost:
                say(f"it was damaged, and is copied again: {'; '.join(lost)}")
            self._upload(store, night, f"{folder}/", listed and listed[1])
            is_latest = is_latest and bool(lost)
        if not is_latest:
            fault("deliver:before_pointer")
            pointer = {
                "format": FORMAT, "dataset": night.dataset, "run_id": night.run_id, "night": night.started_at,
                "published_at": utcnow().isoformat(), "folder": folder, "manifest": manifest,
            }  # fmt: skip
            try:
                store.swap(LATEST, _bytes(pointer), found and found[1])
            except Changed:
                raise NotNow(f"{LATEST} was changed by another process") from None
            fault("deliver:after_pointer")
        store.remove(_keys(self.old(store, 1 if alone else self.settings.keep)))
        return not is_latest or bool(lost)

    def damage(self, night: Night) -> list[str]:
        """What is missing of a night that was copied. Raises NotDelivered if the place can't be read."""
        store = store_of(self.settings)
        if store.read(OWNER) is None:
            return [f"file {OWNER} is missing"]
        self._check_owner(store, night.home_id)
        folder, found = _folder(night), store.read(LATEST)
        latest, lost = _content(found).get("folder"), _damage(store, night)
        if latest == folder:
            return lost
        names = f"file {LATEST} names {latest or 'no night'}, not {folder}"
        return [names if found else f"file {LATEST} is missing", *lost]

    def old(self, store: FileStore, keep: int) -> dict[str, dict[str, int]]:
        """Nights that may go: bytes by key, by night; and what killed attempts left. Never the latest one."""
        nights: dict[str, dict[str, int]] = {}
        for key, entry in store.entries(NIGHTS).items():
            nights.setdefault(key.split("/")[1], {})[key] = entry.bytes
        latest = _content(store.read(LATEST)).get("folder", "").removeprefix(NIGHTS)
        whole = sorted(name for name in nights if f"{NIGHTS}{name}/{MANIFEST}" in nights[name] and name != latest)
        kept = {latest, *whole[len(whole) - min(keep - 1, len(whole)) :]}
        return {name: files for name, files in nights.items() if name not in kept}

    def leftovers(self, home_id: str, keep: int) -> dict[str, dict[str, int]]:
        """What `gc` may remove. Raises StoreError."""
        store = store_of(self.settings)
        self._check_owner(store, home_id)
        return self.old(store, keep)

    def remove_night(self, files: dict[str, int]) -> None:
        """Remove a night that `leftovers` returned."""
        store_of(self.settings).remove(_keys({"": files}))

    def remove(self, home_id: str) -> bool:
        """Remove what was published; false if nothing is there. Raises StoreError."""
        store = store_of(self.settings)
        if self._check_owner(store, home_id) is None:
            return False
        store.remove([LATEST])
        store.remove([*store.entries(NIGHTS), OWNER])
        return True

    def _check_owner(self, store: FileStore, home_id: str | None) -> str | None:
        """The home that the place belongs to; None: nobody's yet. Raises StoreError if it is another's."""
        owner = _json(store.read(OWNER))
        if not owner:
            if other := store.any_key():
                raise NotDelivered(f"{self.settings.url} has files that nightrecs did not make ({Path(other).name}); "
                                   "choose an empty folder or prefix")  # fmt: skip
            return None
        if owner.get("dataset") != self.dataset or (home_id is not None and owner.get("home_id") != home_id):
            raise NotDelivered(
                f"{self.settings.url} belongs to the data set {owner.get('dataset')} of the home {owner.get('home_id')}"
                "; choose another folder or prefix, or remove it there first (`nightrecs destinations`)"
            )
        return str(owner["home_id"])

    def _take(self, store: FileStore, home_id: str) -> None:
        """Make the place this home's, if it is nobody's."""
        if store.read(OWNER) is None:
            try:
                store.create(OWNER, _bytes({"format": FORMAT, "dataset": self.dataset, "home_id": home_id}))
            except AlreadyThere:
                self._check_owner(store, home_id)

    def _upload(self, store: FileStore, night: Night, prefix: str, version: str | None) -> None:
        """Write every table, then the manifest; `version`: of the manifest that is there, for a damaged night."""
        with opened(night.path) as con:
            tables = tables_of(con)
        delete(night.work)
        night.work.mkdir(parents=True)
        try:
            about: dict[str, Any] = {}
            with warehouse.connect() as con, warehouse.attached(con, night.path, "night"):
                for table in tables:
                    path = night.work / f"{table.name}.parquet"
                    rows = _write(con, table, path, night)
                    store.put(f"{prefix}{path.name}", path)
                    about[table.name] = {
                        "file": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": sha256(path),
                        "doc": table.doc, "key": table.key,
                        "columns": [{"name": c.name, "type": c.dtype, "doc": c.doc} for c in table.columns],
                    }  # fmt: skip
                    path.unlink()
                    fault("deliver:mid_copy")
        finally:
            delete(night.work)
        fault("deliver:before_manifest")
        content = {
            "format": FORMAT, "dataset": night.dataset, "run_id": night.run_id, "night": night.started_at,
            "sha256": night.sha256, "code_version": night.code_version, "tables": about,
        }  # fmt: skip
        try:
            store.swap(f"{prefix}{MANIFEST}", _bytes(content), version)
        except Changed:
            raise NotNow(f"{prefix}{MANIFEST} was put by another process") from None


def _write(con: warehouse.Connection, table: PublishedTable, path: Path, night: Night) -> int:
    """Write one table as Parquet; returns its rows."""
    about = f"{{run_id: {warehouse.literal(night.run_id)}, night: {warehouse.literal(night.started_at)}}}"
    con.execute(
        f"COPY (FROM night.{warehouse.quoted(table.name)}) TO {warehouse.literal(path)} "
        f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {about})"
    )
    return con.sql(f"SELECT count(*) FROM night.{warehouse.quoted(table.name)}").fetchall()[0][0]


def _folder(night: Night) -> str:
    """`nights/<run id>-<sha>`."""
    return f"{NIGHTS}{night.run_id}-{night.sha256[:12]}"


def _damage(store: FileStore, night: Night) -> list[str]:
    """Files of a night that are missing or have another size than its manifest says; empty if it is whole."""
    folder = _folder(night)
    there = {key: entry.bytes for key, entry in store.entries(f"{folder}/").items()}
    if f"{folder}/{MANIFEST}" not in there:
        return [f"file {folder}/{MANIFEST} is missing"]
    about = _content(store.read(f"{folder}/{MANIFEST}")).get("tables", {})
    with opened(night.path) as con:
        names = list(rows_of(con))
    try:
        sizes: dict[str, int] = {f"{folder}/{about[name]['file']}": int(about[name]["bytes"]) for name in names}
    except (KeyError, TypeError, ValueError):
        return [f"file {folder}/{MANIFEST} is damaged"]
    return [
        f"file {key} has {there[key]:,} of {size:,} bytes" if key in there else f"file {key} is missing"
        for key, size in sizes.items()
        if there.get(key) != size
    ]


def _keys(nights: dict[str, dict[str, int]]) -> list[str]:
    """The keys of nights, each night's manifest first: a night that is half removed is none."""
    return [key for files in nights.values() for key in sorted(files, key=lambda key: not key.endswith(f"/{MANIFEST}"))]


def _json(found: tuple[bytes, str] | None) -> dict[str, Any]:
    """A JSON object; empty if there is no file. Raises StoreError if it is damaged."""
    if found is None:
        return {}
    try:
        content = json.loads(found[0])
        if isinstance(content, dict):
            return content  # pyright: ignore[reportUnknownVariableType]
    except ValueError:
        pass
    raise NotDelivered(f"{OWNER} is damaged: it is no JSON object; restore or remove it")


def _content(found: tuple[bytes, str] | None) -> dict[str, Any]:
    """A JSON object that is replaced where it is damaged: then it counts as empty."""
    try:
        return _json(found)
    except NotDelivered:
        return {}


def _bytes(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def _check_folder(root: Path) -> None:
    """Raise NotDelivered if the folder, or the first parent that exists, can't be written."""
    at = next(path for path in (root, *root.parents) if path.exists())
    if not at.is_dir() or not os.access(at, os.W_OK | os.X_OK):
        raise NotDelivered(f"{at} is no folder that can be written")
