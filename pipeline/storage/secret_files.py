"""Files with one secret that only their owner can read, such as the login of a server."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from pipeline.core.errors import UnreadableInput

USER = "nightrecs"
"""Part before the colon, so that the string is also a user and a password for HTTP Basic."""
RANDOM_BYTES, SHORTEST = 32, 20


def one_time() -> str:
    """A new random auth string."""
    return f"{USER}:{secrets.token_urlsafe(RANDOM_BYTES)}"


def secret_at(path: Path) -> str:
    """The auth string in a file, created at first use; UnreadableInput if other users can read it."""
    if not path.exists():
        _make(path)
    return read_secret(path)


def read_secret(path: Path) -> str:
    """The auth string in a file; UnreadableInput if there is none, or if other users can read it."""
    again = f"rm {path}, and `nightrecs up` makes another one"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW)) as file:
            about = os.fstat(file.fileno())
            mode = stat.S_IMODE(about.st_mode)
            if not stat.S_ISREG(about.st_mode) or mode & 0o077:
                raise UnreadableInput(f"{path} is open to other users (mode {mode:04o}): {again}")
            found = file.read(1000).strip()
    except OSError as error:
        raise UnreadableInput(f"{path} can't be read ({error.strerror}): {again}") from None
    except UnicodeDecodeError:
        found = ""
    if len(found) < SHORTEST or not found.isprintable() or not found.isascii():
        raise UnreadableInput(f"{path} has no auth string: {again}")
    return found


def _make(path: Path) -> None:
    """Write a temporary file and link it: it is never seen half-written, and of two processes the first one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(one_time() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
