"""Options of the commands that operate nights: maintenance, scheduling and diagnostics."""

from flows.cli.parser import Command, add_dataset, not_negative, port, positive


def add_maintenance(command: Command) -> None:
    """Commands of maintenance."""
    rollback = command(
        "flows.cli.operate:rollback", "make an earlier published night live again, atomically",
        "rollback sample", "rollback sample --to 20261122T030000.123Z-4f2a",
        more="Without --to: the newest kept night before the live one, except those that were rolled back from.\n"
        "`nightrecs runs` shows which are kept. MLflow's alias champion follows, and the\n"
        "destinations of [publish]. The next night publishes as usual.\n\n"
        "exit codes: 0 done, 3 there is no earlier night or it can't be read, or a destination can't be reached,\n"
        "4 a night is running",
    )  # fmt: skip
    add_dataset(rollback)
    rollback.add_argument("--to", metavar="RUN_ID", help="a kept night, earlier or later than the live one")
    copies = command(
        "flows.cli.destinations:destinations", "show where the tables are copied to; copy or remove them there",
        "destinations sample", "destinations sample --publish",
        "destinations sample --remove 'postgres SHOP_DB_URL shop'",
        more="The destinations of [publish] in the newest published night's settings, and those of earlier settings.\n"
        "Every night copies the live tables to those of its settings.\n\n"
        "exit codes: 0 done, 2 unknown destination, 3 a destination could not be reached, 4 a night is running",
    )  # fmt: skip
    add_dataset(copies)
    action = copies.add_mutually_exclusive_group()
    action.add_argument("--publish", action="store_true", help="copy the live tables to those that lack them")
    action.add_argument("--remove", metavar="NAME", help="remove the tables that are there, and forget the destination")
    action.add_argument(
        "--abandon", metavar="NAME", help="forget a destination that no longer exists; what is there stays"
    )
    replay = command(
        "flows.cli.replay:replay", "rebuild a night as of a date, or backtest many, into a database of its own",
        "replay sample --as-of 2024-03-01", "replay ml-100k --as-of 1998-03-01T12:00:00+01:00 --recipe nightly",
        "replay ml-100k --from 1998-03-01 --to 1998-04-10 --every 1d",
        more="Uses only interactions before that time, with today's settings, catalog and code, and without an\n"
        "earlier night to compare with. The same command gives the same logical hash. It runs in this process,\n"
        "without Prefect and MLflow, and writes warehouse/replays/DATASET/DATE-RECIPE.duckdb. The live tables, their\n"
        "generations and the journal do not change. A replay that was killed continues when it is called again.\n\n"
        "With --from and --to it is a backtest: a night every day (--every), each of which meets the champion of the\n"
        "one before. It writes FROM_TO-EVERY-RECIPE.duckdb with the tables of the last night, the realised quality of\n"
        "all nights after 1, 7 and 28 days, as far as the data reach, and backtest_models: every model of the recipe\n"
        "on what users did until the next night, with intervals; and a report with the same name in HTML.\n"
        "Called again with a later --to, it runs only the nights that are missing, until `gc` removes what it has.",
    )  # fmt: skip
    replay.add_argument("dataset", help="a shipped data set, or the path of a TOML")
    replay.add_argument("--as-of", metavar="DATE", help="ISO 8601 date or time, in UTC unless it has an offset")
    replay.add_argument("--from", dest="first", metavar="DATE", help="the first night of a backtest")
    replay.add_argument("--to", dest="last", metavar="DATE", help="the last night of a backtest")
    replay.add_argument("--every", metavar="TIME", help="time between two nights: 12h, 1d, 1w (default: 1d)")
    replay.add_argument("--recipe", default="nightly", help="a shipped recipe, or the path of a TOML")
    replay.add_argument("--data", help="folder of the source files, as for `run`")
    replay.add_argument("--set", action="append", metavar="KEY=VALUE", dest="overrides", help="as for `run`")
    collect = command(
        "flows.cli.operate:gc", "remove old generations, lake results, and MLflow runs and models",
        "gc --dry-run", "gc sample", "gc sample --keep-lake-nights 1 --keep-days 2 --json",
        more="Always kept: the live night and the one before it with their results, files that incremental sources\n"
        "have read, all journals, models of kept generations. Defaults of the numbers: [keep] in the newest night's\n"
        "settings.\n\n"
        "exit codes: 0 done, 4 a night is running (without DATASET the other data sets are still collected)",
    )  # fmt: skip
    collect.add_argument("dataset", nargs="?", help="default: every data set of the home")
    collect.add_argument("--dry-run", action="store_true", help="list what would be removed, and its size")
    for name, what in (
        ("generations", "number of published databases to keep"),
        ("lake-nights", "number of nights whose lake results are kept"),
        ("mlflow-nights", "number of nights to keep in MLflow"),
    ):
        collect.add_argument(f"--keep-{name}", type=positive, metavar="N", help=what)
    collect.add_argument("--keep-days", type=not_negative, metavar="DAYS", help="keep everything that is younger")
    forget = command(
        "flows.cli.forget:forget", "remove one user everywhere, and exclude them from every later night",
        "forget sample u0001", "forget sample u0001 --json",
        more="Rebuilds published files (live, kept and replayed ones) without the user, deletes lake results,\n"
        "rewrites kept source files and journals, and removes models that know the user from MLflow. It can't be\n"
        "undone. Sums over many users do not change. Instead of the id, a salted hash of it is kept.\n\n"
        "Afterwards the whole home is searched: tables and files by their fields, texts, raw bytes. Every place\n"
        "that still has the id, or can't be read, is listed, and `status` shows it until it is cleared. A forget\n"
        "that was killed is finished by the next run, rollback, gc or replay.\n\n"
        "exit codes: 0 done and verified (also if repeated), 2 unknown user, 3 something could not be cleared,\n"
        "4 a night is running",
    )  # fmt: skip
    add_dataset(forget)
    forget.add_argument("user", help="user id, as in the source")
    forget.add_argument("--force", action="store_true", help="also accept a user that is in no table")
    backup = command(
        "flows.cli.backup:backup", "write a home into one file, which `restore` makes a home of",
        "backup /srv/nightrecs /backup/nightrecs-2026-01-31.tar",
        more="A tar, written under the locks of all data sets, with mode 0600: published files, journals, lake,\n"
        "reports, replays, schedules, and MLflow's database and artifacts. Not in it, as they are made again:\n"
        "Prefect's database and login, logs, locks, unfinished results. Source files are not in it either, except\n"
        "those that incremental sources have read. `forget` does not reach backups.\n\n"
        "exit codes: 0 done, 2 the file exists or can't be written, 4 a night is running",
    )  # fmt: skip
    backup.add_argument("home", metavar="HOME", help="folder of the home")
    backup.add_argument("file", metavar="FILE", help="file to write, outside the home; it must not exist")
    restore = command(
        "flows.cli.backup:restore", "make a home of a backup, in a new folder",
        "restore /backup/nightrecs-2026-01-31.tar /srv/nightrecs", home=False,
        more="Every file is verified by its SHA-256 before the folder appears. Where the original home still exists,\n"
        "the restored one is an independent copy of it.\n\n"
        "exit codes: 0 done, 2 the file is damaged or no backup, or the folder is not empty",
    )  # fmt: skip
    restore.add_argument("file", metavar="FILE", help="a file that `backup` wrote")
    restore.add_argument("home", metavar="HOME", help="folder that does not exist or is empty")


