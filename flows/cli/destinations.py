"""`nightrecs destinations`: where copies of the published tables are, and how to renew or remove them."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict
from typing import Any

from flows.cli.operate import NOT_REACHED, known, show_deliveries
from flows.cli.output import show
from pipeline.core.console import log
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.destinations import delivery, health, record
from pipeline.destinations.errors import NotDelivered
from pipeline.destinations.places import names_of, settings_now
from pipeline.destinations.published_file import live_night
from pipeline.maintenance.rollback import between_nights
from pipeline.storage import operation_log
from pipeline.storage.lock import lock_holder


def destinations(options: Namespace) -> int:
    """List the destinations of a data set, or do what an option says."""
    home, dataset = known(options)
    if options.publish:
        with between_nights(home, dataset, "destinations"):
            done = delivery.deliver(home, dataset, settings_now(home, dataset), patient=False)
        if options.json:
            print(json.dumps([asdict(each) for each in done], indent=1))
        if not done:
            log.info(f"the settings of the newest published night of {dataset} have no [publish]")
        return show_deliveries(done, dataset)
    if name := options.remove or options.abandon:
        return take_away(home, dataset, name, abandon=bool(options.abandon))
    rows = listed(home, dataset)
    if options.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        show(rows, options)
    else:
        print(
            f"{dataset} has no destinations: set [publish.postgres] or [publish.parquet] in its recipe", file=sys.stderr
        )
    return 0


def listed(home: Home, dataset: str) -> list[dict[str, Any]]:
    """One row for each destination of the settings or on record, with what is really there.

    While a night or a command holds the lock, and may be copying, only the record is read.
    """
    entries, wanted, night = record.read(home, dataset), names_of(settings_now(home, dataset), dataset), None
    if entries or wanted:
        night = live_night(home, dataset)
    looks = health.looks(home, dataset) if entries and lock_holder(home.lock(dataset)) is None else {}
    rows: list[dict[str, Any]] = []
    for name in [*wanted, *(name for name in entries if name not in wanted)]:
        entry = entries.get(name) or record.Entry(name, name.partition(" ")[0])
        is_live = night is not None and entry.has(night.run_id, night.sha256)
        state = "live" if is_live else "behind" if entry.run_id else "empty"
        trouble, look = entry.trouble, looks.get(name)
        if look and (look.damage or look.trouble):
            state, trouble = "damaged" if look.damage else "not reached", str(look)
        rows.append({
            "name": name, "address": entry.address, "state": state if name in wanted else "not in the settings",
            "night": entry.run_id, "copied_at": entry.at, "trouble": trouble,
        })  # fmt: skip
    return rows


def take_away(home: Home, dataset: str, name: str, abandon: bool) -> int:
    """Remove a destination's tables and its record; with `abandon`, the record alone."""
    with between_nights(home, dataset, "destinations"):
        entries = record.read(home, dataset)
        if name not in entries:
            there = f"on record are: {', '.join(entries) or 'none'}"
            raise UnreadableInput(f"{dataset} has no destination {name!r}{nearest(name, list(entries))}; {there}")
        if abandon:
            record.drop(home, dataset, name)
            log.info(f"{name} is forgotten; what is there stays")
        else:
            try:
                removed = delivery.remove(home, dataset, name)
            except NotDelivered as error:
                print(f"NOT removed: {name}: {error}", file=sys.stderr)
                return NOT_REACHED
            log.info(f"{name}: {'its tables are removed' if removed else 'nothing was there'}")
        operation_log.record(home, dataset, "destination", name=name, removed=not abandon)
    if name in names_of(settings_now(home, dataset), dataset):
        log.info("it is still in the settings: the next night with them publishes there again")
    return 0
