"""`nightrecs backup` and `nightrecs restore`: a home as one file, and back."""

import json
from argparse import Namespace
from pathlib import Path

from pipeline.core.console import log
from pipeline.core.paths import Home
from pipeline.maintenance.backup import back_up
from pipeline.maintenance.restore import restore as restore_home


def backup(options: Namespace) -> None:
    """Write a backup and say what is not in it."""
    made = back_up(Home.resolve(options.home), Path(options.file))
    if options.json:
        print(json.dumps({"file": str(made.file), "bytes": made.bytes, "files": made.files, "datasets": made.datasets}))
    else:
        print(made.file)
    log.info(f"{made.files:,} files of {', '.join(made.datasets)}, {made.bytes:,} bytes")
    log.info("Left out, as they are made again: Prefect's database and login, logs, locks, unfinished results")
    log.info("`nightrecs forget` does not reach backups: delete those that are older than a forget")


def restore(options: Namespace) -> None:
    """Restore a backup and say what to do next."""
    made = restore_home(Path(options.file).expanduser(), Home.resolve(options.home))
    header, root = made.header, str(made.home.root)
    if options.json:
        answer = {"home": root, "files": made.files, "bytes": made.bytes, "datasets": header.datasets}
        print(json.dumps({**answer, "made_at": header.made_at, "from": header.home_path}))
    else:
        print(root)
    log.info(f"{made.files:,} files of {', '.join(header.datasets)} are verified; backup of {header.made_at[:19]} UTC")
    log.info("Users who were forgotten after that time are in it again: call `nightrecs forget` for them")
