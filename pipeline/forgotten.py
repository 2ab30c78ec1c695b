"""Users whom every later night leaves out: a list of salted hashes a data set, beside its journal.

The ids themselves are not kept, only what recognises them. (Short numeric ids can be found by trying them all;
the list is as readable as the journal.)
"""

import hashlib
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline import journal, state_files
from pipeline.paths import Home

REDACTED = "(forgotten)"
"""Stands for the text of a source line that names a forgotten user."""
ADVICE = (
    "it names the users who were forgotten, so no night runs without it: put it back from a backup, or remove it and "
    "forget each of them again with --force before the next night"
)
DELIMITERS = (",", "\t", ";", "|", "::", " ")


@dataclass(frozen=True)
class Forgotten:
    """The list; `id in forgotten` tells whether a user is on it."""

    salt: str = ""
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether anybody is on it."""
        return bool(self.hashes)

    def __contains__(self, user_id: str) -> bool:
        """Ids are compared exactly, as everywhere."""
        return self.hash_of(user_id) in self.hashes

    def hash_of(self, user_id: str) -> str:
        """SHA-256 of the salt and the id."""
        return hashlib.sha256(f"{self.salt}{user_id}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def digest(self) -> str:
        """Of the whole list: part of the key of what was made without these users."""
        return hashlib.sha256("".join([self.salt, *sorted(self.hashes)]).encode()).hexdigest()[:16]

    def named_in(self, line: str, delimiters: Iterable[str] = ()) -> bool:
        """Whether any field of a raw source line is such an id, whatever delimiter made the fields."""
        fields = {line}
        for delimiter in {*DELIMITERS, *delimiters}:
            fields.update(line.split(delimiter))
        bare = {field.strip().strip("\"'") for field in fields}
        return any(field in self for field in fields | bare | {field.replace('""', '"') for field in bare})


def read(home: Home, dataset: str) -> Forgotten:
    """The list of a data set; empty where nobody was forgotten.

    Raises state_files.Damaged where it can't be read: a night without it would publish those whom it names.
    """
    path = home.forgotten(dataset)
    try:
        content = state_files.load(path, dict, ADVICE)
    except FileNotFoundError:
        return Forgotten()
    salt, users = content.get("salt"), content.get("users")
    if not (isinstance(salt, str) and salt and isinstance(users, list) and all(map(_is_hash, users))):
        raise state_files.Damaged(path, "it has no salt or no list of hashes", ADVICE)
    return Forgotten(salt, frozenset(users))


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def add(home: Home, dataset: str, user_id: str) -> Forgotten:
    """Put a user on the list, atomically; returns it."""
    found = read(home, dataset)
    found = found if found.salt else Forgotten(secrets.token_hex(16))
    found = replace(found, hashes=found.hashes | {found.hash_of(user_id)})
    path = home.forgotten(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    journal.write_atomically(path, json.dumps({"salt": found.salt, "users": sorted(found.hashes)}, indent=2))
    return found
