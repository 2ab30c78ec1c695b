"""Progress of the running stage. The default listener ignores it; the command line shows it as a live line."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar


class ProgressListener:
    """Receives progress events. This one ignores them."""

    shows_epochs = False
    """Whether the metrics of every epoch are shown as they arrive, so that log lines about them can be left out."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def rows(self, rows: int) -> None:
        """The number of rows that the stage reads."""

    def advance(
        self,
        unit: str,
        done: int,
        total: int | None,
        metrics: Mapping[str, float] | None = None,
        rows: int | None = None,
    ) -> None:
        """`done` of `total` units (epochs, trials, files) are complete; `rows` is the number of rows processed so far.

        A unit reported after another one is nested in it and restarts with it: epochs of a trial.
        """

    def end(self) -> None:
        """The stage has ended, successfully or not."""


_listener: ContextVar[ProgressListener] = ContextVar("progress_listener", default=ProgressListener())  # noqa: B039


def listener() -> ProgressListener:
    """The listener of this context. A thread that does not inherit the context gets the default one."""
    return _listener.get()


@contextmanager
def listening(new: ProgressListener) -> Generator[None]:
    """Send progress to `new` while the block runs."""
    token = _listener.set(new)
    try:
        yield
    finally:
        new.end()
        _listener.reset(token)
