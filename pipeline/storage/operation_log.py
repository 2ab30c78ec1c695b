"""Log of manual operations: rollbacks, forgotten users, clean-ups, replays. One JSON line each."""

import getpass
import os
import socket
from typing import Any

from pipeline.core.filesystem import free_name
from pipeline.core.paths import Home
from pipeline.core.run_ids import utcnow
from pipeline.storage import state_files


def record(home: Home, dataset: str, operation: str, **fields: object) -> dict[str, Any]:
    """Append an entry with user and time, synced. Returns the entry."""
    entry = {"operation": operation, "at": utcnow().isoformat(), "by": who(), **fields}
    path = home.operations(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    free_name(path)
    state_files.append_records(path, [entry])
    return entry


def read(home: Home, dataset: str, operation: str | None = None) -> list[dict[str, Any]]:
    """All entries, or those of one operation, oldest first. Damaged entries are left out."""
    entries = [entry for entry in state_files.read_records(home.operations(dataset)) if _is_entry(entry)]
    return [entry for entry in entries if operation in (None, entry["operation"])]


def _is_entry(entry: dict[str, Any]) -> bool:
    texts = [entry.get(name) for name in ("from", "to", "at", "by")]
    return isinstance(entry.get("operation"), str) and all(text is None or isinstance(text, str) for text in texts)


def who() -> str:
    """`user@host`; the numeric user id if the user has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's list, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
