"""A process that does one file operation per line of its input, for shared_home.py. Run as a file; nothing to import.

Each line is a JSON object: `do`, `name` and, by operation, `text` or `to`. Each answer is a JSON text.
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import TextIO


class FileOperations:
    """Operations in one folder. An operation that the file system refuses answers `refused`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.open: dict[str, TextIO] = {}

    def lock(self, name: str) -> str:
        """Take a lock, without waiting."""
        file = (self.folder / name).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return "refused"
        self.open[name] = file
        return "done"

    def unlock(self, name: str) -> str:
        """Release a lock."""
        self.open.pop(name).close()
        return "done"

    def create(self, name: str, text: str) -> str:
        """Create a file that must not exist."""
        try:
            descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return "refused"
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return "done"

    def read(self, name: str) -> str | None:
        """Content of a file; null if it is not there."""
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return None

    def replace(self, name: str, to: str) -> str:
        """Rename a file, or a folder, onto another."""
        try:
            os.replace(self.folder / name, self.folder / to)
        except OSError:
            return "refused"
        return "done"

    def link(self, name: str, to: str) -> str:
        """Make a hard link."""
        try:
            os.link(self.folder / name, self.folder / to)
        except OSError:
            return "refused"
        return "done"


def main() -> None:
    """Answer until the input ends."""
    operations = FileOperations(Path(sys.argv[1]))
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(getattr(operations, wanted.pop("do"))(**wanted)), flush=True)


if __name__ == "__main__":
    main()
