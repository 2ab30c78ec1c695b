"""`nightrecs replay --from … --to …`: many nights as of their dates, and what they show together."""

import datetime as dt
import re
import shlex
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import polars as pl

from flows import backtest as line
from flows.backtest import Backtest
from flows.cli.replay import moment, prepared, set_up
from pipeline.core.console import log
from pipeline.core.errors import Refused, SettingsError
from pipeline.core.filesystem import delete, sync
from pipeline.core.paths import Home
from pipeline.core.terminal import as_json
from pipeline.evaluation import realised
from pipeline.maintenance.rollback import between_nights
from pipeline.reporting.html import backtest_page
from pipeline.reporting.html.backtest_page import Facts
from pipeline.schemas import backtest_tables, tables
from pipeline.selection import over_nights
from pipeline.storage import forgotten_users, journal, operation_log, warehouse
from pipeline.storage.lock import lock

UNITS = {"h": 1, "d": 24, "w": 7 * 24}
"""Hours."""
MOST_NIGHTS = 10_000
"""Of one backtest: 27 years of days. Each night takes seconds at least."""


def backtest(options: Namespace) -> None:
    """Run the nights that are missing, and print which model wins, what the gates did, and where the tables are."""
    first, last = moment(options.first, "--from"), moment(options.last, "--to")
    every = interval(options.every or "1d")
    if last < first + every:
        raise SettingsError("--from and --to are less than two nights: choose a later --to, or a shorter --every")
    if (last - first) // every >= MOST_NIGHTS:
        raise SettingsError(
            f"--from and --to are {(last - first) // every + 1:,} nights, and a backtest has at most {MOST_NIGHTS:,}: "
            "choose a longer --every, or days that are closer"
        )
    run = prepared(options, first)
    home, dataset = run.home, run.dataset
    end = f"{options.every or '1d'}-{run.settings.recipe}"
    name = f"{_named(first)}_{_named(last)}-{end}"
    target = home.replays(dataset) / f"{name}.duckdb"
    work = Home(home.replays(dataset) / f".{_named(first)}-{end}")  # the same for a later --to
    test = Backtest(run.model_copy(update={"home_root": work.root}), first, last, every)
    log.info(f"backtest of {dataset}: {len(test.moments)} nights, recipe {run.settings.recipe}, in {work.root}")

    if forgotten_users.pending(home, dataset):
        with between_nights(home, dataset, "replay"):
            pass  # a user who is being forgotten must not come back
    listed = forgotten_users.read(home, dataset)
    with lock(work, dataset, "backtest", "replay"):
        goes_on = line.goes_on(test) and forgotten_users.read(work, dataset) == listed
        if not goes_on:
            for part in (work.root / line.STATE, work.root / "values", work.lake(dataset)):
                delete(part)
            set_up(test.run, home)
    whole = line.read_source(test)
    ended = line.run_nights(test, whole)
    if ended:
        log.info(f"{ended} of {len(test.moments)} nights were there from an earlier call")
    with lock(work, dataset, "backtest", "replay"):
        if forgotten_users.read(home, dataset) != listed:
            delete(work.root)
            raise Refused(f"a user of {dataset} was forgotten while the backtest ran, so it was deleted; run it again")
        facts = collected(test, name)
        keep_tables(test, facts, target)
        page = backtest_page.write(facts, target.with_suffix(".html"), home)
        delete(work.lake(dataset))  # the rest is small, and a later --to goes on from it
    answer = answered(facts, target, page)
    operation_log.record(home, dataset, "backtest", nights=facts.nights.height, tables=str(target), best=answer["best"])
    print(as_json(answer, indent=1)) if options.json else show(answer, facts, test.run.settings.dataset.source.mode)


