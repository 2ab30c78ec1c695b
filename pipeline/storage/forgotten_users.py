"""Users whom every later run excludes: one list of salted hashes per data set, next to its journal.

Only hashes of the ids are kept. (Short numeric ids can be found by trying them all; the list has the same access
rights as the journal.)
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard, cast

from pipeline.core.filesystem import sync, write_atomically
from pipeline.core.paths import Home
from pipeline.storage import state_files

REDACTED = "(forgotten)"
"""Replaces the text of a source line that names a forgotten user."""
ADVICE = (
    "it names the users who were forgotten, so no night runs without it: put it back from a backup, or remove it and "
    "forget each of them again with --force before the next night"
)
DELIMITERS = (",", "\t", ";", "|", "::", " ")


@dataclass(frozen=True)
class Forgotten:
    """The list. `id in forgotten` is true if a user is on it."""

    salt: str = ""
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether the list has any user."""
        return bool(self.hashes)

    def __contains__(self, user_id: str) -> bool:
        """Whether a user is on the list; ids are compared exactly."""
        return self.hash_of(user_id) in self.hashes

    def hash_of(self, user_id: str) -> str:
        """SHA-256 of the salt and the id."""
        return hashlib.sha256(f"{self.salt}{user_id}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def digest(self) -> str:
        """Hash of the whole list: part of the key of each result that was made without these users."""
        return hashlib.sha256("".join([self.salt, *sorted(self.hashes)]).encode()).hexdigest()[:16]

    def named_in(self, line: str, delimiters: Iterable[str] = ()) -> bool:
        """Whether any field of a raw source line is the id of a forgotten user, with any known delimiter."""
        fields = {line}
        for delimiter in {*DELIMITERS, *delimiters}:
            fields.update(line.split(delimiter))
        bare = {field.strip().strip("\"'") for field in fields}
        return any(field in self for field in fields | bare | {field.replace('""', '"') for field in bare})


def read(home: Home, dataset: str) -> Forgotten:
    """The list of a data set; empty if no user was forgotten.

    Raises state_files.Damaged if it can't be read: a run without it would publish the users on it.
    """
    path = home.forgotten(dataset)
    try:
        content = state_files.load(path, dict, ADVICE)
    except FileNotFoundError:
        return Forgotten()
    salt, users = content.get("salt"), content.get("users")
    if not (isinstance(salt, str) and salt and _is_list_of_texts(users) and all(map(_is_hash, users))):
        raise state_files.Damaged(path, "it has no salt or no list of hashes", ADVICE)
    return Forgotten(salt, frozenset(users))


def _is_hash(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def add(home: Home, dataset: str, user_id: str) -> Forgotten:
    """Add a user to the list, atomically. Returns the new list."""
    found = read(home, dataset)
    found = found if found.salt else Forgotten(secrets.token_hex(16))
    found = replace(found, hashes=found.hashes | {found.hash_of(user_id)})
    write(home, dataset, found)
    return found


def write(home: Home, dataset: str, listed: Forgotten) -> None:
    """Replace the list, atomically."""
    path = home.forgotten(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"salt": listed.salt, "users": sorted(listed.hashes)}, indent=2))


@dataclass
class Pending:
    """A `forget` that has begun and is not complete. Only its file has the id, and only its owner can read the file."""

    path: Path
    user: str = field(repr=False)
    done: list[str] = field(default_factory=list[str])
    """Steps that are complete."""
    left: list[str] = field(default_factory=list[str])
    """Descriptions, without the id, of what could not be cleared."""

    def save(self) -> None:
        """Write the record, atomically and synced. `drop_remains` removes a temporary file that a kill left."""
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
        """Remove the record: the user is forgotten."""
        self.path.unlink(missing_ok=True)
        sync(self.path.parent)


def begin(home: Home, dataset: str, user_id: str) -> Pending:
    """Record that a user is about to be forgotten. An existing record is used again, with all steps still to do."""
    same = [found for found in pending(home, dataset) if found.user == user_id]
    path = same[0].path if same else home.forgotten(dataset).with_name(f"forgetting-{secrets.token_hex(4)}.json")
    begun = Pending(path, user_id)
    begun.save()
    return begun


def pending(home: Home, dataset: str) -> list[Pending]:
    """Those that have begun and are not done. A damaged record is named once and left out."""
    found: list[Pending] = []
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
    return isinstance(value, list) and all(isinstance(each, str) for each in cast("list[object]", value))


def drop_remains(home: Home, dataset: str) -> None:
    """Remove temporary files of such records that killed processes left. The caller holds the lock."""
    for path in home.forgotten(dataset).parent.glob("forgetting-*.json.next"):
        path.unlink(missing_ok=True)


def is_pending(home: Home, dataset: str, path: Path) -> bool:
    """Whether a file is such a record; a damaged one is not, so that it is searched."""
    if path.parent != home.forgotten(dataset).parent or not path.match("forgetting-*.json"):
        return False
    return any(found.path == path for found in pending(home, dataset))
