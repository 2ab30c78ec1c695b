"""Users whom every later night leaves out: a list of salted hashes a data set, beside its journal.

The ids themselves are not kept, only what recognises them. (Short numeric ids can be found by trying them all;
the list is as readable as the journal.)
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

from pipeline.core.filesystem import sync, write_atomically
from pipeline.core.paths import Home
from pipeline.storage import state_files

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
    write_atomically(path, json.dumps({"salt": found.salt, "users": sorted(found.hashes)}, indent=2))
    return found


@dataclass
class Pending:
    """A `forget` that has begun and is not done: the only file at rest that has the id, and readable by nobody else."""

    path: Path
    user: str = field(repr=False)
    done: list[str] = field(default_factory=list)
    """Steps that need not be taken again."""
    left: list[str] = field(default_factory=list)
    """What could not be cleared, in words without the id."""

    def save(self) -> None:
        """Write it, atomically and synced; what a kill leaves of a temporary file, `drop_remains` removes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".next")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"user": self.user, "done": self.done, "left": self.left}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        sync(self.path.parent)

    def end(self) -> None:
        """It is done."""
        self.path.unlink(missing_ok=True)
        sync(self.path.parent)


def begin(home: Home, dataset: str, user_id: str) -> Pending:
    """Record that a user is about to be forgotten; the one that is there already, with all its steps to take again."""
    same = [found for found in pending(home, dataset) if found.user == user_id]
    path = same[0].path if same else home.forgotten(dataset).with_name(f"forgetting-{secrets.token_hex(4)}.json")
    begun = Pending(path, user_id)
    begun.save()
    return begun


def pending(home: Home, dataset: str) -> list[Pending]:
    """Those that have begun and are not done. A damaged record is named once and left out."""
    found = []
    for path in sorted(home.forgotten(dataset).parent.glob("forgetting-*.json")):
        content = state_files.read(path, dict)
        if content is None:
            continue
        user, done, left = (content.get(name) for name in ("user", "done", "left"))
        if isinstance(user, str) and _is_list_of_texts(done) and _is_list_of_texts(left):
            found.append(Pending(path, user, done, left))
        else:
            state_files.skip(path, "it does not say which user is to be forgotten, and what is done; forget them again")
    return found


def _is_list_of_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def drop_remains(home: Home, dataset: str) -> None:
    """Remove what kills left of such records while they were written; the holder of the lock may."""
    for path in home.forgotten(dataset).parent.glob("forgetting-*.json.next"):
        path.unlink(missing_ok=True)


def is_pending(home: Home, dataset: str, path: Path) -> bool:
    """Whether a file is such a record; a damaged one is not, so that it is searched."""
    if path.parent != home.forgotten(dataset).parent or not path.match("forgetting-*.json"):
        return False
    return any(found.path == path for found in pending(home, dataset))
