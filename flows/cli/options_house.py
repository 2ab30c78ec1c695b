"""Options of the commands that run the house: `schedule`, `report`, `up`, `bench`."""

from typing import Any


def add_house(command: Any) -> None:
    """Add them to the parser; `command` makes one."""
    schedule = command(
        "schedule", "run a data set's night at its hour; without a data set: list what is scheduled",
        'schedule ml-latest-small --data ~/ml-latest-small --cron "0 3 * * *" --timezone Europe/Vienna',
        'schedule ./ratings.toml --recipe best --set budget.minutes=60 --cron "30 1 * * 0"',
        "schedule", "schedule ml-latest-small --remove",
        more="`nightrecs up` runs what is scheduled.",
    )  # fmt: skip
    schedule.add_argument("dataset", nargs="?", help="name of a shipped data set, or a TOML; to remove: its name")
    schedule.add_argument("--cron", metavar="LINE", help='minute hour day month weekday, e.g. "0 3 * * *"')
    schedule.add_argument("--timezone", default="UTC", help="of the cron line (default: UTC)")
    schedule.add_argument("--recipe", default="nightly", help="name or TOML (default: nightly)")
    schedule.add_argument("--data", metavar="PATH", help="folder of the source files")
    schedule.add_argument("--max-age", type=float, metavar="HOURS", help="oldest that the tables may be")
    schedule.add_argument("--set", action="append", metavar="KEY=VALUE", dest="overrides", help="as for run")
    schedule.add_argument("--remove", action="store_true", help="run it no longer")
    report = command(
        "report", "a night's report: the path of one HTML file that needs no network",
        "report sample", "report sample --open", "report sample --run 20261122T030000.123Z-4f2a",
        more="Made anew where it is missing, also for nights that were refused, crashed or killed.",
    )  # fmt: skip
    report.add_argument("dataset")
    report.add_argument("--run", metavar="RUN_ID", help="a night's id, as `runs` lists it (default: the newest)")
    report.add_argument("--open", action="store_true", help="show it in the browser")
    up = command(
        "up", "Prefect's UI, MLflow's UI and the scheduled nights, on this machine, until Ctrl-C",
        "up", "up --check", "up --prefect-port 4300 --mlflow-port 5100",
        more="Servers listen on 127.0.0.1 only. A port that is taken is left alone: the next free one is used.\n"
        "Prefect asks for a login: `up` says which file holds the string. Pages of other origins get nothing.\n\n"
        "exit codes: 0 stopped by Ctrl-C (--check: all of it answers), 1 something ended by itself,\n"
        "3 it is up already, or starting (--check: something does not answer)",
    )  # fmt: skip
    up.add_argument("--check", action="store_true", help="say what is running, and end")
    up.add_argument("--prefect-port", type=int, default=4200, metavar="PORT", help="first to try (default: 4200)")
    up.add_argument("--mlflow-port", type=int, default=5000, metavar="PORT", help="first to try (default: 5000)")
    bench = command(
        "bench", "re-derive the published results on public data: nights that end before anything is published",
        "bench quality", "bench quality --only P2,P4 --seeds 1", "bench quality --json",
        more="Fits that are done are kept: an interrupted bench goes on where it was.",
    )  # fmt: skip
    bench.add_argument("what", choices=("quality",))
    bench.add_argument("--only", metavar="P1,P2", help="these protocols")
    bench.add_argument("--seeds", type=int, metavar="N", help="only the first N seeds of each")
