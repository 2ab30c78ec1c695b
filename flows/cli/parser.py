"""The argument parser: argparse with readable errors, suggestions for mistyped words, and a handler per command."""

import argparse
import difflib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipeline.core.terminal import plain

USAGE = 2
MOST = 10**9
"""The largest number that options take: more rows, days or hours than there are, and any arithmetic has room."""
Command = Callable[..., "Parser"]
"""Adds a command; see `commands_of`."""


class Parser(argparse.ArgumentParser):
    """argparse that suggests the nearest known word."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Like argparse, but the command itself reports an unknown option, with the nearest known one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            of = parsers_of(self).get(getattr(options, "command", None), self)
            known = [name for name in of._option_string_actions if name.startswith("--")]
            hints = [nearest(word.split("=")[0], known) for word in unknown if word.startswith("-")]
            of.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
        return options

    def error(self, message: str) -> NoReturn:
        """Print one readable paragraph and exit 2."""
        if ": invalid choice: " in message:
            wrong, _, known = message.partition(": invalid choice: ")[2].partition(" (choose from ")
            words = known.removesuffix(")").replace("'", "").split(", ")
            wrong = wrong.strip("'\"")
            message = f"there is no {wrong!r}" + (nearest(wrong, words) or f"; there are: {', '.join(words)}")
        message = plain(message)
        print(f"{self.prog}: {message}\nSee `{self.prog} --help`.", file=sys.stderr)
        raise SystemExit(USAGE)


class Version(argparse.Action):
    """Print the installed version. It is read only when asked for, since that takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print `nightrecs 0.1.0` and exit 0."""
        from importlib.metadata import version

        print(f"nightrecs {version('nightrecs')}")
        parser.exit()


def add_dataset(parser: Parser) -> None:
    """The argument of commands that need a data set."""
    parser.add_argument("dataset", help="name of a data set, or the path of its TOML")


def number_of_rows(text: str) -> int:
    """A positive number such as `20000000`, `20_000_000` or `2e9`."""
    number = _number(text)
    if not 1 <= number < 1e18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows; write 20000000 or 2e7")
    return int(number)


def positive(text: str) -> int:
    """A whole number from 1 to MOST."""
    return _whole(text, MOST, "a whole number")


def port(text: str) -> int:
    """The number of a TCP port."""
    return _whole(text, 65_535, "a port, which is a whole number")


def not_negative(text: str) -> float:
    """A number from 0 to MOST."""
    number = _number(text)
    if not 0 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST:,}")
    return number


def _number(text: str) -> float:
    """The number of a text in ASCII; NaN, which no range has, for other texts."""
    try:
        return float(text) if text.isascii() else math.nan
    except ValueError:
        return math.nan


def _whole(text: str, most: int, what: str) -> int:
    is_whole = text.isascii() and text.isdecimal() and len(text) <= 20
    if not is_whole or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} from 1 to {most:,}")
    return int(text)


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?`, or an empty string if no known word is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def commands_of(parser: Parser, common: Parser) -> Command:
    """A function that adds commands to the parser. `common` has the options that all of them share."""
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    raw = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(
        handler: str,
        help: str,
        *examples: str,
        name: str = "",
        json: bool = True,
        home: bool = True,
        more: str = "",
    ) -> Parser:
        """`handler`: `module:function`; the command has the function's name unless `name` is given.

        The function gets the parsed options and returns an exit code, or None for 0. `home`: the command uses an
        existing home, which is checked first.
        """
        epilog = "\n".join([*([more, ""] if more else []), "examples:", *(f"  nightrecs {e}" for e in examples)])
        added = commands.add_parser(
            name or handler.partition(":")[2], help=help, description=help, epilog=epilog, formatter_class=raw,
            parents=[common, as_json] if json else [common],
        )  # fmt: skip
        added.set_defaults(handler=handler, needs_home=home)
        return added

    return command


def parsers_of(parser: argparse.ArgumentParser) -> dict[Any, Any]:
    """The parser of each command, by name."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}
