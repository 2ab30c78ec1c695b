"""Files of a folder or of a prefix of a bucket (S3, GCS): put whole, create if absent, swap if unchanged, list, remove.

Keys are relative, with `/`. Buckets are in `buckets`.
"""

import fcntl
import glob
import os
import secrets
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from pipeline.core.filesystem import sync
from pipeline.storage.copying import copy_file

_ABANDONED = 3_600.0  # seconds


class StoreError(Exception):
    """A folder or a bucket does not do what is asked. The message has no credentials. Trying again would not help."""


class StoreDown(StoreError):
    """A folder or a bucket does not answer: trying again may help."""


class Place(Protocol):
    """The settings of a store."""

    @property
    def url(self) -> str:
        """A path, file:///path, s3://bucket/prefix or gs://bucket/prefix."""
        ...

    @property
    def endpoint(self) -> str | None:
        """URL of an S3 service; None: that of the environment, or AWS."""
        ...

    @property
    def region(self) -> str | None:
        """Region of an S3 bucket; None: that of the environment."""
        ...


@dataclass(frozen=True)
class Entry:
    """A file of a list."""

    bytes: int
    modified: float
    """Seconds since 1970."""


class Missing(Exception):
    """There is no file to `get`."""


class AlreadyThere(Exception):
    """The key of `create` exists."""


class Changed(Exception):
    """The file of `swap` is not the one that was read."""


class FileStore(Protocol):
    """What users of files need. Other errors are StoreError and StoreDown."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Content and version of a small file; None if there is none."""
        ...

    def create(self, key: str, content: bytes) -> None:
        """Write a small file that must not exist. Raises AlreadyThere."""
        ...

    def swap(self, key: str, content: bytes, version: str | None) -> None:
        """Replace a small file, atomically for readers; None: it must not exist. Raises Changed."""
        ...

    def put(self, key: str, path: Path) -> None:
        """Write the content of a local file; the key appears when it is complete."""
        ...

    def get(self, key: str, path: Path) -> None:
        """Write a file to a local path, which is not there. Raises Missing."""
        ...

    def entries(self, prefix: str = "") -> dict[str, Entry]:
        """Files by key, of the keys with a prefix, sorted."""
        ...

    @property
    def odd_key(self) -> str | None:
        """A key that `entries` found and that can't be read or removed here, such as `a//b`."""
        ...

    def any_key(self) -> str | None:
        """Some key; None if there is none."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that do not exist are ignored."""
        ...


class Folder:
    """A folder of a file system. Made where it is missing."""

    odd_key = None

    def __init__(self, root: Path):
        self.root = root

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The version is the SHA-256 of the content."""
        with _explained_os():
            try:
                content = (self.root / key).read_bytes()
            except FileNotFoundError:
                return None
        return content, sha256(content).hexdigest()

    def create(self, key: str, content: bytes) -> None:
        """By a hard link, which fails if the name is taken; by O_EXCL where there are none."""
        with _explained_os():
            part = self._written(key, content)
            try:
                os.link(part, self.root / key)
            except FileExistsError:
                raise AlreadyThere(key) from None
            except OSError:  # no hard links in this file system
                try:
                    (self.root / key).open("xb").close()
                except FileExistsError:
                    raise AlreadyThere(key) from None
                part.replace(self.root / key)
            finally:
                part.unlink(missing_ok=True)
            sync((self.root / key).parent)

    def swap(self, key: str, content: bytes, version: str | None) -> None:
        """By a rename, under a lock on the folder, where its file system has locks."""
        with _explained_os():
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = self.read(key)
            if (found and found[1]) != version:
                raise Changed(key)
            with _explained_os():
                self._written(key, content).replace(self.root / key)
                sync((self.root / key).parent)
        finally:
            os.close(descriptor)

    def put(self, key: str, path: Path) -> None:
        """Copied next to the name, then renamed."""
        with _explained_os():
            part = self._part(key)
            copy_file(path, part, 0o644)
            sync(part)
            part.replace(self.root / key)
            sync(part.parent)

    def get(self, key: str, path: Path) -> None:
        """A copy. Raises Missing."""
        with _explained_os():
            try:
                copy_file(self.root / key, path, 0o640)
            except FileNotFoundError:
                raise Missing(key) from None

    def entries(self, prefix: str = "") -> dict[str, Entry]:
        """Unfinished files are listed, too: their names end with `.part`."""
        found: dict[str, Entry] = {}
        with _explained_os():
            for path in (self.root / prefix.rpartition("/")[0]).rglob("*"):
                with suppress(FileNotFoundError):  # removed meanwhile
                    if path.is_file():
                        stat = path.stat()
                        found[path.relative_to(self.root).as_posix()] = Entry(stat.st_size, stat.st_mtime)
        return {key: entry for key, entry in sorted(found.items()) if key.startswith(prefix)}

    def any_key(self) -> str | None:
        """The first file that is found."""
        with _explained_os():
            found = next((path for path in self.root.rglob("*") if path.is_file()), None)
        return found and found.relative_to(self.root).as_posix()

    def remove(self, keys: Iterable[str]) -> None:
        """Folders that are empty then go, too; the root stays."""
        with _explained_os():
            for key in keys:
                path = self.root / key
                path.unlink(missing_ok=True)
                with suppress(OSError):  # not empty
                    while (path := path.parent) != self.root:
                        path.rmdir()

    def _part(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of killed writers
            with suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > _ABANDONED:
                    old.unlink()
        return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")

    def _written(self, key: str, content: bytes) -> Path:
        part = self._part(key)
        part.write_bytes(content)
        part.chmod(0o644)
        sync(part)
        return part


def store_of(settings: Place) -> FileStore:
    """The store of a place. Raises StoreError for an endpoint that is not allowed."""
    if settings.url.startswith(("s3://", "gs://")):
        from pipeline.storage.buckets import Bucket  # imports obstore where it is used

        return Bucket(settings)
    return Folder(Path(settings.url.removeprefix("file://")))


@contextmanager
def _explained_os() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StoreDown(
            f"{error.filename or 'the folder'} can't be written or read: {error.strerror or error}"
        ) from None
