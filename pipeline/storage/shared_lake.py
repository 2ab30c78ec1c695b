"""Results of stages in a bucket or a folder that several homes share: `[lake] url`.

<url>/<data set>/<layer>/<name>/manifest.json    put last, and only if there is none: the result is complete
<url>/<data set>/<layer>/<name>/<token>/<file>   its files, below a token of their writer: two writers never mix
<url>/<data set>/forgotten.json                  users whom every home leaves out, as salted hashes
<url>/<data set>/homes/<id>.json                 results that a home still needs, so that `gc` of another one keeps them

Stages read and write the home's own lake, which is a cache of this one: a result is fetched, checked and renamed into
place, or made there and then put here. Equal keys have equal content; where two homes differ all the same, the first
one counts. Journal, locks, published files, checkpoints and files of incremental sources stay in the home.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from pipeline.config.lake import Lake
from pipeline.core.console import log
from pipeline.core.errors import LakeDown, UnreadableInput
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, sha256, sync, temporary_name
from pipeline.core.paths import Home
from pipeline.core.redaction import masked
from pipeline.storage import forgotten_users, home_identity, lake, shared_homes
from pipeline.storage.file_stores import AlreadyThere, Changed, FileStore, Missing, StoreDown, StoreError, store_of
from pipeline.storage.home_paths import Relocation

FORMAT = 1
"""Raise it when earlier versions can't read what this version puts there."""
MANIFEST, PROBES = lake.MANIFEST, "probes/"
PAUSES = (2.0, 5.0, 15.0)
"""Seconds between attempts where the bucket does not answer. (The client has tried several times in each.)"""
ANYWHERE = Path("/nightrecs-home")
"""Stands for the home in manifests there."""
INSTALL = "pip install 'nightrecs[connectors]'"
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A manifest there."""

    manifest: dict[str, Any] | None
    """None: it is damaged."""
    version: str

    @property
    def token(self) -> str:
        """The writer's."""
        return str((self.manifest or {}).get("token", ""))

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 by name."""
        return dict((self.manifest or {}).get("files", {}))


class SharedLake:
    """The results of one data set there, as one home uses them."""

    def __init__(self, home: Home, dataset: str, settings: Lake):
        assert settings.url
        self.home, self.dataset, self.url = home, dataset, f"{settings.url}/{dataset}"
        self._place = _Place(self.url, settings.endpoint, settings.region)
        self._store: FileStore | None = None
        self._known_damaged: set[str] = set()
        """Results that `fetch` found damaged."""

    @property
    def store(self) -> FileStore:
        """The files. Raises StoreError."""
        if self._store is None:
            try:
                self._store = store_of(self._place)
            except ImportError as error:
                raise StoreError(f"{error.name} is not installed: {INSTALL}") from None
        return self._store

    @property
    def home_id(self) -> str:
        """Id of the home."""
        found = home_identity.read(self.home)
        return found.id if found else "unknown"

    def has(self, folder: Path) -> bool:
        """Whether the result of a folder of the home's lake is there. Raises StoreError."""
        found = self._found(folder)
        return found is not None and found.manifest is not None

    def fetch(self, folder: Path) -> bool:
        """Bring a result into the home; false if it is not there, or is damaged. Raises LakeDown."""
        found = self._patiently(lambda: self._found(folder))
        if found is None:
            return False
        temporary = self._fetched(folder, found)
        if temporary is None:
            self._known_damaged.add(folder.name)
            return False
        try:
            lake.place(temporary, folder)
        finally:
            delete(temporary)
        return True

    def keep(self, folder: Path) -> str | None:
        """Put a complete result of the home there, if it is not there whole. Raises LakeDown.

        If another home has put a different one there, that one replaces the home's own. Returns what is to be noted.
        """
        note: str | None = None
        for _ in range(5):
            found = self._patiently(lambda: self._found(folder))
            own = lake.read_manifest(folder)
            if found is not None and found.manifest is not None:
                if folder.name in self._known_damaged:
                    self._known_damaged.discard(folder.name)
                    note = f"the result in {self.url} was damaged, and is put there again"
                elif found.files == own["files"]:
                    damaged = self._damaged(folder, found)
                    if not damaged:
                        return note
                    note = f"its files {', '.join(damaged)} were damaged in {self.url}, and are put there again"
                elif temporary := self._fetched(folder, found):
                    self._replace(folder, temporary)
                    names = {*found.files, *own["files"]}
                    differ = sorted(name for name in names if found.files.get(name) != own["files"].get(name))
                    return (
                        f"the result in {self.url} differs from the one made here, in {', '.join(differ)}; "
                        "it was there first, so it is used"
                    )
                else:
                    note = f"the result in {self.url} was damaged, and is put there again"
            if self._put(folder, own, found):
                return note
        raise LakeDown(f"{self.url}: {folder.name} is changed by other homes all the time")

    def probe(self) -> str:
        """Try what a night relies on; returns what that is. Raises StoreError."""
        key, content = f"{PROBES}{secrets.token_hex(8)}", b"nightrecs"
        self.store.create(key, content)
        try:
            found = self.store.read(key)
            if found is None or found[0] != content:
                raise StoreError("what was written is not what is read back")
            try:
                self.store.create(key, b"again")
            except AlreadyThere:
                return "written, read and written only if absent"
            raise StoreError("it ignores `If-None-Match`, so two homes could replace each other's results")
        finally:
            self.store.remove([key])

    def check(self) -> None:
        """Raise UnreadableInput if a night could not use it."""
        try:
            self.probe()
        except StoreError as error:
            raise UnreadableInput(
                f"lake.url {self.url}: {masked(str(error))}. Check the network and the credentials in the environment "
                "(`nightrecs doctor`), or leave the lake out: --set lake.url=none"
            ) from None

    def _found(self, folder: Path) -> Found | None:
        """The manifest of a result there."""
        read = self.store.read(f"{_name(folder)}/{MANIFEST}")
        if read is None:
            return None
        try:
            manifest: object = json.loads(read[0])
        except ValueError:
            return Found(None, read[1])
        is_sound = isinstance(manifest, dict) and _is_sound(cast("dict[str, Any]", manifest), folder)
        return Found(cast("dict[str, Any]", manifest) if is_sound else None, read[1])

    def _fetched(self, folder: Path, found: Found) -> Path | None:
        """A temporary folder with a result from there, whole and checked; None if it is damaged."""
        if found.manifest is None:
            log.info(f"the manifest of {folder.name} in {self.url} is damaged: the result is made again")
            return None
        temporary = temporary_name(folder)
        temporary.mkdir(parents=True)
        try:
            for name, digest in found.files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                key, path = f"{_name(folder)}/{found.token}/{name}", temporary / name
                if not self._patiently(lambda key=key, path=path: self._got(key, path)) or sha256(path) != digest:
                    log.info(f"{name} of {folder.name} in {self.url} is damaged: the result is made again")
                    delete(temporary)
                    return None
                sync(path)
                fault("lake:mid_fetch")
            content = {key: value for key, value in found.manifest.items() if key not in ("token", "home", "own_hash")}
            lake.write_manifest(temporary, Relocation((str(ANYWHERE),), self.home.root).within(content))
            sync(temporary)
            fault("lake:before_place")
            return temporary
        except BaseException:
            delete(temporary)
            raise

    def _got(self, key: str, path: Path) -> bool:
        path.unlink(missing_ok=True)  # of an attempt that failed
        try:
            self.store.get(key, path)
        except Missing:
            return False
        return True

    def _damaged(self, folder: Path, found: Found) -> list[str]:
        """Files there that are missing or have another size than those of the home's equal result."""
        prefix = f"{_name(folder)}/{found.token}/"
        there = self._patiently(lambda: self.store.entries(prefix))
        sizes = {key.removeprefix(prefix): entry.bytes for key, entry in there.items()}
        return [name for name in found.files if sizes.get(name) != (folder / name).stat().st_size]

    def _put(self, folder: Path, own: dict[str, Any], found: Found | None) -> bool:
        """Put files, then the manifest, in place of `found` if there is one; false if another home was first."""
        token, prefix = f"{self.home_id[:8]}-{secrets.token_hex(8)}", _name(folder)
        keys: list[str] = []
        fault("lake:before_upload")
        for name in own["files"]:
            keys.append(f"{prefix}/{token}/{name}")
            self._patiently(lambda key=keys[-1], path=folder / name: self.store.put(key, path))
            fault("lake:mid_upload")
        theirs, _ = self._patiently(lambda: shared_homes.shared_list(self.store, self.url))
        if theirs.hashes - forgotten_users.read(self.home, self.dataset).hashes:
            self._patiently(lambda: self.store.remove(keys))
            log.info(f"{folder.name} stays in this home: another home of {self.url} has forgotten a user meanwhile")
            return True
        content = {key: value for key, value in own.items() if key != "own_hash"}
        content = Relocation((str(self.home.root),), ANYWHERE).within(content)
        content |= {"format": FORMAT, "token": token, "home": self.home_id}
        text = json.dumps({**content, "own_hash": _hash(content)}, indent=1).encode()
        fault("lake:before_shared_manifest")
        try:
            self._patiently(lambda: self._put_manifest(f"{prefix}/{MANIFEST}", text, found))
        except (AlreadyThere, Changed):  # by another home, or by an attempt of this one whose answer was lost
            now = self._patiently(lambda: self._found(folder))
            if now is None or now.token != token:
                self._patiently(lambda: self.store.remove(keys))
                return False
        fault("lake:after_shared_manifest")
        return True

    def _put_manifest(self, key: str, text: bytes, found: Found | None) -> None:
        if found is None:
            self.store.create(key, text)
        else:
            self.store.swap(key, text, found.version)

    def _replace(self, folder: Path, temporary: Path) -> None:
        """Put a checked result in the place of the home's own."""
        aside = temporary_name(folder)
        try:
            folder.rename(aside)
            lake.place(temporary, folder)
        finally:
            delete(temporary)
            delete(aside)

    def _patiently(self, action: Callable[[], T]) -> T:
        """The result of an action, tried again where the lake does not answer. Raises LakeDown."""
        for pause in (*PAUSES, None):
            try:
                return action()
            except StoreError as error:
                if pause is None or not isinstance(error, StoreDown):
                    raise LakeDown(
                        f"the lake {self.url} can't be used: {masked(str(error))}. What was made is kept in this home: "
                        "run again when it answers, and the night goes on from there; without it: --set lake.url=none"
                    ) from None
            time.sleep(pause)
        raise AssertionError


@dataclass(frozen=True)
class _Place:
    url: str
    endpoint: str | None
    region: str | None


def _name(folder: Path) -> str:
    """`2_clean/clean-<key>`."""
    return f"{folder.parent.name}/{folder.name}"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_sound(manifest: dict[str, Any], folder: Path) -> bool:
    """Whether a manifest is whole, is that of the folder, and names files inside of it only."""
    content = {key: value for key, value in manifest.items() if key != "own_hash"}
    files, token = manifest.get("files"), manifest.get("token")
    return (
        manifest.get("own_hash") == _hash(content)
        and manifest.get("format") == FORMAT
        and folder.name.endswith(f"-{manifest.get('key')}")
        and isinstance(files, dict)
        and all(_is_inside(str(name)) for name in [*cast("dict[str, str]", files), token])
    )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and MANIFEST not in path.parts[:1]
