"""Makes a home of a backup, in a new folder. Every file is verified before the folder gets its name."""

import fcntl
import os
import shutil
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from pipeline.core.errors import Locked, UnreadableInput
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import sync
from pipeline.core.paths import Home
from pipeline.maintenance import archive
from pipeline.storage import home_identity


@dataclass(frozen=True)
class Restored:
    """A home that was restored."""

    home: Home
    files: int
    bytes: int
    header: archive.Header


def restore(file: Path, home: Home) -> Restored:
    """Restore `file` as `home`, whose folder must not exist or be empty.

    The folder is built under another name, verified, and renamed. Then stored paths are changed to the new place, as
    for a home that was copied or moved. Raises UnreadableInput where the folder has something in it, and where the file
    is damaged, incomplete or no backup: then nothing is left.
    """
    root = home.root
    if not file.is_file():
        raise UnreadableInput(f"there is no file {file}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UnreadableInput(f"{root} exists and is not empty; a restore overwrites nothing. Choose a new folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f".{root.name}.restoring.lock").open("a")
    except PermissionError as error:
        raise UnreadableInput(f"can't write to {root.parent}: {error.strerror}") from None
    with lock, _building(root, lock) as folder:
        header, entries = Unpacker(file, folder).unpack()
        fault("restore:before_rename")
        folder.rename(root)
        sync(root.parent)
    home_identity.settle(home)
    return Restored(home, len(entries), sum(entry.bytes for entry in entries.values()), header)


@contextmanager
def _building(root: Path, lock: TextIO) -> Generator[Path]:
    """An empty folder next to `root`, held by `lock`; what a killed restore left there is removed."""
    folder = root.with_name(f".{root.name}.restoring")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked(f"another restore to {root} is running") from None
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.name).unlink(missing_ok=True)


class Unpacker:
    """Writes the files of a backup into a folder, and verifies them when it has read all."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file, self.folder = file, folder
        self.header: archive.Header | None = None
        self.wanted: dict[str, archive.Entry] | None = None
        """By name; from the end of the file."""
        self.found: dict[str, tuple[str, int]] = {}
        """SHA-256 and size by name."""

    def unpack(self) -> tuple[archive.Header, dict[str, archive.Entry]]:
        """Header and entries of a backup whose files are now in the folder, verified and synced."""
        try:
            with tarfile.open(self.file, "r|", bufsize=archive.CHUNK) as tar:
                for member, content in archive.members(tar, self.file):
                    self._take(member, content)
        except UnreadableInput:
            raise
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise UnreadableInput(f"{self.file} is damaged or no backup: {error}. Nothing was restored") from None
        if self.header is None or self.wanted is None:
            raise UnreadableInput(f"{self.file} is incomplete: it has no checksums at its end. Nothing was restored")
        self._verify(self.wanted)
        self._finish(self.wanted)
        return self.header, self.wanted

    def _take(self, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        name, file = member.name, self.file
        if self.header is None:
            if name != archive.HEADER:
                raise UnreadableInput(f"{file} is no backup of nightrecs: it does not begin with {archive.HEADER}")
            found = archive.read_json(member, content, archive.LARGEST_HEADER, file)
            self.header = archive.read_header(found, file)
        elif self.wanted is not None or name in self.found:
            raise UnreadableInput(f"{file} is damaged: {name[:80]!r} in it is there twice or after the end")
        elif name == archive.CHECKSUMS:
            checksums = archive.read_json(member, content, archive.LARGEST_CHECKSUMS, file)
            self.wanted = archive.read_checksums(checksums, file)
        else:
            self.found[name] = self._write(archive.path_of(name, self.folder, file), content)
            fault("restore:after_file")

    def _write(self, path: Path, content: IO[bytes]) -> tuple[str, int]:
        hashed = archive.Hashed(content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise UnreadableInput(f"{self.file} is damaged: a file in it is in the place of {path.name!r}") from None
        with target:
            shutil.copyfileobj(hashed, target, archive.CHUNK)  # type: ignore[arg-type]  # it only reads
            target.flush()
            os.fsync(target.fileno())
        return hashed.digest.hexdigest(), hashed.bytes

    def _verify(self, wanted: dict[str, archive.Entry]) -> None:
        """Raise UnreadableInput unless exactly the listed files are there, each with its content."""
        wrong = [name for name, entry in wanted.items() if self.found.get(name) != (entry.sha256, entry.bytes)]
        wrong += [name for name in self.found if name not in wanted]
        if wrong:
            first = ", ".join(repr(name[:80]) for name in wrong[:3])
            raise UnreadableInput(
                f"{self.file} is damaged: {len(wrong):,} of its {len(wanted):,} files are missing or differ from their "
                f"checksum ({first}). Nothing was restored"
            )

    def _finish(self, wanted: dict[str, archive.Entry]) -> None:
        """Set modes and times, which the record of the live file has, and sync the folders."""
        for name, entry in wanted.items():
            path = archive.path_of(name, self.folder, self.file)
            path.chmod(entry.mode & 0o640 | 0o400)
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
        for at in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            at.chmod(0o750)
            sync(at)
