"""The file of a backup: a tar (POSIX pax) with a header first, the files of a home, and their checksums last.

nightrecs-backup.json      format, time, id and path of the home, its data sets
warehouse/…, mlflow/…      regular files
nightrecs-checksums.json   SHA-256, size, mode and time of each of them; without it the file is incomplete
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from pipeline.core.errors import UnreadableInput

FORMAT = 1
"""Raise it when an older version can't restore what this version writes."""
HEADER, CHECKSUMS = "nightrecs-backup.json", "nightrecs-checksums.json"
FOLDERS = ("warehouse", "mlflow")
"""Folders of a home that a backup has files of."""
LARGEST_HEADER, LARGEST_CHECKSUMS = 2**20, 2**30
CHUNK = 2**20
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True)
class Header:
    """What a backup is of."""

    home_id: str
    home_path: str
    made_at: str
    written_by: str
    """Version of nightrecs."""
    datasets: tuple[str, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Entry:
    """One file of a backup."""

    sha256: str
    bytes: int
    mode: int
    mtime_ns: int


class Hashed:
    """Reads a file and keeps the SHA-256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        chunk = self.file.read(size)
        self.digest.update(chunk)
        self.bytes += len(chunk)
        return chunk


def add_file(tar: tarfile.TarFile, name: str, path: Path) -> Entry:
    """Add a file under `name`, as it is now. Raises OSError if it gets shorter meanwhile."""
    with path.open("rb") as file:
        stat = path.stat()
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = stat.st_size, stat.st_mode & 0o777, int(stat.st_mtime)
        hashed = Hashed(file)
        tar.addfile(info, hashed)  # type: ignore[arg-type]  # it only reads
    return Entry(hashed.digest.hexdigest(), hashed.bytes, info.mode, stat.st_mtime_ns)


def add_json(tar: tarfile.TarFile, name: str, content: Mapping[str, object]) -> None:
    """Add a JSON document."""
    data = json.dumps(content, indent=1).encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o640
    tar.addfile(info, io.BytesIO(data))


def as_json(record: Header | Entry) -> dict[str, object]:
    """The record as JSON content."""
    return asdict(record)


def members(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The members of a backup with their content. Raises UnreadableInput if one is no regular file."""
    for member in tar:
        content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            name = member.name[:80]
            raise UnreadableInput(f"{file} is no backup of nightrecs: {name!r} in it is no regular file")
        yield member, content


def read_json(member: tarfile.TarInfo, content: IO[bytes], largest: int, file: Path) -> dict[str, Any]:
    """The JSON object in a member."""
    try:
        if member.size > largest:
            raise ValueError(f"it has {member.size:,} bytes")
        found = json.loads(content.read())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (ValueError, RecursionError) as error:
        raise UnreadableInput(f"{file} is damaged: {member.name} in it can't be read: {error}") from None
    return cast("dict[str, Any]", found)


def read_header(content: dict[str, Any], file: Path) -> Header:
    """The header; UnreadableInput if this version can't restore the backup."""
    number = content.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise UnreadableInput(
            f"{file} was written by nightrecs {content.get('written_by')} in format {number}; this version restores "
            f"formats up to {FORMAT}. Install that version, or a newer one"
        )
    try:
        known: dict[str, Any] = {name: content[name] for name in Header.__dataclass_fields__}
        known["datasets"] = tuple(map(str, known["datasets"]))
        return Header(**known)
    except (KeyError, TypeError) as error:
        raise UnreadableInput(f"{file} is damaged: {HEADER} in it is incomplete ({error})") from None


def read_checksums(content: dict[str, Any], file: Path) -> dict[str, Entry]:
    """The checksums by name."""
    try:
        return {str(name): Entry(**entry) for name, entry in content["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableInput(f"{file} is damaged: {CHECKSUMS} in it is incomplete ({error})") from None


def path_of(name: str, root: Path, file: Path) -> Path:
    """Where a member belongs below `root`. Raises UnreadableInput for a name that is none of a home's files."""
    parts = PurePosixPath(name).parts
    plain = "/".join(parts) == name and not {"..", ".", ""} & set(name.split("/")) and not CONTROL.search(name)
    short = len(name) < 2_000 and all(len(part.encode(errors="replace")) <= 255 for part in parts)
    if not plain or not short or len(parts) < 2 or parts[0] not in FOLDERS:
        raise UnreadableInput(f"{file} is no backup of nightrecs: {name[:80]!r} in it is no file of a home")
    return root.joinpath(*parts)
