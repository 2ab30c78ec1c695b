"""Removes one user from everything at rest, and proves it. (tracking.cleanup removes MLflow's models.)

The user is recorded first (`forgotten_users.Pending`), then added to the list that every later night leaves out, so a
killed call is finished by the next command that takes the lock. Published files are rebuilt (published_rebuild). Sums
over many users (items, popular_items, interactions_summary, metrics, row_ledger) stay as that night counted them. At
the end the whole home is searched (home_search); the call is done only where nothing is found.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline.core.console import log
from pipeline.core.errors import Held
from pipeline.core.fault_injection import fault
from pipeline.core.filesystem import delete, sha256, sync
from pipeline.core.paths import Home
from pipeline.destinations import delivery, record
from pipeline.destinations.errors import NotDelivered
from pipeline.maintenance import home_search, published_rebuild, shared_results
from pipeline.maintenance.gc import LAYERS, SOURCE_FILES
from pipeline.schemas.reasons import Reason
from pipeline.sources import incremental
from pipeline.sources.exclusions import redact, rewrite
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED
from pipeline.sources.user_traces import LONG, Dialect, Person
from pipeline.storage import forgotten_users, journal, lake, operation_log, reader, warehouse
from pipeline.storage.forgotten_users import Forgotten, Pending


@dataclass
class Outcome:
    """What a `forget` did; `left`: what it could not clear, by file; empty where nothing names the user."""

    tables: dict[str, int] = field(default_factory=dict[str, int])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    mlflow: str = ""
    left: list[str] = field(default_factory=list[str])


def forget(home: Home, dataset: str, user_id: str) -> Outcome:
    """Take every step, and search the home; the caller holds the lock.

    Raises UnreadableInput if a shared lake has to be reached first, and can't be.
    """
    forgotten_users.drop_remains(home, dataset)
    shared_results.before_forgetting(home, dataset)
    pending = forgotten_users.begin(home, dataset, user_id)
    fault("forget:after_record")
    return _carry_out(home, dataset, pending)


def finish(home: Home, dataset: str, prove: bool = True, but: str | None = None) -> list[str]:
    """Finish calls that are not done; the caller holds the lock. Returns what is left, by file.

    `prove` false, as for a night: calls of which only the search is left wait for another command.
    `but`: a user whom the caller has just handled.
    """
    if not home.forgotten(dataset).parent.is_dir():
        return []
    forgotten_users.drop_remains(home, dataset)
    left: list[str] = []
    for pending in forgotten_users.pending(home, dataset):
        if pending.user == but:
            continue
        if prove or set(pending.done) < set(STEPS):
            log.info("finishing to forget a user, which was begun earlier")
            left += _carry_out(home, dataset, pending).left
        else:
            left += pending.left
    return left


def is_published_in(home: Home, dataset: str, path: Path) -> bool:
    """Whether a published file names a user whom a `forget` that is not done should have taken out of it."""
    listed = forgotten_users.read(home, dataset)
    return any(
        home_search.look_into(path, _person(home, dataset, pending.user, listed))
        for pending in forgotten_users.pending(home, dataset)
    )


def _carry_out(home: Home, dataset: str, pending: Pending) -> Outcome:
    """Take the steps that are not done, prove it, and close the record where nothing is left."""
    outcome = Outcome()
    again = pending.user in forgotten_users.read(home, dataset)
    listed = forgotten_users.add(home, dataset, pending.user)
    fault("forget:after_list")
    person = _person(home, dataset, pending.user, listed)
    for name, step in STEPS.items():
        if name in pending.done:
            continue
        try:
            step(home, dataset, person, outcome)
        except Exception as error:
            why = person.redacted_message((str(error) or type(error).__name__).splitlines()[0])
            kind = "" if isinstance(error, NotDelivered) else f"{type(error).__name__}: "
            outcome.left.append(f"{name}: {kind}{why}")
            continue
        pending.done.append(name)
        pending.save()
        fault("forget:after_step")
    found = home_search.search(home, dataset, person)
    outcome.left += [f"{finding.path.relative_to(home.root)}: {finding.what}" for finding in found]
    outcome.left += shared_results.search(home, dataset, person)
    fault("forget:before_done")
    if outcome.left:
        pending.left = outcome.left
        pending.save()
    else:
        pending.end()
    mine = listed.hash_of(pending.user)[:12]
    counts = {"tables": outcome.tables, **outcome.counts, "left": len(outcome.left)}
    operation_log.record(home, dataset, "forget", user=mine, again=again, **counts)
    return outcome


def _person(home: Home, dataset: str, user_id: str, listed: Forgotten) -> Person:
    """The user, with the dialects of all sources that nights have read, and whether the id is ambiguous."""
    dialects = tuple(dialects_of(home, dataset))
    is_item, is_part = _likeness(home, dataset, user_id) if len(user_id) >= LONG else (True, True)
    return Person(user_id, listed, dialects, is_item, is_part)


def dialects_of(home: Home, dataset: str) -> list[Dialect]:
    """Dialects of the sources of all nights, from their settings."""
    found = {Dialect(): None}
    for run_id in journal.run_ids(home, dataset):
        with suppress(OSError, ValueError, KeyError, TypeError):
            settings = json.loads((home.journal(dataset) / run_id / "settings.json").read_text())
            for section in ("source", "users"):
                if reading := settings["dataset"].get(section):
                    found[Dialect(reading.get("delimiter"), reading.get("quote", '"'))] = None
    return list(found)


def _likeness(home: Home, dataset: str, user_id: str) -> tuple[bool, bool]:
    """Whether an item has this id, and whether another id contains it, in any published file or kept source."""
    files = incremental.folder(home.lake(dataset) / "1_raw").glob(f"*/{INTERACTIONS}")
    places = [(path, "users", "items") for path in published_rebuild.databases(home, dataset)]
    kept = [f"read_parquet({warehouse.literal(path)})" for path in files]
    is_item = is_part = False
    for path, users, items in [*places, *((None, source, source) for source in kept)]:
        both = f"SELECT user_id::VARCHAR AS id, false AS item FROM {users} UNION ALL "
        both += f"SELECT item_id::VARCHAR, true FROM {items}"
        query = f"SELECT bool_or(item AND id = $id), bool_or(id <> $id OR item) FROM ({both}) WHERE contains(id, $id)"
        opened = suppress(warehouse.DatabaseError, Held)  # the steps that follow name such a file
        with opened, reader.open_file(path) if path else warehouse.scratch() as con:
            ((same, wider),) = con.sql(query, params={"id": user_id}).fetchall()
            is_item, is_part = is_item or bool(same), is_part or bool(wider)
    return is_item, is_part


def is_known(home: Home, dataset: str, user_id: str) -> bool:
    """Whether any published file or anything read from the source names the user."""
    for path in published_rebuild.databases(home, dataset):
        with suppress(warehouse.DatabaseError), reader.open_file(path) as con:  # a damaged one says nothing
            if con.sql("SELECT 1 FROM users WHERE user_id = $user", params={"user": user_id}).fetchall():
                return True
    rows = [*home.lake(dataset).glob(f"1_raw/*/{INTERACTIONS}"), *home.lake(dataset).glob(f"1_raw/*/*/{INTERACTIONS}")]
    return any(
        not pl.scan_parquet(path).filter(pl.col("user_id").cast(pl.String) == user_id).head(1).collect().is_empty()
        for path in rows
    )


def from_tables(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Rebuild every published file that names the user; see `published_rebuild.rebuild_all`."""
    published_rebuild.rebuild_all(home, dataset, person, outcome.tables)


