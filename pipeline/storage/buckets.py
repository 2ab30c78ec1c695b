"""A prefix of an S3 or GCS bucket as a store of files. The only importer of obstore in this package."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (obstore's functions have overloads for Arrow)

import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.destinations import check_endpoint
from pipeline.storage.file_stores import AlreadyThere, Changed, Entry, Missing, Place, StoreDown, StoreError

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ClientConfig, GCSStore, RetryConfig, S3Config, S3Store

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
CONNECT_SECONDS = 10
_CHUNK = 2**23  # bytes
_MESSAGE = re.compile(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", re.DOTALL)
_ODD = re.compile(r'"([^"]*//[^"]*)"')
_DENIED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "NoSuchBucket", "InvalidBucketName",
           "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidToken", "PermanentRedirect")  # fmt: skip


class Bucket:
    """A prefix of an S3 or GCS bucket."""

    def __init__(self, settings: Place):
        scheme, _, place = settings.url.partition("://")
        bucket, _, prefix = place.partition("/")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.store = _gcs(bucket) if scheme == "gs" else _s3(bucket, settings)
        self.is_gcs = scheme == "gs"
        self.odd_key: str | None = None

    def read(self, key: str) -> tuple[bytes, str] | None:
        """The version is the e-tag, or the generation."""
        import obstore

        with explained_s3():
            try:
                found = obstore.get(self.store, self.prefix + key)
                return bytes(found.bytes()), str(found.meta["version" if self.is_gcs else "e_tag"])
            except FileNotFoundError:
                return None

    def create(self, key: str, content: bytes) -> None:
        """By a put with `If-None-Match: *`."""
        import obstore

        with explained_s3():
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
        with explained_s3():
            try:
                obstore.put(self.store, self.prefix + key, content, mode=self._unchanged(version))
            except (obstore.exceptions.PreconditionError, FileNotFoundError):
                raise Changed(key) from None
        return None

    def _unchanged(self, version: str) -> "UpdateVersion":
        """The condition of a put: GCS compares generations, S3 e-tags."""
        return {"version": version} if self.is_gcs else {"e_tag": version}

    def put(self, key: str, path: Path) -> None:
        """Larger files in parts; S3 shows the key when all are there."""
        import obstore

        with explained_s3():
            obstore.put(self.store, self.prefix + key, path)

    def get(self, key: str, path: Path) -> None:
        """In pieces, so that memory is bounded. Raises Missing."""
        import obstore

        with explained_s3():
            try:
                found = obstore.get(self.store, self.prefix + key)
            except FileNotFoundError:
                raise Missing(key) from None
            with path.open("xb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)

    def entries(self, prefix: str = "") -> dict[str, Entry]:
        """By listing the folder of the prefix: obstore compares whole parts of keys.

        Empty objects that stand for a folder (their keys end with `/`) are left out. `odd_key` names one that obstore
        can't read, if there is one.
        """
        folder = (self.prefix + prefix).rpartition("/")[0]
        with explained_s3():
            found = {
                each["path"].removeprefix(self.prefix): Entry(each["size"], each["last_modified"].timestamp())
                for each in self._real(self._listed(folder))
            }
        return {key: entry for key, entry in sorted(found.items()) if key.startswith(prefix)}

    def any_key(self) -> str | None:
        """From the first pages of the list."""
        import obstore

        with explained_s3():
            for page in obstore.list(self.store, prefix=self.prefix or None, chunk_size=10):
                for each in self._real(page):
                    return each["path"].removeprefix(self.prefix)
        return None

    def _real(self, listed: "Iterable[ObjectMeta]") -> "Iterator[ObjectMeta]":
        """Objects whose keys are as listed: obstore drops the `/` at the end of a key."""
        import obstore

        for each in listed:
            if not each["path"].startswith(self.prefix):
                continue  # it stands for the folder itself
            if each["size"]:
                yield each
                continue
            with suppress(FileNotFoundError):
                yield obstore.head(self.store, each["path"])

    def _listed(self, folder: str) -> "Iterator[ObjectMeta]":
        """All objects of a folder that obstore can read: an empty part in one key (`a//b`) is an error of a list."""
        import obstore

        try:
            yield from [each for page in obstore.list(self.store, prefix=folder or None) for each in page]
            return
        except obstore.exceptions.InvalidPathError as error:
            named = _ODD.search(str(error))
            self.odd_key = named[1] if named else folder
        try:
            here = obstore.list_with_delimiter(self.store, folder or None)
        except obstore.exceptions.InvalidPathError:  # it is in this folder, and `/` sorts before all names of ours
            after = obstore.list(self.store, prefix=folder or None, offset=f"{folder}/0".lstrip("/"))
            yield from [each for page in after for each in page]
            return
        yield from here["objects"]
        for below in here["common_prefixes"]:
            yield from self._listed(below.rstrip("/"))

    def remove(self, keys: Iterable[str]) -> None:
        """One by one, in order."""
        import obstore

        with explained_s3():
            for key in keys:
                with suppress(FileNotFoundError):
                    obstore.delete(self.store, self.prefix + key)


def _gcs(bucket: str) -> "GCSStore":
    """Credentials from the environment (GOOGLE_APPLICATION_CREDENTIALS) or the machine."""
    from obstore.store import GCSStore

    with explained_s3():
        return GCSStore(bucket, client_options=_client(), retry_config=_retries())


def _client(allow_http: bool = False) -> "ClientConfig":
    return {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS), "timeout": timedelta(minutes=10),
        "allow_http": allow_http,
    }  # fmt: skip


def _retries() -> "RetryConfig":
    return {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


def _s3(bucket: str, settings: Place) -> "S3Store":
    """Endpoint and region from the settings or the environment; credentials from the environment or the machine."""
    from obstore.store import S3Store

    variable = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    endpoint = settings.endpoint or (os.environ[variable] if variable else None)
    if endpoint:
        try:
            check_endpoint(endpoint)
        except ValueError as error:
            raise StoreError(f"{variable or 'endpoint'}: {error}") from None
    region = settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    config: S3Config = {"region": region, "endpoint": endpoint} if endpoint else {"region": region}
    options = _client(allow_http=bool(endpoint and endpoint.startswith("http://")))
    with explained_s3():
        return S3Store(bucket, config=config, client_options=options, retry_config=_retries())


@contextmanager
def explained_s3() -> Generator[None]:
    """Raise errors of obstore as StoreError or StoreDown, without the parts of a response that name keys."""
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
        raise (StoreError if denied else StoreDown)(f"the bucket: {text} ({type(error).__name__})") from None
