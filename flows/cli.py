"""The nightrecs command. Heavy imports wait inside the commands, so that --help answers at once."""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

DONE, CRASHED, USAGE, REFUSED, LOCKED = range(5)
STAGES = "ingest clean encode split train evaluate select track export audit publish"
EPILOG = """examples:
  nightrecs run                                      a night on the built-in synthetic sample
  nightrecs run ml-latest-small --data ~/ml-latest-small
  nightrecs run my.toml --recipe nightly --set split.kind=leave_one_out
  nightrecs recommend sample u0001
  nightrecs sql sample "select * from leaderboard where split = 'test'"

exit codes: 0 done, 1 crashed, 2 usage, configuration or unreadable input, 3 a check refused to publish,
4 another run holds the lock, 128+n on signal n. Data goes to stdout, talk to stderr."""


class Parser(argparse.ArgumentParser):
    """argparse that knows what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print one readable paragraph and exit 2."""
        if "invalid choice: " in message:
            wrong = message.split("invalid choice: ")[1].split("'")[1]
            known = message.rsplit("choose from ", 1)[-1].strip("()").replace("'", "").split(", ")
            close = difflib.get_close_matches(wrong, known, n=1)
            message = f"there is no {wrong!r}" + (
                f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(known)}"
            )
        print(f"{self.prog}: {message}\nSee `{self.prog} --help`.", file=sys.stderr)
        raise SystemExit(USAGE)


def build_parser() -> Parser:
    """All commands and options."""
    common = Parser(add_help=False)
    common.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show a traceback when something fails",
    )
    common.add_argument(
        "--home",
        default=argparse.SUPPRESS,
        help="folder for everything written (else NIGHTRECS_HOME, else the checkout)",
    )
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    parser = Parser(
        prog="nightrecs", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common],
        description="Every night, a file of user-item interactions becomes audited top-N recommendations in SQL tables.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, help: str, *parents: Parser) -> Parser:
        return commands.add_parser(name, help=help, description=help, parents=[common, *parents])

    run = command("run", "run the nightly flow now", as_json)
    run.add_argument(
        "dataset",
        nargs="?",
        default="sample",
        help="a shipped data set, or the path of a TOML (default: the built-in sample)",
    )
    run.add_argument(
        "--recipe", default="nightly", help="a shipped recipe, or the path of a TOML (default: nightly)"
    )
    run.add_argument(
        "--data", help="folder of the source files (else $NIGHTRECS_DATA/<name>, else the TOML's folder)"
    )
    run.add_argument("--until", choices=STAGES.split(), metavar="STAGE", help=f"stop after a stage: {STAGES}")
    run.add_argument(
        "--no-prefect", action="store_true", help="run in this process, without reporting to Prefect"
    )
    run.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one key of the settings, e.g. split.test=0.2",
    )
    for name, help in (
        ("datasets", "list the shipped data sets"),
        ("recipes", "list the shipped recipes"),
        ("models", "list the model families and their hyperparameters"),
    ):
        command(name, help, as_json)
    for name, help, what in (
        ("recommend", "a user's published recommendations", "user"),
        ("similar", "items similar to an item", "item"),
    ):
        look = command(name, help, as_json)
        look.add_argument("dataset")
        look.add_argument(what, help=f"{what} id, as in the source")
        look.add_argument("-n", type=int, default=20, help="how many (default: 20)")
    board = command("leaderboard", "compare the models of the published night", as_json)
    board.add_argument("dataset")
    board.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    board.add_argument("--all", action="store_true", help="every metric and cutoff")
    command("runs", "list the nights of a data set", as_json).add_argument("dataset")
    sql = command("sql", "a read-only query on the published tables", as_json)
    sql.add_argument("dataset")
    sql.add_argument("query")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = build_parser().parse_args(argv)
    debug = getattr(options, "debug", False)
    options.home = getattr(options, "home", None)
    if options.home:
        os.environ["NIGHTRECS_HOME"] = str(options.home)
    try:
        return execute(options)
    except KeyboardInterrupt:
        print("nightrecs: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = exit_code(error)
        crash = f"{type(error).__name__}: " if code == CRASHED else ""
        print(f"nightrecs: {crash}{error}", file=sys.stderr)
        if code == CRASHED and not debug:
            print("This should not happen. Add --debug to see where it did.", file=sys.stderr)
        return code


def execute(options: Any) -> int:
    """Dispatch to the command's module."""
    if options.command == "run":
        from flows.launch import run_night

        return run_night(options)
    from flows import look

    getattr(look, options.command)(options)
    return DONE


def exit_code(error: Exception) -> int:
    """What an error means to whoever started us."""
    from pipeline import contracts, journal, layers

    if isinstance(error, layers.SettingsError | contracts.UnreadableInput):
        return USAGE
    if isinstance(error, contracts.Refused):
        return REFUSED
    return LOCKED if isinstance(error, journal.Locked) else CRASHED


if __name__ == "__main__":
    sys.exit(main())
