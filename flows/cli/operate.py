"""`nightrecs rollback` and `gc`: maintenance between nights, under the data set's lock."""

import json
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from typing import Any

from flows.cli.output import show
from pipeline.config.publishing import Keep
from pipeline.core.console import log
from pipeline.core.errors import Locked, UnreadableInput
from pipeline.core.filesystem import unless_full
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.datasets.names import dataset_name, unknown_dataset
from pipeline.destinations import delivery
from pipeline.destinations.delivery import Delivery
from pipeline.destinations.places import settings_now
from pipeline.maintenance.gc import keep_of, leftovers
from pipeline.maintenance.rollback import between_nights, roll_back
from pipeline.stages import track
from pipeline.storage import journal, operation_log
from pipeline.storage.garbage import Garbage

NOT_REACHED = 3
"""Exit code if a destination was not brought up to date."""


def rollback(options: Namespace) -> int:
    """Make an earlier generation live again. MLflow's alias and the destinations follow.

    Exit code 3 if a destination does not have the tables of that night; the live tables here are rolled back.
    """
    home, dataset = known(options)
    with between_nights(home, dataset, "rollback"):
        entry = roll_back(home, dataset, options.to)
        log.info(f"{home.live(dataset)} is that of night {entry['to']} again (was {entry['from']})")
        entry["mlflow"] = track.follow_live(home, dataset)
        done = delivery.deliver(home, dataset, settings_now(home, dataset), patient=False)
    if done:
        entry["destinations"] = [asdict(each) for each in done]
    log.info(f"MLflow: {entry['mlflow']}")
    if options.json:
        print(json.dumps(entry, indent=1))
    return show_deliveries(done, dataset)


def show_deliveries(done: list[Delivery], dataset: str) -> int:
    """Log how destinations were brought up to date; exit code 3 if one was not."""
    for each in done:
        if each.trouble is None:
            log.info(f"{each.name} {'has the live tables now' if each.copied else 'has the live tables'}")
        else:
            print(f"NOT done: {each.name} does not have the live tables: {each.trouble}", file=sys.stderr)
            print(f"  try again: nightrecs destinations {dataset} --publish", file=sys.stderr)
    return NOT_REACHED if any(each.trouble for each in done) else 0


def gc(options: Namespace) -> int:
    """Remove (with --dry-run: list) everything that is no longer needed, of one data set or of all."""
    home = Home.resolve(options.home)
    datasets = [known(options)[1]] if options.dataset else sorted(p.name for p in _journals(home))
    records, busy = [], []
    for dataset in datasets:
        try:
            with between_nights(home, dataset, "gc"):
                records += [{"dataset": dataset, **entry} for entry in _collect(home, dataset, options)]
        except Locked as held:
            if options.dataset:
                raise
            busy.append(f"{dataset} was skipped: {held}")
    freed = sum(record["bytes"] for record in records)
    if options.json:
        answer = {"dry_run": options.dry_run, "bytes": freed, "left_alone": busy, "removed": records}
        print(json.dumps(answer, indent=1))
    elif records:
        show(records, options)
    for line in busy:
        print(line, file=sys.stderr)
    verb = "would free" if options.dry_run else "freed"
    print(f"{verb} {freed:,} bytes in {len(records)} files and folders", file=sys.stderr)
    return 4 if busy else 0


def _collect(home: Home, dataset: str, options: Namespace) -> list[dict[str, Any]]:
    keep = keep_of(home, dataset)
    given = {name: getattr(options, f"keep_{name}") for name in Keep.model_fields}
    keep = Keep.model_validate({**keep.model_dump(), **{k: v for k, v in given.items() if v is not None}})
    found = leftovers(home, dataset, keep)
    if options.dry_run or not found:
        return [_as_record(leftover) for leftover in found]
    removed: list[Garbage] = []
    for leftover in found:  # nothing is written before files are gone: the disk may be full
        with unless_full(f"{leftover.kind} {leftover.name} is removed by the next gc"):
            leftover.remove()
            removed.append(leftover)
    total = sum(leftover.bytes for leftover in removed)
    kinds = dict(Counter(leftover.kind for leftover in removed))
    with unless_full(f"this gc is not in the log of operations: {total:,} bytes, {kinds}"):
        operation_log.record(home, dataset, "gc", keep=keep.model_dump(), bytes=total, removed=kinds)
    return [_as_record(leftover) for leftover in removed]


def _as_record(leftover: Garbage) -> dict[str, Any]:
    return {"kind": leftover.kind, "bytes": leftover.bytes, "name": leftover.name}


def known(options: Namespace) -> tuple[Home, str]:
    """Home and data set of a command; UnreadableInput if the home has no such data set."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    replays = home.replays(dataset).glob("[!.]*.duckdb")
    if not journal.run_ids(home, dataset) and not home.live(dataset).exists() and not any(replays):
        names = [path.name for path in _journals(home)]
        raise UnreadableInput(f"{unknown_dataset(home, dataset)}{nearest(dataset, names)}")
    return home, dataset


def _journals(home: Home) -> list[Any]:
    root = home.warehouse / "journal"
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
