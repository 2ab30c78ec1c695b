"""Access to the Prefect server of a home: its auth string, and the server settings that require it."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.core.paths import Home
from pipeline.storage.running_servers import running_up
from pipeline.storage.secret_files import one_time, secret_at

NO_ORIGIN = "none"
"""No browser sends this Origin. An empty list would count as an absent setting."""
LOCAL = ("127.0.0.1", "localhost")


def file_of(home: Home) -> Path:
    """File of the home's auth string."""
    return home.api_auth


def auth_of(home: Home) -> str:
    """The auth string of the home, created at first use; UnreadableInput if other users can read it."""
    return secret_at(file_of(home))


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
