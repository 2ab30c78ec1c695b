"""The servers that `nightrecs up` runs for a home, as other processes find them."""

from pathlib import Path
from typing import Any, cast

from pipeline.core.paths import Home
from pipeline.storage import state_files
from pipeline.storage.lock import lock_holder

LOCK = "_up"
"""Name of the lock that `up` holds for as long as it runs."""


def state(home: Home) -> Path:
    """File with the process id and URLs of a running `up`."""
    return home.warehouse / "up.json"


def running_up(home: Home) -> dict[str, Any] | None:
    """Process id and URLs of the running `up` of this home; None if there is none, or it is still starting."""
    holder = lock_holder(home.lock(LOCK)) or ""
    found = state_files.read(state(home), dict) or {}
    urls: Any = found.get("urls")
    if not (isinstance(urls, dict) and all(isinstance(url, str) for url in cast(dict[Any, Any], urls).values())):
        return None
    return found if f"process {found.get('pid')}," in holder else None
