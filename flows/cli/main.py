"""Runs a command: dispatch, errors as one readable paragraph, exit codes, signals."""

import importlib
import os
import signal
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from flows.cli.options import build_parser
from pipeline.core import child_processes
from pipeline.core.errors import Held, LakeDown, Locked, Refused, SettingsError, UnreadableInput, with_ids
from pipeline.core.filesystem import ADVICE, is_full, is_utf8
from pipeline.core.redaction import masked
from pipeline.core.terminal import plain

DONE, CRASHED, USAGE, REFUSED, LOCKED = range(5)
FOR_LIBRARIES = {
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads of torch would spin and starve other processes
    # Polars keeps freed memory for some seconds and reuses it: fetching new pages costs a quarter of the CPU time
    "_RJEM_MALLOC_CONF": "narenas:1,oversize_threshold:0,dirty_decay_ms:5000,muzzy_decay_ms:5000",
}
"""Environment variables that torch and Polars read when they are loaded. Values set by the user stay."""


class Terminated(BaseException):
    """A signal ended the process. The night's journal is closed while this exception propagates."""

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = parsed(sys.argv[1:] if argv is None else argv)
    debug = getattr(options, "debug", False)
    options.home = getattr(options, "home", None)
    for name, value in FOR_LIBRARIES.items():
        os.environ.setdefault(name, value)
    child_processes.share()
    try:
        with signals_raised(), target_chosen(options):
            if options.home:
                os.environ["NIGHTRECS_HOME"] = str(options.home)
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
        code = exit_code(error)
        crash = f"{type(error).__name__}: " if code == CRASHED else ""
        message = with_ids(f"nightrecs: {crash}{error}", getattr(error, "ids", None))
        print(plain(masked(message)), file=sys.stderr)
        if code == CRASHED and is_full(error):
            print(ADVICE, file=sys.stderr)
        elif code == CRASHED and not debug and not isinstance(error, LakeDown):  # which says what to do
            print("This should not happen. Add --debug to see where it did.", file=sys.stderr)
        return code


def parsed(arguments: Sequence[str]) -> Namespace:
    """The options of a command line. Ends with exit code 2 where it is wrong."""
    parser = build_parser()
    for value in (*arguments, os.environ.get("NIGHTRECS_HOME", "")):
        if not is_utf8(value):
            parser.error(f"{value!a} is not UTF-8: no file or table could store it")
    return parser.parse_args(arguments)


def execute(options: Namespace) -> int:
    """Import the command's module and call its handler."""
    if options.needs_home:
        from pipeline.core.paths import Home
        from pipeline.storage import home_identity

        home_identity.check(Home.resolve(options.home))
    module, _, name = options.handler.partition(":")
    code = getattr(importlib.import_module(module), name)(options)
    sys.stdout.flush()  # a closed pipe shows here, not at exit
    return code or DONE


@contextmanager
def target_chosen(options: Namespace) -> Iterator[None]:
    """Set the home of `--target` or NIGHTRECS_TARGET, for this command and the processes that it starts.

    `--home` alone leaves the variable out. Raises SettingsError for an unknown target, or for both options.
    """
    before = {name: os.environ.get(name) for name in ("NIGHTRECS_TARGET", "NIGHTRECS_PROJECT")}
    wanted = getattr(options, "target", None)
    try:
        if wanted is not None and options.home:
            raise SettingsError("--home and --target both say where to write: give one of them")
        if wanted is not None:
            os.environ["NIGHTRECS_TARGET"] = wanted
        elif options.home:
            os.environ.pop("NIGHTRECS_TARGET", None)
        if wanted == "":
            raise SettingsError("--target is empty: name a target of nightrecs.toml")
        if os.environ.get("NIGHTRECS_TARGET"):
            from pipeline.core import targets

            target = targets.chosen()
            assert target and target.file
            options.home, os.environ["NIGHTRECS_PROJECT"] = str(target.home), str(target.file)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def signals_raised() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP, unless the parent process ignores them (nohup)."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
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
    """The documented exit code of an error."""
    if isinstance(error, SettingsError | UnreadableInput):
        return USAGE
    if isinstance(error, Refused):
        return REFUSED
    return LOCKED if isinstance(error, Locked | Held) else CRASHED
