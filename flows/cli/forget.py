"""`nightrecs forget`: removes a user from everything that is stored, and from every later night."""

import json
import sys
from argparse import Namespace

from flows.cli.operate import known
from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.maintenance import forget as forgetting
from pipeline.maintenance.backup import known_backups
from pipeline.maintenance.rollback import between_nights
from pipeline.storage import forgotten_users

LEFT = 3
"""Exit code if the user is still somewhere."""


def forget(options: Namespace) -> int:
    """Forget a user under the data set's lock; print what was removed and what could not be cleared."""
    home, dataset = known(options)
    with between_nights(home, dataset, "forget"):
        again = options.user in forgotten_users.read(home, dataset)
        if not (again or options.force or forgetting.is_known(home, dataset, options.user)):
            raise UnreadableInput(
                f"user {options.user!r} is in no published table of {dataset} and in nothing read from its source. "
                "Ids are as in the source; --force excludes the user from later nights anyway"
            )
        outcome = forgetting.forget(home, dataset, options.user)
        for line in forgetting.finish(home, dataset, but=options.user):
            log.warning(f"another user who is to be forgotten is still there: {line}")
    if options.json:
        answer = {"dataset": dataset, "again": again, "tables": outcome.tables, **outcome.counts}
        print(json.dumps({**answer, "mlflow": outcome.mlflow, "left": outcome.left}, indent=1))
    else:
        describe(outcome)
        log.info(
            f"Every later night of {dataset} leaves the user out (row_ledger: reason forgotten). Not reached: the "
            "source files themselves, backups, notifications, and files that readers still have open."
        )
    for file in known_backups(home, dataset):
        log.warning(f"the backup {file} is not reached: delete it, or forget the user again where it is restored")
    if outcome.left:
        number = len(outcome.left)
        places = "1 place still names" if number == 1 else f"{number} places still name"
        print(f"NOT done: {places} the user, or may:", file=sys.stderr)
        for line in outcome.left:
            print(f"  {line}", file=sys.stderr)
        print(
            "Clear or remove these, then run forget again; until then `nightrecs status` shows it as open",
            file=sys.stderr,
        )
    return LEFT if outcome.left else 0


def describe(outcome: forgetting.Outcome) -> None:
    """Print the result as text."""
    for name, rows in outcome.tables.items():
        print(f"{name}: rebuilt, {rows:,} rows fewer or blanked")
    count = {name: outcome.counts.get(name, 0) for name in (
        "lake_folders", "source_files", "rejected_lines", "of_them_undecided", "texts", "reports", "replay_homes"
    )}  # fmt: skip
    reached = f"destinations: {outcome.counts['destinations']} cleared\n" if "destinations" in outcome.counts else ""
    shared = outcome.counts.get("shared_results")
    if shared is not None:
        print(f"shared lake: {shared} results deleted; other homes with it leave the user out of their next nights")
    print(
        f"lake: {count['lake_folders']} results deleted, {count['source_files']} kept source files rewritten\n"
        f"journal: {count['rejected_lines']} rejected lines blanked, {count['of_them_undecided']} of them because "
        "their user is unknown\n"
        f"texts: {count['texts']} blanked\n"
        f"reports: {count['reports']} deleted\n"
        f"replays: {count['replay_homes']} unfinished ones deleted\n"
        f"MLflow: {outcome.mlflow}\n{reached}"
        f"search of the whole home: {'nothing names the user' if not outcome.left else 'see below'}"
    )
