"""Entries of the journal that a task keeps aside, for the driver to write: see journal.py."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Entry = tuple[str, Any]
"""The kind (the name of a table, or ARTIFACT, NOTE or RUN), and the content, which is JSON."""
ARTIFACT, NOTE, RUN = "#artifact", "#note", "#run"
_ASIDE: ContextVar[list[Entry] | None] = ContextVar("journal entries kept aside", default=None)


@contextmanager
def aside() -> Generator[list[Entry]]:
    """Within the block, and in its thread, nothing is written to a journal: the entries are collected in the list."""
    entries: list[Entry] = []
    before = _ASIDE.set(entries)
    try:
        yield entries
    finally:
        _ASIDE.reset(before)


def kept_aside(kind: str, content: object) -> bool:
    """Whether this is a task; then the entry is now in its list."""
    entries = _ASIDE.get()
    if entries is None:
        return False
    entries.append((kind, json.loads(json.dumps(content, default=str))))
    return True
