"""What people did between the nights: rollbacks, forgotten users, clean-ups, replays. One JSON line each."""

import getpass
import json
import os
import socket
from typing import Any

from pipeline.paths import Home
from pipeline.run import utcnow


def record(home: Home, dataset: str, operation: str, **fields: Any) -> dict[str, Any]:
    """Add a line, synced, with who and when; returns it."""
    entry = {"operation": operation, "at": utcnow().isoformat(), "by": who(), **fields}
    path = home.operations(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if file.tell():
            file.write("\n")  # a torn last line must not take the next one with it
        file.write(json.dumps(entry, default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return entry


def read(home: Home, dataset: str, operation: str | None = None) -> list[dict[str, Any]]:
    """All lines, or those of one operation, oldest first; torn ones are left out."""
    path = home.operations(dataset)
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [entry for entry in entries if operation in (None, entry.get("operation"))]


def who() -> str:
    """`user@host`, as far as the system knows them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's list, as in some containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
