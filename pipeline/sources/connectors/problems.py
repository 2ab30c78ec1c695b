"""Messages of what can't be fetched: where the key is, what happened, what to do. Never a password."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.redaction import masked

LONGEST = 600
"""Characters of a server's message that are shown."""


@dataclass(frozen=True)
class Where:
    """A section of a data set's TOML, for messages."""

    toml: Path
    section: str
    """`source`, `items`, `users` or `impressions`."""

    def key(self, name: str) -> str:
        """`/home/me/shop.toml: source.query`."""
        return f"{self.toml}: {self.section}.{name}"

    def setting(self, name: str, message: str) -> SettingsError:
        """The error of a wrong setting."""
        return SettingsError(f"{self.key(name)}: {message}")

    def unreadable(self, name: str, message: str, secrets: Iterable[str] = ()) -> UnreadableInput:
        """The error of something that can't be read now; `secrets` are masked in it."""
        for secret in secrets:
            message = message.replace(secret, "***") if secret else message
        return UnreadableInput(f"{self.key(name)}: {masked(message)}")


def shortened(message: str) -> str:
    """A server's message on one line, without the query that it repeats and without debugging details."""
    for mark in ("Query was:", "Debug source:"):
        message = message.partition(mark)[0]
    text = " ".join(message.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"


def missing_extra(where: Where, key: str, what: str) -> SettingsError:
    """The error where the packages of the extra are not installed."""
    return where.setting(key, f"{what} needs the extra `connectors`: pip install 'nightrecs[connectors]'")
