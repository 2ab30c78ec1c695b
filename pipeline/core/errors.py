"""Errors that end a command or a stage, with the exit code each one means."""

from collections.abc import Mapping, Sequence


class ContractError(ValueError):
    """A frame does not match its table's schema."""


Ids = Mapping[str, Sequence[str]]
"""Ids of users and items, and raw source lines, by column: what a message is about, kept out of its text."""


class ErrorWithIds(Exception):
    """An error that keeps ids in `ids`, not in its message, so that a user can be forgotten without a text search."""

    def __init__(self, message: str = "", ids: Ids | None = None):
        super().__init__(message)
        self.ids: Ids = {column: list(values) for column, values in (ids or {}).items() if values}


class Refused(ErrorWithIds):
    """The run was refused by a check: exit code 3. The published tables are unchanged."""


class Held(RuntimeError):
    """Another process has a published file open for writing: exit code 4. The message names the process."""


class UnreadableInput(ErrorWithIds, ValueError):
    """Unreadable input, or a home that can't be written: exit code 2. The message names the file and what to do."""


def with_ids(message: str, ids: Ids | None) -> str:
    """A message and its ids, for the terminal only: `... [user_id 'u7'; item_id 'i1']`."""
    listed = "; ".join(f"{column} {', '.join(map(repr, values))}" for column, values in (ids or {}).items() if values)
    return f"{message} [{listed}]" if listed else message


class SettingsError(ValueError):
    """An invalid setting: exit code 2. The message names the file and the key, and says what to do."""


class Locked(RuntimeError):
    """Another run of the same data set holds the lock of this home: exit code 4."""


class LakeDown(RuntimeError):
    """The shared lake can't be reached in the middle of a night, which then can't go on: exit code 1."""


class Skipped(Exception):
    """A model family can't be used on this data. The message says why."""


class OutOfTime(Skipped):
    """A model family can't be used within the time budget."""


OURS = (SettingsError, Refused, UnreadableInput, Locked)
