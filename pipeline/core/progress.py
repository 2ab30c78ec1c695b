"""How far the running stage is, told to whoever watches. Nobody does, until the command line says who."""

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.core.redaction import masked
from pipeline.core.terminal import plain


class Watcher:
    """Nobody: what is said goes to stderr, a line each, and the rest is dropped."""

    watches = False
    """Whether figures of every epoch are shown as they come, so that lines about them can be left out."""

    def say(self, text: str, ids: str = "") -> None:
        """Talk, for people; `ids` of users and items follow on the terminal, and are kept nowhere."""
        print(text + ids, file=sys.stderr, flush=True)

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def rows(self, rows: int) -> None:
        """So many rows go into it."""

    def at(
        self, unit: str, done: int, of: int | None, figures: Mapping[str, float] | None = None, rows: int | None = None
    ) -> None:
        """`done` of `of` units (epochs, trials, files) are over, with `figures`; `rows` were gone through in all.

        A unit that is told later belongs to the one told before it, and starts anew with it: epochs of a trial.
        """

    def end(self) -> None:
        """The stage is over, well or not."""


watcher = Watcher()


def say(text: str, ids: str = "") -> None:
    """Tell the watcher, without secrets and without control characters."""
    watcher.say(plain(masked(text)), plain(masked(ids)))


@functools.cache
def say_once(text: str) -> None:
    """Say it, but not again in this process."""
    say(text)


@contextmanager
def watched_by(someone: Watcher) -> Iterator[None]:
    """Tell `someone` while the block runs."""
    global watcher
    before, watcher = watcher, someone
    try:
        yield
    finally:
        someone.end()
        watcher = before
