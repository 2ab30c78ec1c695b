"""Files of a folder or of a prefix of an S3 bucket: put whole, create if absent, swap if unchanged, list, remove.

Keys are relative, with `/`. The only importer of obstore in this package.
"""

import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.config.destinations import ParquetDestination, check_endpoint
from pipeline.core.filesystem import sync
from pipeline.destinations.errors import NotDelivered, NotNow
from pipeline.storage.copying import copy_file

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Store

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
CONNECT_SECONDS = 10
_MESSAGE = re.compile(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", re.DOTALL)
_DENIED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "NoSuchBucket", "InvalidBucketName",
           "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken", "PermanentRedirect")  # fmt: skip


class AlreadyThere(Exception):
    """The key of `create` exists."""


class Changed(Exception):
    """The file of `swap` is not the one that was read."""


class FileStore(Protocol):
    """What a destination of files needs. Other errors are NotDelivered and NotNow."""

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

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes by key, of the keys with a prefix."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that do not exist are ignored."""
        ...


class Folder:
    """A folder of a file system. Made where it is missing."""

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
        """By a rename. The check before it is enough: a folder has one owner, whose lock the caller holds."""
        found = self.read(key)
        if (found and found[1]) != version:
            raise Changed(key)
        with _explained_os():
            self._written(key, content).replace(self.root / key)
            sync((self.root / key).parent)

    def put(self, key: str, path: Path) -> None:
        """Copied next to the name, then renamed."""
        with _explained_os():
            part = self._part(key)
            copy_file(path, part, 0o644)
            sync(part)
            part.replace(self.root / key)
            sync(part.parent)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Unfinished files are listed, too: their names end with `.part`."""
        with _explained_os():
            paths = [path for path in self.root.rglob("*") if path.is_file()]
            found = {path.relative_to(self.root).as_posix(): path.stat().st_size for path in paths}
        return {key: size for key, size in sorted(found.items()) if key.startswith(prefix)}

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
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        return part

    def _written(self, key: str, content: bytes) -> Path:
        part = self._part(key)
        part.write_bytes(content)
        part.chmod(0o644)
        sync(part)
        return part


class Bucket:
    """A prefix of an S3 bucket."""

    def __init__(self, settings: ParquetDestination):
        bucket, _, prefix = settings.url.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.store = _store(bucket, settings)

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The version is the e-tag."""
        import obstore

        with _explained_s3():
            try:
                found = obstore.get(self.store, self.prefix + key)
                return bytes(found.bytes()), str(found.meta["e_tag"])
            except (FileNotFoundError, obstore.exceptions.NotFoundError):
                return None

    def create(self, key: str, content: bytes) -> None:
        """By a put with `If-None-Match: *`."""
        import obstore

        with _explained_s3():
            try:
                obstore.put(self.store, self.prefix + key, content, mode="create")
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                raise AlreadyThere(key) from None

    def swap(self, key: str, content: bytes, version: str | None) -> None:
        """By a put with `If-Match`."""
        import obstore

        if version is None:
            try:
                return self.create(key, content)
            except AlreadyThere:
                raise Changed(key) from None
        with _explained_s3():
            try:
                obstore.put(self.store, self.prefix + key, content, mode={"e_tag": version})
            except obstore.exceptions.PreconditionError:
                raise Changed(key) from None
        return None

    def put(self, key: str, path: Path) -> None:
        """Larger files in parts; S3 shows the key when all are there."""
        import obstore

        with _explained_s3():
            obstore.put(self.store, self.prefix + key, path)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """By listing the prefix."""
        import obstore

        with _explained_s3():
            pages = obstore.list(self.store, prefix=self.prefix or None)
            found = {each["path"].removeprefix(self.prefix): each["size"] for page in pages for each in page}
        return {key: size for key, size in sorted(found.items()) if key.startswith(prefix)}

    def remove(self, keys: Iterable[str]) -> None:
        """One by one, in order."""
        import obstore

        with _explained_s3():
            for key in keys:
                with suppress(FileNotFoundError, obstore.exceptions.NotFoundError):
                    obstore.delete(self.store, self.prefix + key)


def store_of(settings: ParquetDestination) -> FileStore:
    """The store of a destination. Raises NotDelivered for an endpoint that is not allowed."""
    return Bucket(settings) if settings.is_bucket else Folder(Path(settings.url))


def _store(bucket: str, settings: ParquetDestination) -> "S3Store":
    """Endpoint and region from the settings or the environment; credentials from the environment or the machine."""
    from obstore.store import S3Store

    variable = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    endpoint = settings.endpoint or (os.environ[variable] if variable else None)
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS), "timeout": timedelta(minutes=10), "allow_http": False,
    }  # fmt: skip
    if endpoint:
        try:
            check_endpoint(endpoint)
        except ValueError as error:
            raise NotDelivered(f"{variable or 'publish.parquet.endpoint'}: {error}") from None
        options["allow_http"] = endpoint.startswith("http://")
    region = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config: S3Config = {"region": region, "endpoint": endpoint} if endpoint else {"region": region}
    retries: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}
    with _explained_s3():
        return S3Store(bucket, config=config, client_options=options, retry_config=retries)


@contextmanager
def _explained_os() -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise NotNow(f"{error.filename or 'the folder'} can't be written or read: {error.strerror or error}") from None


@contextmanager
def _explained_s3() -> Generator[None]:
    """Raise errors of obstore as NotDelivered or NotNow, without the parts of a response that name keys."""
    import obstore

    try:
        yield
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        found = _MESSAGE.search(str(error))
        code, about = (found[1], found[2] or "") if found else ("", "")
        text = f"{code}: {about}".rstrip(": ") if code else " ".join(str(error).split("\n")[0].split())[:300]
        denied = code in _DENIED or isinstance(
            error, (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
        )
        raise (NotDelivered if denied else NotNow)(f"the bucket: {text} ({type(error).__name__})") from None
