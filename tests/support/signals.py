"""Signal handlers as a shell leaves them."""

import signal


def default_signals() -> None:
    """A test run in the background hands down ignored signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
