"""Options and examples of the commands with which people operate a data set between its nights."""

from typing import Any


def add_operating(command: Any) -> None:
    """Add rollback, replay, gc and forget; `command` adds one."""
    rollback = command(
        "rollback", "make an earlier published night live again, atomically",
        "rollback sample", "rollback sample --to 20261122T030000.123Z-4f2a",
        more="Without --to: the newest kept night before the live one, leaving out those rolled back from before.\n"
        "`nightrecs runs` says which are kept. MLflow's alias champion follows; the next night publishes as ever.\n\n"
        "exit codes: 0 done, 3 there is nothing to go back to, or it can't be read, 4 a night runs",
    )  # fmt: skip
    rollback.add_argument("dataset")
    rollback.add_argument("--to", metavar="RUN_ID", help="a kept night, earlier or later than the live one")
    replay = command(
        "replay", "rebuild the night as it would have been, into a database of its own",
        "replay sample --as-of 2024-03-01", "replay ml-100k --as-of 1998-03-01T12:00:00+01:00 --recipe nightly",
        more="Only interactions before that moment exist; settings, catalog and code are today's, and there is no\n"
        "earlier night to compare with. The same command gives the same logical hash. It runs in this process,\n"
        "without Prefect and MLflow, and writes warehouse/replays/DATASET/DATE-RECIPE.duckdb; the live tables, their\n"
        "generations and the journal stay as they are. A replay that was killed goes on when it is called again.",
    )  # fmt: skip
    replay.add_argument("dataset", help="a shipped data set, or the path of a TOML")
    replay.add_argument("--as-of", required=True, metavar="DATE", help="ISO 8601, date or time; UTC unless it says")
    replay.add_argument("--recipe", default="nightly", help="a shipped recipe, or the path of a TOML")
    replay.add_argument("--data", help="folder of the source files, as of `run`")
    replay.add_argument("--set", action="append", metavar="KEY=VALUE", dest="overrides", help="as of `run`")
    collect = command(
        "gc", "remove what nothing needs any more: old generations, the lake's results, MLflow's runs and models",
        "gc --dry-run", "gc sample", "gc sample --keep-lake-nights 1 --keep-days 2 --json",
        more="Stays in any case: the live night and the one before with their results, files that incremental sources\n"
        "have read, all journals, models of kept generations. Not given, the numbers are those of [keep] in the\n"
        "newest night's settings.\n\n"
        "exit codes: 0 done, 4 a night runs (with no DATASET the others are done all the same)",
    )  # fmt: skip
    collect.add_argument("dataset", nargs="?", help="default: every data set of the home")
    collect.add_argument("--dry-run", action="store_true", help="only say what would go, and how many bytes")
    for name, what in (
        ("generations", "published databases to keep"),
        ("lake-nights", "newest nights whose results in the lake stay"),
        ("mlflow-nights", "newest nights that stay in MLflow"),
    ):
        collect.add_argument(f"--keep-{name}", type=int, metavar="N", help=what)
    collect.add_argument("--keep-days", type=float, metavar="DAYS", help="keep whatever is younger")
    forget = command(
        "forget", "remove one user everywhere, and leave them out of every later night",
        "forget sample u0001", "forget sample u0001 --json",
        more="Published files are rebuilt without the user (live, kept and replayed ones), lake results deleted,\n"
        "kept source files and journals rewritten, models that know the user removed from MLflow. No way back.\n"
        "Sums over many users stay as they were. The id itself is not kept, but a salted hash of it.\n\n"
        "At the end the whole home is searched: tables and files by their fields, texts, raw bytes. Where something\n"
        "still names the user, or can't be read, it is named, and `status` shows it until it is done. A forget that\n"
        "was killed is finished by the next run, rollback, gc or replay.\n\n"
        "exit codes: 0 done (again, too) and proved, 2 nothing knows this user, 3 something could not be cleared,\n"
        "4 a night runs",
    )  # fmt: skip
    forget.add_argument("dataset")
    forget.add_argument("user", help="user id, as in the source")
    forget.add_argument("--force", action="store_true", help="list a user whom nothing knows yet, too")