def add_scheduling(command: Command) -> None:
    """Commands of scheduling."""
    schedule = command(
        "flows.cli.schedule:schedule", "schedule a data set's night; without a data set: list the schedules",
        'schedule ml-latest-small --data ~/ml-latest-small --cron "0 3 * * *" --timezone Europe/Vienna',
        'schedule ./ratings.toml --recipe best --set budget.minutes=60 --cron "30 1 * * 0"',
        "schedule", "schedule ml-latest-small --remove",
        more="`nightrecs up` runs the scheduled nights. A local time that is skipped when clocks go forward runs at\n"
        "another time that day, an hour early for example: choose a time that exists on every day, or UTC.",
    )  # fmt: skip
    schedule.add_argument("dataset", nargs="?", help="a shipped data set, or the path of a TOML")
    schedule.add_argument("--cron", metavar="LINE", help='minute hour day month weekday, e.g. "0 3 * * *"')
    schedule.add_argument("--timezone", default="UTC", help="of the cron line (default: UTC)")
    schedule.add_argument("--recipe", default="nightly", help="a shipped recipe, or the path of a TOML")
    schedule.add_argument("--data", metavar="PATH", help="folder of the source files")
    schedule.add_argument(
        "--max-age", type=not_negative, metavar="HOURS", help="maximum age of the tables; `up` checks it"
    )
    schedule.add_argument("--set", action="append", metavar="KEY=VALUE", dest="overrides", help="as for `run`")
    schedule.add_argument("--remove", action="store_true", help="remove the schedule of this data set")
    up = command(
        "flows.cli.up:up", "serve Prefect's UI, MLflow's UI and the scheduled nights on this machine, until Ctrl-C",
        "up", "up --check", "up --ray", "up --prefect-port 4300 --mlflow-port 5100",
        more="Servers listen on 127.0.0.1 only. If a port is in use, the next free one is taken. Prefect's UI asks\n"
        "for a login: `up` prints the file that has it. Requests from pages of other origins are refused.\n\n"
        "exit codes: 0 stopped by Ctrl-C (--check: everything answers), 1 a server ended by itself,\n"
        "3 already up or starting (--check: something does not answer)",
    )  # fmt: skip
    up.add_argument("--check", action="store_true", help="print what is running, and exit")
    up.add_argument("--prefect-port", type=port, default=4200, metavar="PORT", help="first to try (default: 4200)")
    up.add_argument(
        "--ray", action="store_true",
        help="also start a Ray cluster of this machine, for nights with scale.engine=ray (needs the extra scale)",
    )  # fmt: skip
    up.add_argument("--mlflow-port", type=port, default=5000, metavar="PORT", help="first to try (default: 5000)")


