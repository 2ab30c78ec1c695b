"""Downloads objects of buckets (s3, gs) and files of web servers (https), by obstore.

Credentials, endpoint and region are those of the environment: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_… .
"""

import datetime as dt
import hashlib
import os
import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import UnreadableInput
from pipeline.core.fault_injection import fault
from pipeline.sources.connectors.fetched_objects import Known, stamp_of
from pipeline.sources.connectors.problems import Where, missing_extra, shortened

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

SCHEMES = ("s3", "gs", "https", "http")
_REMOTE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<place>[^/]*)/?(?P<key>.*)", re.DOTALL).fullmatch
_WILD = re.compile(r"[*?\[]").search
_CHUNK = 2**23  # bytes


def is_remote(pattern: str) -> bool:
    """Whether an entry of `files` is a URL."""
    return bool(_REMOTE(pattern))


def download(pattern: str, into: Path, where: Where, known: Known | None = None) -> tuple[int, int, int]:
    """Download what a pattern such as `s3://bucket/logs/*.csv` matches, but for objects of buckets that are `known`,
    which gets the others; returns the number of files and bytes, and how many objects were left out.

    Below `into` the pattern itself matches the downloaded files. Raises SettingsError for other URLs or without the
    extra `connectors`, and UnreadableInput if nothing matches or the store can't be reached.
    """
    scheme, place, key = _parsed(pattern, where)
    try:
        import obstore
    except ImportError:
        raise missing_extra(where, "files", pattern.partition("://")[0]) from None
    files = size = unchanged = 0
    try:
        store = _store(scheme, place)
        known = known if scheme in ("s3", "gs") else None
        for name, meta in _matching(store, key) if _WILD(key) else _named(store, key, known is not None):
            target, url = _target(into, scheme, place, name, where), f"{scheme}://{place}/{name}"
            if known and meta and known.is_kept(url, stamp_of(meta)):
                unchanged += 1
                continue
            found, digest = _get(store, name if scheme in ("s3", "gs") else unquote(name), target)
            if known and (stamp := stamp_of(found)):
                known.new[url] = (stamp, digest)
            if target.stat().st_size != found["size"]:
                raise where.unreadable("files", f"{url} was cut off while it was read: run again")
            files, size = files + 1, size + target.stat().st_size
            fault("fetch:after_file")
    except FileNotFoundError as error:
        raise where.unreadable("files", f"there is no {pattern}: {shortened(str(error))}") from None
    except (obstore.exceptions.BaseError, PermissionError, ValueError) as error:
        if isinstance(error, UnreadableInput):
            raise
        raise where.unreadable(
            "files", f"{pattern} can't be read: {shortened(str(error))}; {_advice(scheme)}"
        ) from None
    if not files + unchanged:
        raise where.unreadable("files", f"nothing matches {pattern}")
    return files, size, unchanged


def _get(store: "ObjectStore", key: str, target: Path) -> tuple["ObjectMeta", str]:
    """Write an object to a file; returns what its store says about it, and the SHA-256 of what was written."""
    import obstore

    found, digest = obstore.get(store, key), hashlib.sha256()
    with target.open("wb") as file:
        for chunk in found.stream(min_chunk_size=_CHUNK):
            file.write(chunk)
            digest.update(chunk)
            fault("fetch:mid_file")
    return found.meta, digest.hexdigest()


def _store(scheme: str, place: str) -> "ObjectStore":
    """The store of a bucket or web server. If it can't be reached, that is an error within ten seconds."""
    from obstore.store import GCSStore, HTTPStore, S3Store

    plain = scheme == "http" or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    client: ClientConfig = {"connect_timeout": "4s", "timeout": "300s", "allow_http": plain}
    retries: RetryConfig = {
        "max_retries": 3,
        "retry_timeout": dt.timedelta(seconds=6),
        "backoff": {
            "init_backoff": dt.timedelta(milliseconds=100),
            "max_backoff": dt.timedelta(seconds=2),
            "base": 2,
        },
    }
    if scheme == "s3":
        return S3Store(place, client_options=client, retry_config=retries)
    if scheme == "gs":
        return GCSStore(place, client_options=client, retry_config=retries)
    return HTTPStore(f"{scheme}://{place}", client_options=client, retry_config=retries)