def interval(text: str) -> dt.timedelta:
    """Parse the time between two nights, as `12h`, `1d`, `1w`. Raises SettingsError."""
    found = re.fullmatch(r"([1-9][0-9]{0,3})([hdw])", text)
    if not found:
        raise SettingsError(f"--every {text!r} is no time between nights: write it as 12h, 1d or 1w")
    return dt.timedelta(hours=int(found[1]) * UNITS[found[2]])


def collected(test: Backtest, name: str) -> Facts:
    """The results of all nights. Raises Refused where none was published."""
    run, nights = test.run, line.nights(test)
    if not (nights["outcome"] == "published").any():
        why = nights["reason"][-1] if nights.height else "none ran"
        raise Refused(f"no night of the backtest was published, so there is nothing to compare: {why}")
    select, values = run.settings.select, line.values(test)
    measured = journal.read(run.home, run.dataset, tables.REALISED)
    metric = realised.deciding(select)
    return Facts(
        dataset=run.dataset, name=name, recipe=run.settings.recipe, metric=metric, cutoff=select.cutoff,
        nights=nights,
        values=over_nights.by_night(values) if values.height else backtest_tables.BACKTEST_VALUES.empty(),
        models=over_nights.models(values, list(run.settings.models)),
        realised=over_nights.realised(measured, metric, select.cutoff, test.every),
        measured=measured,
    )  # fmt: skip


def keep_tables(test: Backtest, facts: Facts, target: Path) -> None:
    """Write the backtest's database: the tables of its last published night, `realised` of all, and its own tables."""
    home, dataset = test.run.home, test.run.dataset
    last = facts.nights.filter(outcome="published")["run_id"][-1]
    building = home.generation(dataset, f".{facts.name}.building")
    delete(building)
    shutil.copyfile(home.generation(dataset, last), building)
    building.chmod(0o640)
    own = dict(zip(backtest_tables.BACKTEST, (facts.nights, facts.values, facts.models, facts.realised), strict=True))
    with warehouse.connect(building) as con:
        con.execute(f"DELETE FROM {tables.REALISED.name}")
        warehouse.insert(con, tables.REALISED.name, facts.measured)
        for table, frame in own.items():
            con.execute(table.ddl)
            warehouse.insert(con, table.name, frame)
    sync(building)
    building.chmod(0o440)
    building.replace(target)
    sync(target.parent)


def answered(facts: Facts, target: Path, page: Path) -> dict[str, Any]:
    """What `--json` prints."""
    own = facts.models.filter(~pl.col("model").str.contains(" "))
    decisions = facts.nights.group_by("decision").len().sort("decision")
    return {
        "dataset": facts.dataset, "recipe": facts.recipe, "metric": facts.metric, "cutoff": facts.cutoff,
        "best": own["model"][0] if own.height else None,
        "published": facts.nights.filter(outcome="published").height,
        "changes": int(facts.nights["changed"].sum()),
        "decisions": dict(decisions.select(pl.col("decision").fill_null("refused"), "len").iter_rows()),
        "models": facts.models.to_dicts(), "realised": facts.realised.to_dicts(), "nights": facts.nights.to_dicts(),
        "tables": str(target), "report": str(page),
    }  # fmt: skip


def show(answer: dict[str, Any], facts: Facts, mode: str) -> None:
    """The same for people. `mode`: of the source."""
    log.info(f"\n{backtest_page.markdown(facts)}\n")
    log.info(
        f"{answer['published']} of {facts.nights.height} nights published, {answer['changes']} changes of champion; "
        f"the live tables are as they were; {later_end(mode)}\n\nTry:\n"
        f'  duckdb -readonly {shlex.quote(answer["tables"])} "from backtest_models"\n  open {answer["report"]}'
    )


def later_end(mode: str) -> str:
    """What a call with a later --to does. A backtest keeps no files of an incremental source."""
    if mode == "incremental":
        return "a later --to goes on from here if the source has all of its files still, else all nights run again"
    return "a later --to goes on from here"


def _named(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%dT%H%M%S}".removesuffix("T000000")
