"""One logger: no message, handler or traceback can bring out a secret or steer a terminal."""

import base64
import io
import logging
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.console import LOGGER, Redaction, TerminalHandler, log, log_once, terminal_handler
from pipeline.core.paths import CHECKOUT
from pipeline.core.terminal import plain

SECRET = "hunter2-hunter2"
ENCODED = base64.b64encode(f"me:{SECRET}".encode()).decode()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIGHTRECS_TEST_PASSWORD", SECRET)
    monkeypatch.setenv("NIGHTRECS_TEST_AUTH_STRING", f"me:{SECRET}")


class Everything(logging.Handler):
    """A handler of somebody else's: its own formatter, and all that a record carries."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s %(indent)s %(ids)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self.format(record), repr(record.__dict__)]


def logged(text: str, *args: object, level: int = logging.INFO, ids: object = None, error: Exception | None = None):
    """What each handler makes of one record: the terminal's, and everything that a foreign one could keep."""
    out, everything = io.StringIO(), Everything()
    log.addHandler(everything)
    try:
        with terminal_handler.writing_with(lambda line: print(line, file=out)):
            log.log(level, text, *args, extra={"ids": ids}, exc_info=error, stack_info=True)
    finally:
        log.removeHandler(everything)
    return out.getvalue(), everything.texts


@given(
    before=st.text(max_size=20), after=st.text(max_size=20),
    secret=st.sampled_from([SECRET, ENCODED, f"postgresql://u:{SECRET}@host/db"]),
    level=st.sampled_from([logging.INFO, logging.WARNING, logging.ERROR]),
    place=st.sampled_from(["text", "argument", "id", "column", "error"]),
)  # fmt: skip
def test_no_handler_sees_a_secret_wherever_it_is(before: str, after: str, secret: str, level: int, place: str):
    text = f"{before}\x1b[2J{secret}\x07{after}"
    shown, kept = {
        "text": lambda: logged(text, level=level),
        "argument": lambda: logged("about %s", text, level=level),
        "id": lambda: logged("about", level=level, ids={"user_id": [text]}),
        "column": lambda: logged("about", level=level, ids={text: ["u1"]}),
        "error": lambda: logged("about", level=level, error=ValueError(text)),
    }[place]()
    for made in (shown, *kept):
        assert SECRET not in made and ENCODED not in made
        assert "\x1b" not in made and "\x07" not in made
    assert "***" in shown


@given(st.text())
def test_a_message_is_shown_as_it_is_given(text: str):
    shown, _ = logged(text)
    assert shown.startswith(plain(text))


def test_warnings_and_ids_are_marked_on_the_terminal_only():
    ids = {"user_id": ["u1", "u2"], "item_id": []}
    shown, (formatted, _) = logged("  3 bad rows", level=logging.WARNING, ids=ids)
    assert shown.splitlines()[0] == "  warning: 3 bad rows [user_id 'u1', 'u2']"
    assert formatted.startswith("3 bad rows ")


def test_lines_go_to_the_stderr_of_the_moment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    log.info("one")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", io.StringIO())
        log.info("elsewhere")
    with pytest.raises(ZeroDivisionError), terminal_handler.writing_with(lambda line: None):
        raise ZeroDivisionError
    log.warning("two")
    assert capsys.readouterr().err == "one\nwarning: two\n"


def test_a_stderr_that_is_closed_is_an_error_of_the_caller(monkeypatch: pytest.MonkeyPatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    with pytest.raises(ValueError, match="closed"):
        log.info("lost")


def test_once_is_once(capsys: pytest.CaptureFixture[str]):
    log_once.cache_clear()
    for _ in range(3):
        log_once("only now")
    assert capsys.readouterr().err == "warning: only now\n"


def test_the_filter_is_on_the_logger_and_there_is_no_other():
    assert [type(each) for each in log.filters] == [Redaction] and not log.propagate
    assert len([each for each in log.handlers if isinstance(each, TerminalHandler)]) == 1
    others = [
        f"{path.relative_to(CHECKOUT)}: {found}"
        for root in ("flows", "pipeline")
        for path in sorted((CHECKOUT / root).rglob("*.py"))
        for found in re.findall(r"getLogger\((.*?)\)", path.read_text())
        if path.name != "console.py" and (found in ("", "__name__") or LOGGER in found)
    ]
    assert not others, "use pipeline.core.console.log: a child logger's records would not pass its filter"
    assert not [name for name in logging.root.manager.loggerDict if name.startswith(f"{LOGGER}.")]
