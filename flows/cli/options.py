"""Every command: its handler, options and examples. Imports nothing heavy, so --help answers at once."""

import argparse

from flows.cli.operation_options import add_diagnostics, add_maintenance, add_scheduling
from flows.cli.parser import Command, Parser, Version, add_dataset, commands_of, number_of_rows, positive
from pipeline.stages import LINE

STAGES = " ".join(LINE)
EPILOG = """examples:
  nightrecs run                                      a night on the built-in synthetic sample
  nightrecs init ratings.csv                         a data set of your own
  nightrecs run ./ratings.toml --recipe nightly --set split.kind=leave_one_out
  nightrecs recommend sample u0001
  nightrecs sql sample "select * from leaderboard where split = 'test'"

exit codes: 0 done, 1 crashed (doctor: a check failed), 2 usage, configuration or unreadable input,
3 a check refused to publish (status: not healthy), 4 another run holds the lock, 128+n on signal n.
Data goes to stdout, messages to stderr. `nightrecs COMMAND --help` has examples of each command."""


def build_parser() -> Parser:
    """All commands and options."""
    common = Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show a traceback when something fails"
    )
    common.add_argument(
        "--home",
        default=argparse.SUPPRESS,
        help="folder for everything that is written (default: NIGHTRECS_HOME, else the checkout; for an installed "
        "package, the current folder if it is a home, else the user's data folder)",
    )
    common.add_argument(
        "--target",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="write to the home of [targets.NAME] in nightrecs.toml instead, apart from production",
    )
    parser = Parser(
        prog="nightrecs", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common],
        description="Every night, a file of user-item interactions becomes audited top-N lists in SQL tables.",
    )  # fmt: skip
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    command = commands_of(parser, common)
    _add_run(command)
    _add_queries(command)
    add_maintenance(command)
    add_scheduling(command)
    add_diagnostics(command)
    return parser


def _add_run(command: Command) -> None:
    run = command(
        "flows.cli.run:run_night", "run the nightly flow now",
        "run", "run ml-latest-small --data ~/ml-latest-small", "run ./my.toml --until split --no-prefect",
        "run sample --set models.mf.epochs=2 --set split.kind=leave_one_out",
        "run ml-latest-small --data ~/ml-latest-small --plan", "run --plan --json", "run --plan --rows 2e9",
        more="exit codes: 0 published or stopped, 1 crashed, 2 settings or input, 3 a check refused to publish,\n"
        "4 another run holds the lock, 130 Ctrl-C, 143 SIGTERM",
        name="run",
    )  # fmt: skip
    run.add_argument(
        "dataset",
        nargs="?",
        default="sample",
        help="a shipped data set, or the path of a TOML (default: the built-in sample)",
    )
    run.add_argument("--recipe", default="nightly", help="a shipped recipe, or the path of a TOML (default: nightly)")
    run.add_argument(
        "--data", help="folder of the source files (default: $NIGHTRECS_DATA/<name>, else the TOML's folder)"
    )
    run.add_argument("--until", choices=STAGES.split(), metavar="STAGE", help=f"stop after a stage: {STAGES}")
    run.add_argument(
        "--plan", action="store_true", help="print what the night would do and how long it may take; change nothing"
    )
    run.add_argument("--rows", type=number_of_rows, metavar="N", help="with --plan: what a source of N rows needs")
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
        help="publish even if the lists differ more than churn.max_change allows",
    )
    init = command(
        "flows.cli.init:init", "inspect a file of interactions and write a commented data set TOML",
        "init ratings.csv", "init ~/data/plays.tsv.gz --output plays.toml --force", "init ratings.csv --output -",
        "init s3://bucket/plays.parquet", "init . --query \"select * from 'a/*.csv' join 'b.csv' using (sku)\"",
        "init postgresql://reader@db/shop --password-env SHOP_DB --query 'select * from plays' --output shop.toml",
        json=False, home=False,
        more="Item titles are looked for in the files next to it.",
    )  # fmt: skip
    init.add_argument(
        "csv",
        metavar="CSV",
        help="csv, tsv, dat, txt, JSON lines, parquet; also .gz, .zst, ZIP of one file; s3://, gs:// or https://. With "
        "--query: a folder, a DuckDB file, sqlite:///FILE or postgresql://USER@HOST/DATABASE",
    )
    init.add_argument("--query", metavar="SQL", help="a SELECT whose rows are the interactions")
    init.add_argument("--password-env", metavar="NAME", help="environment variable with the database's password")
    init.add_argument(
        "--output",
        metavar="FILE",
        help="file to write; its name is the data set's (default: ./<name>.toml; - is stdout)",
    )
    init.add_argument("--force", action="store_true", help="overwrite an existing file")


