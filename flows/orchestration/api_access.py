"""Access to the Prefect server of a home: its auth string, and the server settings that require it."""

import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.storage import state_files
from pipeline.storage.lock import lock_holder

USER = "nightrecs"
"""Part before the colon, so that the string is also a user and a password for HTTP Basic."""
RANDOM_BYTES, SHORTEST = 32, 20
NO_ORIGIN = "none"
"""No browser sends this Origin. An empty list would count as an absent setting."""
LOCAL = ("127.0.0.1", "localhost")
LOCK = "_up"
"""Name of the lock that `up` holds for as long as it runs."""


def one_time() -> str:
    """A new random auth string."""
    return f"{USER}:{secrets.token_urlsafe(RANDOM_BYTES)}"


def file_of(home: Home) -> Path:
    """File of the home's auth string."""
    return home.api_auth


def auth_of(home: Home) -> str:
    """The auth string of the home, created at first use; UnreadableInput if other users can read it."""
    return secret_at(file_of(home))


def secret_at(path: Path) -> str:
    """The auth string in a file, created at first use; UnreadableInput if other users can read it."""
    if not path.exists():
        _make(path)
    return _read(path)


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


def _read(path: Path) -> str:
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


def settings(auth: str, origins: Iterable[str] = (), environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment of a Prefect server that answers only to `auth`, and of its clients.

    `origins` are those of its own UI. Each setting is given under both of its names: the user's environment may have
    either, and Prefect prefers the longer one.
    """
    allowed = ",".join(origins) or NO_ORIGIN
    server = {"CORS_ALLOWED_ORIGINS": allowed, "CSRF_PROTECTION_ENABLED": "true"}
    direct = [place for place in environ.get("NO_PROXY", environ.get("no_proxy", "")).split(",") if place]
    direct = ",".join([*direct, *(place for place in LOCAL if place not in direct)])
    return {
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_API_AUTH_STRING": auth,
        **{f"PREFECT_SERVER_{name}": value for name, value in server.items()},
        **{f"PREFECT_SERVER_API_{name}": value for name, value in server.items()},
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "true",
        "NO_PROXY": direct, "no_proxy": direct,  # a proxy would see the string
    }  # fmt: skip


def origins(port: int) -> list[str]:
    """Origins of a server of this machine, as browsers send them."""
    return [f"http://{place}:{port}" for place in LOCAL]


def protect_server(home: Home) -> None:
    """Call before this process uses Prefect: gives its temporary server a random auth string.

    An API that the user configured, by environment or in a profile, is used as it is. If it is that of the home's
    running `up`, the home's auth string is used.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    configured = get_current_settings().api
    if configured.url is None:
        os.environ.update(settings(one_time()))
    elif configured.auth_string is None and configured.url == api_of_up(home):
        os.environ["PREFECT_API_AUTH_STRING"] = auth_of(home)
    else:
        return
    refresh_global_settings_context()


def api_of_up(home: Home) -> str | None:
    """The API of a running `up` of this home."""
    found = running_up(home)
    url = found["urls"].get("Prefect") if found else None
    return f"{url}/api" if url else None


def running_up(home: Home) -> dict | None:
    """Process id and URLs of the running `up` of this home; None if there is none, or it is still starting."""
    holder = lock_holder(home.lock(LOCK)) or ""
    found = state_files.read(state(home), dict) or {}
    urls = found.get("urls")
    if not (isinstance(urls, dict) and all(isinstance(url, str) for url in urls.values())):
        return None
    return found if f"process {found.get('pid')}," in holder else None


def state(home: Home) -> Path:
    """File with the process id and URLs of a running `up`."""
    return home.warehouse / "up.json"