def _advice(scheme: str) -> str:
    variables = {"s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL or AWS_SKIP_SIGNATURE",
                 "gs": "GOOGLE_APPLICATION_CREDENTIALS"}  # fmt: skip
    return f"check the network and the environment variables {variables[scheme]}" if scheme in variables else (
        "check the address and the network"
    )  # fmt: skip


def _parsed(pattern: str, where: Where) -> tuple[str, str, str]:
    """Scheme, bucket or host, and key of a URL."""
    found = _REMOTE(pattern)
    assert found
    scheme, place, key = found["scheme"].lower(), found["place"], found["key"]
    if scheme != found["scheme"] or scheme not in SCHEMES:
        raise where.setting("files", f"{found['scheme']}:// is not read; there are: s3://, gs://, https://")
    if not place or not key or key.endswith("/"):
        raise where.setting("files", f"{pattern!r} names no file: write {scheme}://bucket/folder/*.csv")
    if "@" in place:
        raise where.setting("files", "a URL with user or password would be readable in this file: leave them out")
    if scheme in ("https", "http"):
        if "?" in key or "#" in key or _WILD(key):
            raise where.setting(
                "files", f"{scheme}:// names one file, without * and without parameters, which are often keys: "
                "download it yourself, and name the file"
            )  # fmt: skip
        if scheme == "http" and (urlsplit(pattern).hostname or "") not in ("127.0.0.1", "localhost", "::1"):
            raise where.setting("files", "http:// can be changed on its way: use https://")
    return scheme, place, key


def _named(store: "ObjectStore", key: str, with_meta: bool) -> Iterator[tuple[str, "ObjectMeta | None"]]:
    """One key, with what its store says about it."""
    import obstore

    yield key, obstore.head(store, key) if with_meta else None


def _matching(store: "ObjectStore", pattern: str) -> Iterator[tuple[str, "ObjectMeta | None"]]:
    """Keys that match a glob, with what their store says: `*` stays within a folder, `**` does not."""
    import obstore

    prefix = pattern[: _WILD(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    matches = re.compile(_expression(pattern), re.DOTALL).fullmatch
    for batch in obstore.list(store, prefix=prefix or None):
        yield from sorted(((each["path"], each) for each in batch if matches(each["path"])), key=itemgetter(0))


def _expression(pattern: str) -> str:
    """The regular expression of a glob, as `files.find_files` reads it."""
    out, rest = "", pattern
    while rest:
        if rest.startswith("**/"):
            out, rest = f"{out}(?:[^/.][^/]*/)*", rest[3:]
        elif rest == "**":
            out, rest = f"{out}(?:[^/.][^/]*/)*[^/.][^/]*", ""
        elif (group := re.match(r"\[(!?)(\]?[^\]]*)\]", rest)) is not None:
            inside = group[2].replace("\\", "\\\\").replace("^", "\\^")
            out, rest = f"{out}[{'^' if group[1] else ''}{inside}]", rest[group.end() :]
        else:
            first = not out or out.endswith("/")
            any_one = "[^/.]" if first else "[^/]"
            out += {"*": f"(?:{any_one}[^/]*)?" if first else "[^/]*", "?": any_one}.get(rest[0], re.escape(rest[0]))
            rest = rest[1:]
    return out


def _target(into: Path, scheme: str, place: str, key: str, where: Where) -> Path:
    """The file of a key below `into`, in a folder that is there."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise where.unreadable("files", f"the key {key!r} has an empty part, or one of dots: copy the object")
    target = into / f"{scheme}:" / place / key
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
