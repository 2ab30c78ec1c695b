"""Errors that end a command or a stage, with the exit code each one means."""

from collections.abc import Mapping, Sequence


class ContractError(ValueError):
    """A frame does not keep its contract."""


Ids = Mapping[str, Sequence[str]]
"""Ids of users and items, and raw source lines, by column: what a message is about, kept out of its prose."""


class Naming(Exception):
    """An error whose message has no ids: they are in `ids`, so that a user can be forgotten without a text search."""

    def __init__(self, message: str = "", ids: Ids | None = None):
        super().__init__(message)
        self.ids: Ids = {column: list(values) for column, values in (ids or {}).items() if values}


class Refused(Naming):
    """Ran, but a check refuses to publish: exit code 3, the published tables are as they were."""


class Held(RuntimeError):
    """Another process has a published file open for writing: exit code 4. Names the process."""


class UnreadableInput(Naming, ValueError):
    """Input that can't be read, or a home that can't be written: exit code 2. Names the file and what to do."""


def with_ids(message: str, ids: Ids | None) -> str:
    """A message and its ids, for the terminal only: `... [user_id 'u7'; item_id 'i1']`."""
    said = "; ".join(f"{column} {', '.join(map(repr, values))}" for column, values in (ids or {}).items() if values)
    return f"{message} [{said}]" if said else message


class SettingsError(ValueError):
    """A setting that a person can mend; the message says file, key and what to do."""


class Locked(RuntimeError):
    """Another night of the same data set runs in this home."""


class Skipped(Exception):
    """A family can't be used on this data; the message says why."""


OURS = (SettingsError, Refused, UnreadableInput, Locked)