def add_diagnostics(command: Command) -> None:
    """Commands of diagnostics."""
    status = command(
        "flows.cli.status:status", "check the health of a data set, for people and monitors",
        "status sample", "status sample --max-age 36 --json",
        more="Nights with --until, and nights with other --set values than the published night, are experiments: they\n"
        "do not count.\n\n"
        "exit codes: 0 healthy; 3 the last night did not publish, or the tables are older than --max-age, can't be\n"
        "read or were never published, or the disk is too full for the next night; 2 there is no such data set in\n"
        "this home",
    )  # fmt: skip
    add_dataset(status)
    status.add_argument("--max-age", type=not_negative, metavar="HOURS", help="maximum age of the tables")
    status.add_argument("--deep", action="store_true", help="verify the checksums of all published files")
    doctor = command(
        "flows.cli.doctor:doctor", "check the installation, the home and the device",
        "doctor", "doctor --device cuda:1", "doctor --device none --json", "doctor --scale", home=False,
        more="Fits and scores small models on the CPU and on the device, and compares them. Without an accelerator it\n"
        "compares one thread with all threads.\n\n"
        "exit codes: 0 no check failed (there may be warnings), 1 a check failed",
    )  # fmt: skip
    doctor.add_argument(
        "--device", default="auto", help="device to compare with the CPU (default: auto; none: skip it)"
    )
    doctor.add_argument("--scale", action="store_true", help="also check whether several hosts may share the home")
    bench = command(
        "flows.cli.bench:bench", "measure the published results on public data again",
        "bench quality", "bench quality --only P2,P4 --seeds 1", "bench quality --json",
        "bench quality --only P2 --markdown",
        more="Each protocol is a night that ends before anything is published. Finished fits are kept: an interrupted\n"
        "bench continues where it stopped.",
    )  # fmt: skip
    bench.add_argument("what", choices=("quality",), help="quality: the protocols of flows/quality")
    bench.add_argument("--only", metavar="P1,P2", help="only these protocols")
    bench.add_argument("--seeds", type=positive, metavar="N", help="only the first N seeds of each")
    bench.add_argument("--markdown", action="store_true", help="also write the tables into flows/quality/README.md")
    completion = command(
        "flows.cli.completion:completion", "print a shell completion script",
        "completion bash", "completion zsh", json=False, home=False,
        more='Activate it: eval "$(nightrecs completion bash)"',
    )  # fmt: skip
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
