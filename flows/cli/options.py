"""Commands and options of nightrecs, with an example of each. Imports nothing heavy: --help answers at once."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from flows.cli.options_house import add_house
from flows.cli.options_operate import add_operating
from pipeline.core.terminal import plain
from pipeline.stages import LINE

USAGE = 2
STAGES = " ".join(LINE)
EPILOG = """examples:
  nightrecs run                                      a night on the built-in synthetic sample
  nightrecs init ratings.csv                         a data set of your own
  nightrecs run ./ratings.toml --recipe nightly --set split.kind=leave_one_out
  nightrecs recommend sample u0001
  nightrecs sql sample "select * from leaderboard where split = 'test'"

exit codes: 0 done, 1 crashed (doctor: something is broken), 2 usage, configuration or unreadable input,
3 a check refused to publish (status: not healthy), 4 another run holds the lock, 128+n on signal n.
Data goes to stdout, talk to stderr. `nightrecs COMMAND --help` has examples of each."""


class Parser(argparse.ArgumentParser):
    """argparse that knows what was probably meant."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does it, but what a command doesn't know is told by that command, with the nearest option."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            of = _commands(self).get(getattr(options, "command", None), self)
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


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean …?`, or nothing where no known word is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


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
        help="folder for everything written (else NIGHTRECS_HOME, else the checkout, or for an installed package the "
        "current folder where it is a home, else the data folder of the user)",
    )
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="nightrecs", epilog=EPILOG, formatter_class=raw, parents=[common],
        description="Every night, a file of user-item interactions becomes audited top-N lists in SQL tables.",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, help: str, *examples: str, json: bool = True, more: str = "") -> Parser:
        epilog = "\n".join([*([more, ""] if more else []), "examples:", *(f"  nightrecs {e}" for e in examples)])
        parents = [common, as_json] if json else [common]
        return commands.add_parser(
            name, help=help, description=help, epilog=epilog, formatter_class=raw, parents=parents
        )

    _add_run(command)
    _add_looking(command)
    add_operating(command)
    add_house(command)
    _add_care(command)
    return parser


def _add_run(command: Any) -> None:
    run = command(
        "run", "run the nightly flow now",
        "run", "run ml-latest-small --data ~/ml-latest-small", "run ./my.toml --until split --no-prefect",
        "run sample --set models.mf.epochs=2 --set split.kind=leave_one_out",
        "run ml-latest-small --data ~/ml-latest-small --plan", "run --plan --json",
        more="exit codes: 0 published or stopped, 1 crashed, 2 settings or input, 3 a check refused to publish,\n"
        "4 another run holds the lock, 130 Ctrl-C, 143 SIGTERM",
    )  # fmt: skip
    run.add_argument(
        "dataset",
        nargs="?",
        default="sample",
        help="a shipped data set, or the path of a TOML (default: the built-in sample)",
    )
    run.add_argument("--recipe", default="nightly", help="a shipped recipe, or the path of a TOML (default: nightly)")
    run.add_argument("--data", help="folder of the source files (else $NIGHTRECS_DATA/<name>, else the TOML's folder)")
    run.add_argument("--until", choices=STAGES.split(), metavar="STAGE", help=f"stop after a stage: {STAGES}")
    run.add_argument(
        "--plan", action="store_true", help="only say what the night would do and how long it may take; changes nothing"
    )
    run.add_argument("--no-prefect", action="store_true", help="run in this process, without reporting to Prefect")
    run.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        dest="overrides",
        help="set one key of the settings, e.g. split.test=0.2",
    )
    run.add_argument(
        "--accept-churn",
        action="append_const",
        const="churn.accept=true",
        dest="overrides",
        help="publish this night even where its lists differ more than churn.max_change allows",
    )
    init = command(
        "init", "look at a file of interactions, and for item titles beside it, and write a commented data set TOML",
        "init ratings.csv", "init ~/data/plays.tsv.gz --output plays.toml --force", "init ratings.csv --output -",
        json=False,
    )  # fmt: skip
    init.add_argument("csv", metavar="CSV", help="csv, tsv, dat, txt or parquet, also .gz and .zst")
    init.add_argument("--output", metavar="FILE", help="where to (default: ./<name>.toml; - is stdout)")
    init.add_argument("--force", action="store_true", help="overwrite a file that is there")


def _add_looking(command: Any) -> None:
    command("datasets", "list the shipped data sets", "datasets")
    command("recipes", "list the shipped recipes", "recipes --json")
    command("models", "list the model families and their hyperparameters", "models")
    for name, help, what, example in (
        ("recommend", "a user's published recommendations", "user", "u0001"),
        ("similar", "items similar to an item", "item", "b0001"),
    ):
        look = command(name, help, f"{name} sample {example}", f"{name} sample {example} -n 5 --json")
        look.add_argument("dataset")
        look.add_argument(what, help=f"{what} id, as in the source")
        look.add_argument("-n", type=int, default=20, help="how many (default: 20)")
    explain = command(
        "explain", "what the published model thinks of an item for a user, and what of their history says so",
        "explain sample u0001 b0001", "explain sample u0001 b0001 --model ials --json",
        more="Linear models and iALS: what each item of the history adds. Models with biases: their terms.\n"
        "The champion is explained as it was fitted on all rows, the others as they were on train.",
    )  # fmt: skip
    explain.add_argument("dataset")
    explain.add_argument("user", help="user id, as in the source")
    explain.add_argument("item", help="item id, as in the source")
    explain.add_argument("--model", metavar="LABEL", help="another model of the published night than its champion")
    explain.add_argument("-n", type=int, default=10, help="history items to print (default: 10; JSON has all)")
    board = command(
        "leaderboard", "compare the models of the published night",
        "leaderboard sample", "leaderboard sample --split valid --all --json",
    )  # fmt: skip
    board.add_argument("dataset")
    board.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    board.add_argument("--all", action="store_true", help="a row a figure: every metric and cutoff, with intervals")
    runs = command("runs", "list the nights of a data set, newest first", "runs sample", "runs sample -n 5 --json")
    runs.add_argument("dataset")
    runs.add_argument("-n", type=int, default=20, help="how many (default: 20)")
    sql = command(
        "sql", "a read-only query on the published tables",
        "sql sample \"select * from recommendations_titled where user_id = 'u0001' order by rank\"",
        'sql sample "show tables" --json', 'sql sample "from recommendations" --output recommendations.parquet',
        'sql sample "from user_overview" --csv',
    )  # fmt: skip
    sql.add_argument("dataset")
    sql.add_argument("query")
    for form, what in (("csv", "CSV, safe to open in a spreadsheet"), ("jsonl", "a JSON object a line")):
        sql.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=what)
    sql.add_argument("--output", metavar="FILE", help="write there: .csv, .jsonl or .parquet")


def _add_care(command: Any) -> None:
    status = command(
        "status", "whether the nights of a data set are well, for people and monitors",
        "status sample", "status sample --max-age 36 --json",
        more="exit codes: 0 healthy; 3 the last night (one stopped by --until does not count) did not publish, or\n"
        "the tables are older than --max-age, can't be read or were never published; 2 there is no such data set in\n"
        "this home",
    )  # fmt: skip
    status.add_argument("dataset")
    status.add_argument("--max-age", type=float, metavar="HOURS", help="oldest that the tables may be")
    status.add_argument(
        "--deep", action="store_true", help="compute the checksums of all published files, large ones too"
    )
    doctor = command(
        "doctor", "check the installation, the home and the device",
        "doctor", "doctor --device cuda:1", "doctor --device none --json",
        more="Quick models are fitted and scored on the CPU and on the device, and compared; with no accelerator, on\n"
        "one thread and on all.\n\nexit codes: 0 nothing failed (there may be warnings), 1 something failed",
    )  # fmt: skip
    doctor.add_argument(
        "--device", default="auto", help="device to compare with the CPU (default: auto; none: skip it)"
    )


def _commands(parser: argparse.ArgumentParser) -> dict[Any, Any]:
    """The parser of each command."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}
