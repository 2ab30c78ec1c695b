"""`nightrecs forget`: one user is taken out of all that is at rest, and left out of every later night."""

import json
from contextlib import suppress
from typing import Any

from flows.operate import known
from pipeline import forgotten, journal, operations
from pipeline.contracts import UnreadableInput
from pipeline.leftovers import delete
from pipeline.paths import Home
from pipeline.stages import forget as stage
from pipeline.stages.rollback import between_nights


def forget(options: Any) -> None:
    """Do it under the data set's lock, and say what was removed."""
    home, dataset = known(options)
    with between_nights(home, dataset, "forget"):
        again = options.user in forgotten.read(home, dataset)
        if not (again or options.force or stage.is_known(home, dataset, options.user)):
            raise UnreadableInput(
                f"user {options.user!r} is in no published table of {dataset} and in nothing read from its source. "
                "Ids are as in the source; --force leaves the user out of the nights to come all the same"
            )
        listed = stage.remember(home, dataset, options.user)
        answer: dict[str, Any] = {"dataset": dataset, "again": again}
        answer["tables"] = stage.from_tables(home, dataset, options.user, listed)
        answer |= stage.from_lake(home, dataset, listed)
        answer["journal_texts"] = stage.from_journals(home, dataset, listed)
        answer["reports"] = stage.from_reports(home, dataset)
        answer["replay_homes"] = _from_replay_homes(home, dataset)
        answer["mlflow_models"], answer["mlflow"] = _from_mlflow(home, dataset, options.user)
        told = {key: value for key, value in answer.items() if key not in ("dataset", "mlflow")}
        operations.record(home, dataset, "forget", user=listed.hash_of(options.user)[:12], **told)
    if options.json:
        print(json.dumps(answer, indent=1))
        return
    for name, rows in answer["tables"].items():
        print(f"{name}: rebuilt, {rows:,} rows fewer or blanked")
    print(
        f"lake: {answer['lake_folders']} results deleted, {answer['source_files']} kept source files rewritten\n"
        f"journal: {answer['journal_texts']} texts blanked\n"
        f"reports: {answer['reports']} deleted\n"
        f"replays: {answer['replay_homes']} unfinished ones deleted\n"
        f"MLflow: {answer['mlflow']}"
    )
    journal.say(
        f"Every later night of {dataset} leaves the user out (row_ledger: reason forgotten). Not reached: the source "
        "files themselves, backups, Prefect's logs, and files that readers still have open."
    )


def _from_replay_homes(home: Home, dataset: str) -> int:
    """Delete what unfinished replays left; one that runs now finds the list changed, and refuses."""
    deleted = 0
    for work in home.replays(dataset).glob(".[!.]*"):
        with suppress(journal.Locked), journal.lock(Home(work), dataset, "forget", "command"):
            delete(work)
            deleted += 1
    return deleted


def _from_mlflow(home: Home, dataset: str, user_id: str) -> tuple[int, str]:
    """Delete the models that know the user; how many, and what to say."""
    if not any(journal.read_run(home, dataset, i).get("mlflow_run_id") for i in journal.run_ids(home, dataset)):
        return 0, "it has no night of this data set"
    try:
        from pipeline import tracking_care  # imports mlflow, which takes seconds

        found = tracking_care.models_with(home, dataset, user_id)
        for leftover in found:
            leftover.remove()
    except Exception as error:
        return 0, f"NOT removed there: {type(error).__name__}: {error}. Call forget again when it can be reached"
    named = f": {', '.join(leftover.name for leftover in found)}; the next night registers a new one" if found else ""
    return len(found), f"{len(found)} models that know the user deleted{named}"
