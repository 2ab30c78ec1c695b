"""Many replayed nights, one after another: each meets the champion of the one before, as live nights do.

They run in a home of their own and share the source, which is read once and cut at each night's time. What is measured
of a night is written before it is published there, so a published night is complete. A backtest that was killed, and
one that is called again with a later end, goes on with the first night that is not there.
"""

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flows.conductor import conduct
from flows.step import plainly
from pipeline.config.publishing import Keep
from pipeline.config.run import Run, utcnow
from pipeline.core.code_version import code_version
from pipeline.core.console import log
from pipeline.core.errors import Refused, SettingsError, Skipped
from pipeline.core.filesystem import delete, write_atomically
from pipeline.core.stage_call import StageCall, StageName
from pipeline.schemas import tables
from pipeline.schemas.backtest_tables import BACKTEST_NIGHTS
from pipeline.stages import clean, encode, ingest
from pipeline.storage import journal, lake, state_files, warehouse
from pipeline.storage.generations import live_run_id
from pipeline.storage.lock import lock

SOURCE = "source"
"""Folder of the journal in which the source is read; it is no night."""
STATE = "backtest.json"
ENDED = ("published", "refused")


@dataclass(frozen=True)
class Backtest:
    """The nights of a range. `run` is prepared, in the home of the backtest."""

    run: Run
    first: dt.datetime
    last: dt.datetime
    every: dt.timedelta

    @property
    def moments(self) -> list[dt.datetime]:
        """Times of the nights."""
        steps = (self.last - self.first) // self.every
        return [self.first + number * self.every for number in range(steps + 1)]

    def night(self, as_of: dt.datetime) -> Run:
        """The night of a moment. Its id sorts by that time, and is the same when it runs again."""
        stamp = f"{as_of:%Y%m%dT%H%M%S.}{as_of.microsecond // 1000:03d}Z"
        settings = self.run.settings.model_copy(update={"keep": Keep(generations=1, lake_nights=1)})
        digest = hashlib.sha256(f"{stamp} {settings.recipe}".encode()).hexdigest()[:4]
        update = {"run_id": f"{stamp}-{digest}", "as_of": as_of, "settings": settings, "started_at": utcnow()}
        return self.run.model_copy(update=update)

    def values(self, run_id: str) -> Path:
        """File with the metric of every user and model of a night."""
        return self.run.home_root / "values" / f"{run_id}.parquet"

    def fingerprint(self) -> dict[str, Any]:
        """What a backtest that goes on must have in common with the one that is there."""
        settings = self.run.settings.model_dump(mode="json", exclude={"threads", "memory_limit", "scale"})
        source = ingest.spec(self.run).key
        return json.loads(json.dumps({"settings": settings, "source": source, "code": code_version()}))


@dataclass(frozen=True)
class Whole:
    """The source without a limit in time: results of ingest, clean and encode, and the times in it."""

    raw: Path
    cleaned: Path
    encoded: Path
    oldest: dt.datetime
    newest: dt.datetime


def goes_on(test: Backtest) -> bool:
    """Whether the home has nights of this backtest; what is there of another one is of no use.

    Neither are nights after the end of this one: the tables are made from those of the last night, which alone is kept.
    """
    kept, run = state_files.read(test.run.home_root / STATE, dict), test.run
    own = {test.night(as_of).run_id for as_of in test.moments}
    beyond = set(journal.run_ids(run.home, run.dataset)) - own - {SOURCE}
    return kept is not None and kept == test.fingerprint() and not beyond


def read_source(test: Backtest) -> Whole:
    """Read the source once. Raises SettingsError where the range is not within its times."""
    run = test.run.model_copy(update={"run_id": SOURCE})
    with lock(run.home, run.dataset, "backtest", "replay"):
        delete(journal.folder(run))
        journal.open_run(run)
        try:
            raw = ingest.read_source(run)
            cleaned = clean.clean_interactions(run, raw)
            encoded = encode.encode_ids(run, cleaned, raw)
        finally:
            delete(journal.folder(run))
    rows = pl.scan_parquet(raw / "interactions.parquet").select(
        oldest=pl.col("timestamp").min(), newest=pl.col("timestamp").max()
    )
    oldest, newest = rows.collect().row(0)
    if not oldest < test.first < newest or test.last > newest:
        key = "--from" if not oldest < test.first < newest else "--to"
        raise SettingsError(
            f"{key} is outside the data of {run.dataset}, which are from {oldest} to {newest} UTC: choose --from after "
            "the first of them, with enough rows before it for a split, and --to before the last"
        )
    write_atomically(run.home_root / STATE, json.dumps(test.fingerprint(), indent=1))
    return Whole(raw, cleaned, encoded, oldest, newest)


def run_nights(test: Backtest, whole: Whole) -> int:
    """Run the nights that have not ended yet; returns how many had. Raises what ends a night other than a refusal."""
    run, ended = test.run, 0
    with lock(run.home, run.dataset, "backtest", "replay"):
        journal.close_stale(run.home, run.dataset, live_run_id(run.home, run.dataset))
    (test.run.home_root / "values").mkdir(exist_ok=True)
    for number, as_of in enumerate(test.moments, 1):
        night = test.night(as_of)
        record = journal.find_run(run.home, run.dataset, night.run_id)
        if record and record["outcome"] in ENDED:
            ended += 1
            continue
        if not (run.home_root / STATE).exists():
            raise Refused(f"the backtest of {run.dataset} was deleted while it ran, by forget or gc; run it again")
        delete(journal.folder(night))
        log.info(f"night {number} of {len(test.moments)}: as of {as_of}")
        try:
            conduct(night, Watching(test, whole))
        except Refused as reason:
            log.info(f"night {number} is refused, so the lists of the night before stay: {reason}")
        _tidy(run, whole)
    return ended


