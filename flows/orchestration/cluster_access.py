"""Where the Ray cluster is, and the token that it asks for."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.orchestration.subprocesses import HOST, Service, free_port
from pipeline.core import child_processes
from pipeline.core.errors import SettingsError
from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.storage import state_files
from pipeline.storage.secret_files import secret_at

AUTO = "auto"
TOKEN, TOKEN_PATH, ADDRESS = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"
OF_RAY = Path(".ray") / "auth_token"
"""Where Ray itself looks for a token, in the user's home directory."""


LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
STAY_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Without it, set to 0, Ray takes an address of the loopback for the machine's own in the network."""


FIRST_PORT = 6379
OWNER = "home"
"""File of the session folder that names the home which made it."""
SESSIONS, SESSION = Path("/tmp"), "nightrecs-ray-"  # noqa: S108 - mkdtemp makes it
"""Where the session folder is, and how its name begins. Paths of sockets must be short, so it is not in the home. Ray
lets every user write to its own folders, so they are in one that only the owner can enter."""
STORE_BYTES = 100 * 2**20
"""Of Ray's object store, which stays empty."""


@dataclass(frozen=True)
class Door:
    """Address and token of a cluster."""

    address: str
    token: str = field(repr=False)


def file_of(home: Home) -> Path:
    """Address of the cluster that `nightrecs up --ray` started in this home."""
    return home.warehouse / "ray.json"


def token_file_of(home: Home) -> Path:
    """Its token; only the owner can read it."""
    return home.api_auth.with_name("ray-token")


def find(home: Home, address: str, environ: Mapping[str, str] = os.environ) -> Door:
    """The cluster at `address`; `auto`: that of `up --ray` of this home, else that of RAY_ADDRESS.

    The token is that of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, else of `up --ray`, else of ~/.ray/auth_token. Raises
    SettingsError without one of both.
    """
    own = _own(home)
    if address == AUTO:
        address = own or environ.get(ADDRESS, "")
        if not address:
            raise SettingsError(
                'scale.address = "auto": no cluster is known. Start one with `nightrecs up --ray`, or set '
                f'{ADDRESS} or scale.address = "HOST:PORT"'
            )
    places = [Path(environ[TOKEN_PATH])] if environ.get(TOKEN_PATH) else []
    places += [token_file_of(home)] if own == address else []
    places += [Path.home() / OF_RAY]
    token = environ.get(TOKEN) or next((text for place in places if (text := _text(place))), None)
    if not token:
        raise SettingsError(
            f'scale.engine = "ray": no token for the cluster at {address}. Set {TOKEN} to the cluster\'s, or '
            f"{TOKEN_PATH} to a file that has it"
        )
    return Door(address, token)


def environment(door: Door) -> dict[str, str]:
    """Variables of processes that speak with the cluster."""
    found = {
        "RAY_AUTH_MODE": "token", TOKEN: door.token, "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }  # fmt: skip
    if door.address.rpartition(":")[0] in LOOPBACK:
        found[STAY_ON_LOOPBACK] = "0"
    return found


def of_this_machine(home: Home) -> tuple[Service, dict[str, str]]:
    """The head of a cluster of this machine only, on loopback, and the environment of it and of the nights that use it.

    It asks for a token that only the home's owner can read. Raises SettingsError if Ray is not installed.
    """
    require_ray("nightrecs up --ray")
    clean(home)  # of an `up` that was killed
    address, token = f"{HOST}:{free_port(FIRST_PORT)}", secret_at(token_file_of(home))
    session = tempfile.mkdtemp(prefix=SESSION, dir=SESSIONS)  # only the owner can enter it
    Path(session, OWNER).write_text(str(home.root))
    write_atomically(file_of(home), json.dumps({"address": address, "session": session}))
    arguments = ["--head", "--block", f"--node-ip-address={HOST}", f"--port={address.rpartition(':')[2]}"]
    arguments += ["--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}"]
    arguments += [f"--temp-dir={Path(session, 'r')}"]
    command = child_processes.command("ray.scripts.scripts", "start", *arguments)
    return Service("Ray", command), environment(Door(address, token))


def clean(home: Home) -> None:
    """Remove what tells others of the cluster of `up --ray`, and its session folder. It must have ended.

    The folder of another home, of which this one is a copy, stays.
    """
    session = Path(_recorded(home).get("session", ""))
    is_ours = session.name.startswith(SESSION) and session.parent == SESSIONS and not session.is_symlink()
    if is_ours and _text(session / OWNER) == str(home.root):
        shutil.rmtree(session, ignore_errors=True)
    file_of(home).unlink(missing_ok=True)


def require_ray(what: str) -> None:
    """Raise SettingsError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(f"{what} needs Ray: pip install 'nightrecs[scale]'")


def _own(home: Home) -> str:
    return _recorded(home).get("address", "")


def _recorded(home: Home) -> dict[str, str]:
    """Address and session folder of the cluster of `up --ray`; empty if there is none."""
    found = state_files.read(file_of(home), dict) or {}
    return {str(key): str(value) for key, value in found.items()}


def _text(place: Path) -> str:
    try:
        return place.read_text().strip()
    except OSError:
        return ""
