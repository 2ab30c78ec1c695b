"""The nightrecs command: dispatch, errors as one readable paragraph, exit codes, signals."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from flows.cli.options import Parser, build_parser
from pipeline.core import child_processes
from pipeline.core.errors import Held, Locked, Refused, SettingsError, UnreadableInput
from pipeline.core.filesystem import ADVICE, is_full
from pipeline.core.redaction import masked
from pipeline.core.terminal import plain

__all__ = ["Parser", "Terminated", "build_parser", "main"]

DONE, CRASHED, USAGE, REFUSED, LOCKED = range(5)
ELSEWHERE = {
    "run": "flows.cli.run:run_night",
    "init": "flows.cli.init:init",
    "doctor": "flows.cli.doctor:doctor",
    "explain": "flows.cli.explain:explain",
    "leaderboard": "flows.cli.leaderboard:leaderboard",
    "status": "flows.cli.status:status",
    "runs": "flows.cli.runs:runs",
    "rollback": "flows.cli.operate:rollback",
    "gc": "flows.cli.operate:gc",
    "forget": "flows.cli.forget:forget",
    "replay": "flows.cli.replay:replay",
    "schedule": "flows.cli.schedule:schedule",
    "up": "flows.cli.up:up",
    "bench": "flows.cli.bench:bench",
    "report": "flows.cli.report:report",
}
"""Commands that are not in flows.look; a command returns its exit code, or None for 0."""
HOMELESS = ("datasets", "recipes", "models", "init", "doctor")
"""Commands that need no home; doctor says itself what is wrong with it."""
FOR_LIBRARIES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's threads spin while they wait, which starves whoever shares the machine
    # Polars keeps freed memory for some seconds and uses it again: new pages cost a quarter of the CPU time otherwise
    "_RJEM_MALLOC_CONF": "narenas:1,oversize_threshold:0,dirty_decay_ms:5000,muzzy_decay_ms:5000",
}
"""Environment that torch and Polars read when they are loaded; what the user has set stays."""


class Terminated(BaseException):
    """A signal asked us to end; the night's journal is closed on the way out."""

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = build_parser().parse_args(argv)
    debug = getattr(options, "debug", False)
    options.home = getattr(options, "home", None)
    if options.home:
        os.environ["NIGHTRECS_HOME"] = str(options.home)
    for name, value in FOR_LIBRARIES.items():
        os.environ.setdefault(name, value)
    child_processes.share()
    try:
        with signals_raised():
            return execute(options)
    except KeyboardInterrupt:
        print("nightrecs: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated as end:
        print(f"nightrecs: {end}", file=sys.stderr)
        return 128 + end.number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes stdout at exit
        return 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            print(plain(masked(traceback.format_exc())), file=sys.stderr)
        from pipeline.core.errors import with_ids  # it imports polars

        code = exit_code(error)
        crash = f"{type(error).__name__}: " if code == CRASHED else ""
        message = with_ids(f"nightrecs: {crash}{error}", getattr(error, "ids", None))
        print(plain(masked(message)), file=sys.stderr)
        if code == CRASHED and is_full(error):
            print(ADVICE, file=sys.stderr)
        elif code == CRASHED and not debug:
            print("This should not happen. Add --debug to see where it did.", file=sys.stderr)
        return code


def execute(options: Any) -> int:
    """Dispatch to the command's module."""
    if options.command not in HOMELESS:
        from pipeline.core.paths import Home
        from pipeline.storage import home_identity

        home_identity.check(Home.resolve(options.home))
    module, _, name = ELSEWHERE.get(options.command, f"flows.cli.query:{options.command}").partition(":")
    code = getattr(importlib.import_module(module), name)(options)
    sys.stdout.flush()  # a closed pipe shows here, not at exit
    return code or DONE


@contextmanager
def signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP become Terminated, unless whoever started us ignores them (nohup)."""

    def end(number: int, frame: Any) -> NoReturn:
        raise Terminated(number)

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(error: Exception) -> int:
    """What an error means to whoever started us."""
    pass  # import gone

    if isinstance(error, SettingsError | UnreadableInput):
        return USAGE
    if isinstance(error, Refused):
        return REFUSED
    return LOCKED if isinstance(error, Locked | Held) else CRASHED


if __name__ == "__main__":
    sys.exit(main())