def _tidy(run: Run, whole: Whole) -> None:
    """Delete the results of a night; the next one needs only the journal, the live file and the source."""
    kept = {folder.name for folder in (whole.raw, whole.cleaned, whole.encoded)} | {"files"}
    for folder in run.home.lake(run.dataset).glob("[1-9]_*/*"):
        if folder.name not in kept:
            delete(folder)


@dataclass
class Watching:
    """The step of a backtest's night: cuts the source instead of reading it, and measures the lists once audited."""

    test: Backtest
    whole: Whole
    fits: dict[str, tuple[Run, Path]] = field(default_factory=dict[str, tuple[Run, Path]])
    """By label, the run with its settings and the fit on train; of the recipe's models."""

    def __call__(self, call: StageCall, stage: Any, run: Run, *inputs: Any) -> Any:
        """Run one stage of the line."""
        if call.stage is StageName.INGEST:
            return ingest.cut_source(run, self.whole.raw)
        result = plainly(call, stage, run, *inputs)
        if call.stage is StageName.TRACK:
            self._keep_fits(run, inputs[3])
        if call.stage is StageName.AUDIT:
            self._measure(run, result, encoded=inputs[1], lists=inputs[2])
        return result

    def _keep_fits(self, run: Run, fitted: list[Path]) -> None:
        labels = {lake.info(folder)["label"]: folder for folder in fitted}
        self.fits = {label: (run, labels[label]) for label in run.settings.models if label in labels}

    def _measure(self, run: Run, building: Path, encoded: Path, lists: Path) -> None:
        """Journal `realised` as far as the data reach, and keep each model's values until the next night."""
        from pipeline.evaluation import realised, until_next_night
        from pipeline.evaluation.realised import HORIZONS, Lists
        from pipeline.publishing import checks
        from pipeline.stages import train

        assert run.as_of
        with journal.stage(run, "measure"), realised.facts(run, self.whole.raw, self.whole.encoded) as con:
            with warehouse.attached(con, building, "published"):
                end = con.sql("SELECT last_timestamp FROM published.interactions_summary").fetchall()[0][0]
            due = [Lists(run.run_id, building, end, days) for days in HORIZONS]
            due = [each for each in due if each.until <= self.whole.newest]
            journal.append(run, tables.REALISED, [row for each in due for row in realised.measure(con, run, each)])
            before_next = run.as_of + self.test.every - dt.timedelta(microseconds=1)
            after = Lists(run.run_id, building, end, 0, before_next)
            seen = until_next_night.until(run, con, after, encoded, lists / checks.ALLOWED)
        if before_next > self.whole.newest:
            journal.note(run, "backtest: the data end before the next night, so this one is not compared")
            return
        if seen is None:
            journal.note(run, "backtest: no user with a list did anything until the next night")
            return
        ranks: dict[str, pl.Series] = {}
        for label, (own, fit) in self.fits.items():
            try:
                ranks[label] = seen.ranks_of(train.refit_model(own, encoded, label, "all", fit))
            except Skipped as reason:
                journal.note(run, f"backtest: {label} is left out: {reason}")
        values = until_next_night.values_by_user(seen, ranks)
        values.write_parquet(self.test.values(run.run_id))
        journal.note(run, f"until the next night: {', '.join(until_next_night.described(values))}")


def nights(test: Backtest) -> pl.DataFrame:
    """BACKTEST_NIGHTS of the nights that ended."""
    home, dataset, records = test.run.home, test.run.dataset, []
    before: dict[str, Any] | None = None
    for as_of in test.moments:
        run_id = test.night(as_of).run_id
        record = journal.find_run(home, dataset, run_id)
        if not record:
            continue
        gate: dict[str, Any] = record.get("gate") or {}
        gain: dict[str, Any] = gate.get("gain") or {}
        ledger = journal.read(home, dataset, tables.ROW_LEDGER, run_id).filter(stage="ingest", reason="kept")
        published = record["outcome"] == "published"
        configuration = record.get("champion_configuration")
        records.append(
            {"run_id": run_id, "as_of": as_of, "outcome": record["outcome"], "champion": record.get("champion"),
             "changed": published and before is not None and configuration != before,
             "decision": gate.get("decision"), "challenger": gate.get("challenger"), "gain": gain.get("value"),
             "gain_low": gain.get("ci_low"), "gain_high": gain.get("ci_high"),
             "reason": gate.get("text") if published else record.get("reason"),
             "rows": ledger["rows"][0] if ledger.height else None}
        )  # fmt: skip
        before = configuration if published else before
    return BACKTEST_NIGHTS.check(pl.DataFrame(records, schema=BACKTEST_NIGHTS.schema, orient="row"))


def values(test: Backtest) -> pl.DataFrame:
    """The values of all users, models and nights, as far as nights measured them, with run_id."""
    parts = [
        pl.read_parquet(path).with_columns(run_id=pl.lit(path.stem))
        for path in sorted((test.run.home_root / "values").glob("*.parquet"))
    ]
    return pl.concat(parts) if parts else pl.DataFrame()
