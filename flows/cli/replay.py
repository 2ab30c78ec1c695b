"""`nightrecs replay`: a night as it would have been, from the interactions before a moment.

It runs in a home of its own below `warehouse/replays/`, so that the live name, the generations, the journal and
MLflow's champion of the real one are out of its reach; what was killed goes on from there. When it is done, its
database is all that stays.
"""

import datetime as dt
import json
import os
import shlex
import shutil
from argparse import Namespace

from flows.conductor import conduct
from flows.orchestration.engines import engine_of
from flows.prepare import prepare
from pipeline.config.run import Run
from pipeline.core.console import log
from pipeline.core.errors import Refused, SettingsError
from pipeline.core.filesystem import delete, sync
from pipeline.core.paths import Home
from pipeline.maintenance.rollback import between_nights
from pipeline.sources import exclusions, incremental
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED
from pipeline.stages.ingest import LAYER
from pipeline.storage import forgotten_users, journal, lake, operation_log, reader
from pipeline.storage.lock import lock

YEARS = 1970, 2100
"""Times of interactions are in these years, the second left out."""


def replay(options: Namespace) -> None:
    """Run the night, or the nights of a range, and print where the tables are."""
    if is_range(options):
        from flows.cli.backtest import backtest

        return backtest(options)
    as_of = moment(options.as_of)
    run = prepared(options, as_of)
    home, dataset = run.home, run.dataset
    name = f"{as_of:%Y-%m-%dT%H%M%S}".removesuffix("T000000") + f"-{run.settings.recipe}"
    target = home.replays(dataset) / f"{name}.duckdb"
    work = Home(home.replays(dataset) / f".{name}")
    again = run.model_copy(update={"home_root": work.root, "as_of": as_of})
    log.info(f"replay {run.run_id} of {dataset} as of {as_of}, recipe {run.settings.recipe}, in {work.root}")

    if forgotten_users.pending(home, dataset):
        with between_nights(home, dataset, "replay"):
            pass  # a user who is being forgotten must not come back
    with lock(work, dataset, run.run_id, "replay"):
        listed = set_up(again, home)
    with engine_of(again):
        conduct(again)
    with lock(work, dataset, run.run_id, "replay"):
        if forgotten_users.read(home, dataset) != listed:
            delete(work.root)
            raise Refused(f"a user of {dataset} was forgotten while the replay ran, so it was deleted; run it again")
        record = journal.read_run(work, dataset, run.run_id)
        os.replace(work.generation(dataset, run.run_id), target)
        sync(target.parent)
        delete(work.root)
    keys = ("run_id", "recipe", "champion", "logical_hash")
    answer = {"dataset": dataset, "as_of": as_of.isoformat(), **{key: record.get(key) for key in keys}}
    answer["tables"] = str(target)
    operation_log.record(home, dataset, "replay", **{key: answer[key] for key in ("as_of", *keys, "tables")})
    if options.json:
        print(json.dumps(answer, indent=1))
        return
    with reader.open_file(target) as con:
        rows, last = con.sql("select rows, last_timestamp from interactions_summary").fetchall()[0]
    log.info(
        f"\nreplayed by {record.get('champion')} from {rows:,} interactions, the last of {last}: {target}\n"
        f"logical hash {record.get('logical_hash')}; the live tables are as they were\n\nTry:\n"
        f'  duckdb -readonly {shlex.quote(str(target))} "from leaderboard"'
    )


def is_range(options: Namespace) -> bool:
    """Whether a range of nights is asked for. Raises SettingsError if the options don't say which night or nights."""
    ends = options.first, options.last
    if options.as_of and any((*ends, options.every)):
        raise SettingsError("--as-of is one night, and --from, --to and --every are many: give one or the other")
    if not options.as_of and not all(ends):
        raise SettingsError("which night: --as-of DATE for one, or --from DATE --to DATE for a backtest of many")
    return not options.as_of


def prepared(options: Namespace, as_of: dt.datetime) -> Run:
    """The night of the options, in the home that they name. Raises SettingsError without times."""
    run = prepare(options.dataset, options.recipe, options.data, options.home, options.overrides)
    if run.settings.dataset.columns.timestamp is None:
        raise SettingsError(
            f"{run.dataset} has no times, so it is unknown what was there before {as_of}: name "
            "dataset.columns.timestamp"
        )
    return run


def moment(text: str, option: str = "--as-of") -> dt.datetime:
    """Parse an ISO 8601 date or time, in UTC unless it has an offset, to naive UTC. Raises SettingsError."""
    try:
        parsed = dt.datetime.fromisoformat(text)
        parsed = parsed.astimezone(dt.UTC).replace(tzinfo=None) if parsed.tzinfo else parsed
    except (ValueError, OverflowError):
        raise SettingsError(
            f"{option} {text!r} is not a date: write it as 2026-11-22 or 2026-11-22T03:00:00+01:00"
        ) from None
    if not YEARS[0] <= parsed.year < YEARS[1]:
        raise SettingsError(
            f"{option} {text!r}: interactions are from {YEARS[0]} to {YEARS[1] - 1}; choose a date then"
        )
    return parsed


def set_up(again: Run, home: Home) -> forgotten_users.Forgotten:
    """An empty journal, the list of forgotten users, and, of incremental sources, the kept files cut in time.

    Results of a killed replay of the same moment stay in its lake, where equal keys find them.
    """
    work, dataset = again.home, again.dataset
    for at in (work.journal(dataset), work.generations(dataset), work.live(dataset)):
        delete(at)
    listed = forgotten_users.read(home, dataset)
    work.journal(dataset).mkdir(parents=True)
    if listed:
        shutil.copyfile(home.forgotten(dataset), work.forgotten(dataset))
    if again.settings.dataset.source.mode == "incremental":
        _bring_files(again, home)
    return listed


def _bring_files(again: Run, home: Home) -> None:
    source, into = home.lake(again.dataset) / LAYER, again.home.lake(again.dataset) / LAYER
    incremental.write_seen(into, incremental.read_seen(source), incremental.read_sizes(source))
    for manifest in sorted(incremental.folder(source).glob(f"[!.]*/{lake.MANIFEST}")):
        part = manifest.parent
        aside = incremental.folder(into) / f".{part.name}"
        cut = aside.with_name(part.name)
        if lake.is_complete(cut):
            continue
        delete(aside)
        delete(cut)
        aside.mkdir()
        for name in (INTERACTIONS, REJECTED):
            shutil.copyfile(part / name, aside / name)
        result = exclusions.rewrite(aside, incremental.result_of(part), forgotten_users.Forgotten(), again.as_of)
        incremental.complete(aside, result)
        aside.rename(cut)