def _add_queries(command: Command) -> None:
    command("flows.cli.query:datasets", "list the shipped data sets", "datasets", home=False)
    command("flows.cli.query:recipes", "list the shipped recipes", "recipes --json", home=False)
    models = command(
        "flows.cli.query:models", "list the model families and their hyperparameters",
        "models", "models --markdown", home=False,
    )  # fmt: skip
    models.add_argument("--markdown", action="store_true", help="print a Markdown table")
    for name, module, help, what, example in (
        ("recommend", "recommend", "print a user's published recommendations", "user", "u0001"),
        ("similar", "query", "print the items most similar to an item", "item", "b0001"),
    ):
        query = command(
            f"flows.cli.{module}:{name}", help, f"{name} sample {example}", f"{name} sample {example} -n 5 --json"
        )
        add_dataset(query)
        query.add_argument(what, help=f"{what} id, as in the source")
        query.add_argument("-n", type=positive, default=20, help="number of items (default: 20)")
        if name == "recommend":
            query.add_argument(
                "--list", metavar="NAME", default="", help="another list than the default one: [lists.NAME]"
            )
            query.add_argument(
                "--attribute",
                metavar="NAME=VALUE",
                default="",
                help="what is known of a new user, for the list of [export] fallback_by",
            )
    audience = command(
        "flows.cli.query:audience", "print the users who would like an item most",
        "audience sample b0001", "audience sample b0001 -n 5 --json",
        "audience sample --attribute genres --value Crime",
        more="Filled by nights whose recipe has [export.audiences].",
    )  # fmt: skip
    add_dataset(audience)
    audience.add_argument("item", nargs="?", help="item id, as in the source")
    audience.add_argument("--attribute", metavar="NAME", help="instead of an item: an attribute of items")
    audience.add_argument("--value", help="value of the attribute")
    audience.add_argument("-n", type=positive, default=100, help="number of users (default: 100)")
    explain = command(
        "flows.cli.explain:explain", "explain a published model's score of an item for a user",
        "explain sample u0001 b0001", "explain sample u0001 b0001 --model ials --json",
        more="Linear models and iALS: the contribution of each item of the history. Models with biases: their terms.\n"
        "The champion is explained as fitted on all rows, other models as fitted on train.",
    )  # fmt: skip
    add_dataset(explain)
    explain.add_argument("user", help="user id, as in the source")
    explain.add_argument("item", help="item id, as in the source")
    explain.add_argument("--model", metavar="LABEL", help="another model of the published night than its champion")
    explain.add_argument("-n", type=positive, default=10, help="number of history items (default: 10; JSON has all)")
    board = command(
        "flows.cli.leaderboard:leaderboard", "compare the models of the published night",
        "leaderboard sample", "leaderboard sample --split valid --all --json",
    )  # fmt: skip
    add_dataset(board)
    board.add_argument("--split", choices=("valid", "test"), default="test", help="default: test")
    board.add_argument("--all", action="store_true", help="every metric and cutoff in a row of its own, with intervals")
    runs = command(
        "flows.cli.runs:runs", "list the nights of a data set, newest first", "runs sample", "runs sample -n 5 --json"
    )
    add_dataset(runs)
    runs.add_argument("-n", type=positive, default=20, help="number of nights (default: 20)")
    sql = command(
        "flows.cli.query:sql", "run a read-only query on the published tables",
        "sql sample \"select * from recommendations_titled where user_id = 'u0001' order by rank\"",
        'sql sample "show tables" --json', 'sql sample "from recommendations" --output recommendations.parquet',
        'sql sample "from user_overview" --csv',
    )  # fmt: skip
    add_dataset(sql)
    sql.add_argument("query", help="one SQL statement")
    for form, what in (("csv", "CSV, safe to open in a spreadsheet"), ("jsonl", "one JSON object per line")):
        sql.add_argument(f"--{form}", action="store_const", const=form, dest="form", help=f"print {what}")
    sql.add_argument("--output", metavar="FILE", help="write to FILE: .csv, .jsonl or .parquet")
    report = command(
        "flows.cli.report:report", "print the path of a night's report, one HTML file that needs no network",
        "report sample", "report sample --open", "report sample --run 20261122T030000.123Z-4f2a",
        more="A missing report is written first, also for nights that were refused, crashed or killed.",
    )  # fmt: skip
    add_dataset(report)
    report.add_argument("--run", metavar="RUN_ID", help="id of a night, as `runs` lists it (default: the newest)")
    report.add_argument("--open", action="store_true", help="open it in the browser")