def from_destinations(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Copy the rebuilt tables to every destination that has any, and remove older nights there."""
    if record.read(home, dataset):
        left = delivery.clear_users(home, dataset)
        outcome.counts["destinations"] = len(record.read(home, dataset)) - len(left)
        if left:
            raise NotDelivered("; ".join(left))


def from_lake(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete all results of the stages (the next night makes them again), and rewrite what incremental sources read.

    Those files can't be read again, so their parts lose the user's rows, which their ledgers then count as forgotten.
    A generator's files go as well: the next night makes them again, with all their made-up users.
    """
    root = home.lake(dataset)
    deleted = [path for path in root.glob(f"{LAYERS}/*") if path.name != SOURCE_FILES]
    deleted += [path for path in [root / lake.SOURCE] if path.is_dir()]
    for path in deleted:
        delete(path)
    rewritten = 0
    files = incremental.folder(root / "1_raw")
    for aside in files.glob(".[!.]*"):  # of a call that was killed
        if lake.is_complete(aside) and not (part := aside.with_name(aside.name[1:])).exists():
            aside.rename(part)
    for manifest in sorted(files.glob(f"[!.]*/{lake.MANIFEST}")):
        rewritten += _rewrite_part(manifest.parent, person)
    outcome.counts |= {"lake_folders": len(deleted), "source_files": rewritten}


def from_shared_lakes(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete all results of the data set from the lakes that it shares with other homes."""
    if home.lakes(dataset).exists():
        outcome.counts["shared_results"] = shared_results.forget(home, dataset)


def _rewrite_part(part: Path, person: Person) -> bool:
    """Whether a part named a forgotten user; then it is replaced, by a rename."""
    aside, old = part.with_name(f".{part.name}"), part.with_name(f".{part.name}.old")
    delete(aside)
    delete(old)
    aside.mkdir()
    before = incremental.result_of(part)
    for name in (INTERACTIONS, REJECTED):
        (aside / name).write_bytes((part / name).read_bytes())
    result = rewrite(aside, before, person.listed, dialects=person.dialects, person=person)
    changed = result.ledger.get(Reason.FORGOTTEN) != before.ledger.get(Reason.FORGOTTEN) or any(
        sha256(aside / name) != sha256(part / name) for name in (INTERACTIONS, REJECTED)
    )
    if changed:
        incremental.complete(aside, result)
        sync(aside)
        part.rename(old)
        aside.rename(part)
    delete(aside)
    delete(old)
    return changed


def from_journals(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Redact rejected lines of all nights; one that may name the user is blanked. (Texts: `from_texts`.)"""
    redacted = undecided = 0
    for run_id in journal.run_ids(home, dataset):
        path = home.journal(dataset) / run_id / REJECTED
        if path.is_file():
            before = pl.read_parquet(path)
            clean = redact(before, person.listed, person.dialects, person)
            if changed := int((before["raw"] != clean["raw"]).sum()):
                aside = path.with_name(f".{path.name}")
                clean.write_parquet(aside)
                os.replace(aside, path)
                redacted += changed
                undecided += changed - sum(person.is_in_raw(raw) for raw in before["raw"])
    outcome.counts |= {"rejected_lines": redacted, "of_them_undecided": undecided}


def from_reports(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete the reports, which show users; `nightrecs report` makes them again from what is left."""
    reports = list((home.reports / dataset).glob("*"))
    for path in reports:
        delete(path)
    outcome.counts["reports"] = len(reports)


def from_replays(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete what unfinished replays left; one that runs now finds the list changed, and refuses."""
    deleted = 0
    running = home_search.running_replays(home, dataset)
    for work in home.replays(dataset).glob(".[!.]*"):
        if work not in running:
            delete(work)
            deleted += 1
    outcome.counts["replay_homes"] = deleted


def from_mlflow(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Delete the models that know the user."""
    outcome.counts["mlflow_models"] = 0
    if not any(journal.read_run(home, dataset, i).get("mlflow_run_id") for i in journal.run_ids(home, dataset)):
        outcome.mlflow = "it has no night of this data set"
        return
    from pipeline.tracking import cleanup  # imports mlflow, which takes seconds

    try:
        found = cleanup.models_with(home, dataset, person.user_id)
        for leftover in found:
            leftover.remove()
    except Exception as error:
        outcome.mlflow = f"NOT removed there: {type(error).__name__}: {error}. Call forget again when it can be reached"
        raise
    named = f": {', '.join(leftover.name for leftover in found)}; the next night registers a new one" if found else ""
    outcome.counts["mlflow_models"] = len(found)
    outcome.mlflow = f"{len(found)} models that know the user deleted{named}"


def from_texts(home: Home, dataset: str, person: Person, outcome: Outcome) -> None:
    """Blank the id in all other files of the home: reasons, notes, errors, the databases of MLflow and Prefect."""
    outcome.counts["texts"] = outcome.counts["journal_texts"] = home_search.clear(
        home, dataset, person
    )  # its old name, too


STEPS: dict[str, Callable[[Home, str, Person, Outcome], None]] = {
    "published files": from_tables,
    "destinations": from_destinations,
    "lake": from_lake,
    "shared lake": from_shared_lakes,
    "rejected lines": from_journals,
    "reports": from_reports,
    "replays": from_replays,
    "MLflow": from_mlflow,
    "texts": from_texts,
}
"""The steps in order, by the name used in messages."""
