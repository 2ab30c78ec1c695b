"""The logger for everything that Nightrecs tells people, and the handler that writes it to stderr.

Use `log` everywhere; it is the only logger. Its filter redacts secrets and strips control characters before any
handler sees a record. Prefect adds its own handler to this logger, so flow runs get the same messages.
"""

import functools
import logging
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

from pipeline.core.errors import with_ids
from pipeline.core.redaction import masked
from pipeline.core.terminal import plain

LOGGER = "nightrecs"


class Redaction(logging.Filter):
    """Rewrites each record: without secrets and control characters, and with its indentation in `record.indent`.

    The message, an exception's traceback and the ids (`extra={"ids": …}`) are covered.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, cleaned in place."""
        text = _clean(record.getMessage())
        record.msg, record.args = text.lstrip(), ()
        record.indent = text[: len(text) - len(record.msg)]
        if record.exc_info and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        record.exc_info = None  # a formatter that formats it again would bring secrets back
        record.exc_text = record.exc_text and _clean(record.exc_text)
        record.stack_info = record.stack_info and _clean(record.stack_info)
        ids: Mapping[str, Sequence[str]] = getattr(record, "ids", None) or {}
        record.ids = {_clean(column): [_clean(value) for value in values] for column, values in ids.items()}
        return True


class TerminalFormatter(logging.Formatter):
    """The only formatter that shows ids: `warning: ` from WARNING on, the message, the ids in brackets."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One record as text, with the indentation that it was logged with."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return with_ids(f"{getattr(record, 'indent', '')}{prefix}{record.message}", getattr(record, "ids", None))


class TerminalHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is at the moment, or to `write` while a live line is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.write: Callable[[str], None] = _to_stderr
        self.setFormatter(TerminalFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record. Errors of the stream are raised, as `print` raises them."""
        self.write(self.format(record))

    @contextmanager
    def writing_with(self, write: Callable[[str], None]) -> Generator[None]:
        """Hand each formatted record to `write` while the block runs, in all threads."""
        before, self.write = self.write, write
        try:
            yield
        finally:
            self.write = before


def _clean(text: str) -> str:
    return plain(masked(text))


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _logger() -> tuple[logging.Logger, TerminalHandler]:
    logger, handler = logging.getLogger(LOGGER), TerminalHandler()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addFilter(Redaction())
    logger.addHandler(handler)
    return logger, handler


log, terminal_handler = _logger()


@functools.cache
def log_once(text: str, level: int = logging.WARNING) -> None:
    """Log a message once per process."""
    log.log(level, text)
