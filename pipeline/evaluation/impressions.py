"""Clicks on published lists: what the files of `[impressions]` say about the lists of the kept generations.

Only counts are kept. A row is matched by the list's id, or by its user and time; of a user who was forgotten, and of a
list that no kept generation has, it is dropped, and the ledger of the stage `impressions` says how many were.
"""

import datetime as dt
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Columns, Dataset, Feedback, Impressions, Source
from pipeline.config.run import Run
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.core.filesystem import delete
from pipeline.preparation.filters import mark
from pipeline.preparation.row_names import RowNames
from pipeline.schemas import tables
from pipeline.schemas.click_tables import REALISED_CLICKS
from pipeline.schemas.reasons import Reason
from pipeline.sources import files
from pipeline.sources.column_names import columns_of
from pipeline.sources.extra_columns import RATED, ROLES
from pipeline.sources.file_reader import read_file
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.storage import expressions, forgotten_users, journal, operation_log, warehouse
from pipeline.storage.generations import kept_generations

Span = tuple[dt.datetime, dt.datetime]
"""From, and until just before, UTC without a zone."""
STAGE = "impressions"
Z = 1.959964
"""Quantile of the normal distribution for 95 %."""


def measure(run: Run) -> pl.DataFrame:
    """Journal and return REALISED_CLICKS of the kept generations. Files that can't be read are a warning."""
    impressions = run.settings.dataset.impressions
    if impressions is None or run.as_of is not None:
        return REALISED_CLICKS.empty()
    scratch = run.home.lake(run.dataset) / "1_raw" / ".scratch-impressions"  # cleared by forget, gc and the next night
    delete(scratch)
    scratch.mkdir(parents=True)
    con = warehouse.connect(threads=run.settings.threads, memory_limit=run.settings.memory_limit)
    try:
        ledger = _read(con, run, impressions, scratch)
        counts = _matched(con, run, impressions, ledger)
    except (UnreadableInput, SettingsError) as error:
        journal.note(run, f"warning: impressions are not counted: {error}")
        return REALISED_CLICKS.empty()
    finally:
        con.close()
        delete(scratch)
    reasons = [{"stage": STAGE, "reason": str(reason), "rows": n} for reason, n in ledger.items() if n]
    journal.append(run, tables.ROW_LEDGER, reasons)
    dropped = {str(reason): n for reason, n in ledger.items() if n and reason != Reason.KEPT}
    journal.note(
        run,
        f"impressions: {ledger[Reason.KEPT]:,} of {sum(ledger.values()):,} rows count"
        + (f"; dropped: {', '.join(f'{reason} {n:,}' for reason, n in sorted(dropped.items()))}" if dropped else ""),
    )
    rows = REALISED_CLICKS.check(counts.with_columns(measured_by=pl.lit(run.run_id)))
    journal.append(run, REALISED_CLICKS, rows.to_dicts())
    return rows


def problem(dataset: Dataset, data: Path) -> str | None:
    """Why the files of `[impressions]` can't be counted: one is missing, or lacks a column. None: nothing is known.

    Only their first lines are read.
    """
    impressions = dataset.impressions
    if impressions is None:
        return None
    source = as_source(dataset, impressions)
    columns = {
        f"dataset.impressions.{key}": column
        for key in ("list_id", "user", "timestamp", "item", "clicked")
        if (column := getattr(impressions, key))
    }
    try:
        shown = impressions.shown_if and expressions.parse(impressions.shown_if, "dataset.impressions.shown_if")
        for name in files.find_files(data, impressions.files):
            there = columns_of(data / name, name, source.source, columns)
            if shown and there:
                expressions.resolve(shown, dict.fromkeys([*there, *ROLES, *ROLES.values(), RATED]), name)
    except (UnreadableInput, SettingsError) as error:
        return str(error)
    return None


def as_source(dataset: Dataset, impressions: Impressions) -> Dataset:
    """A data set that reads the files: the list or the user as the user, the click as the rating."""
    reading = impressions.model_dump(include=set(Source.model_fields))
    columns = {
        "user": impressions.list_id or impressions.user, "item": impressions.item, "rating": impressions.clicked,
        "rating_values": impressions.clicked_values, "timestamp_unit": impressions.timestamp_unit,
        "timestamp": None if impressions.list_id else impressions.timestamp,
    }  # fmt: skip
    return Dataset(
        name=dataset.name, source=Source.model_validate(reading), columns=Columns.model_validate(columns),
        feedback=Feedback(keep_if=impressions.shown_if),
    )  # fmt: skip


def wilson(clicked: int, shown: int, z: float = Z) -> tuple[float, float]:
    """Interval of a rate (Wilson 1927, "Probable inference"); the whole range without impressions."""
    if not shown:
        return 0.0, 1.0
    rate = clicked / shown
    middle, scale = rate + z * z / (2 * shown), 1 + z * z / shown
    half = z * math.sqrt(rate * (1 - rate) / shown + z * z / (4 * shown * shown))
    low, high = (middle - half) / scale, (middle + half) / scale
    return max(0.0, low) if clicked else 0.0, min(1.0, high) if clicked < shown else 1.0


def _read(con: warehouse.Connection, run: Run, impressions: Impressions, scratch: Path) -> Counter[Reason]:
    """Create `seen` (n, key, item_id, shown_at, clicked) of the rows that were shown; returns the others' ledger."""
    source = as_source(run.settings.dataset, impressions)
    listed = forgotten_users.read(run.home, run.dataset)
    ledger: Counter[Reason] = Counter()
    con.execute("CREATE TEMP SEQUENCE numbers")
    con.execute(
        "CREATE TEMP TABLE seen (n BIGINT DEFAULT nextval('numbers'), key VARCHAR, item_id VARCHAR, "
        "shown_at TIMESTAMP, clicked BOOLEAN)"
    )
    for number, name in enumerate(files.find_files(run.data, impressions.files)):
        part = scratch / str(number)
        part.mkdir()
        found = read_file(con, run.data / name, name, source, part)
        no_key = Reason.UNKNOWN_LIST if impressions.list_id else Reason.EMPTY_USER  # the key is read as a user
        reasons = {reason: no_key if reason == Reason.EMPTY_USER else Reason(reason) for reason in found.ledger}
        for reason, n in found.ledger.items():
            ledger[reasons[reason]] += n * (reason != Reason.KEPT)
        rows = pl.read_parquet(part / INTERACTIONS)
        rows = mark(rows, source.feedback, RowNames(source.columns).learnt(rows, source.feedback))
        ledger[Reason.NOT_SHOWN] += int((~rows["kept"]).sum())
        rows = rows.filter("kept").select(
            pl.col("user_id", "item_id").cast(pl.String), "timestamp", clicked=pl.col("rating").fill_null(0) > 0
        )
        if impressions.list_id is None and listed:
            users = rows["user_id"].unique()
            gone = users.filter(pl.Series([user in listed for user in users], dtype=pl.Boolean))
            ledger[Reason.FORGOTTEN] += int(rows["user_id"].is_in(gone.implode()).sum())
            rows = rows.filter(~pl.col("user_id").is_in(gone.implode()))
        con.register("_rows", rows.to_arrow())
        con.execute("INSERT INTO seen (key, item_id, shown_at, clicked) SELECT * FROM _rows")
        con.unregister("_rows")
        delete(part)
    return ledger


def _matched(con: warehouse.Connection, run: Run, impressions: Impressions, ledger: Counter[Reason]) -> pl.DataFrame:
    """REALISED_CLICKS without measured_by; `ledger` gets the rows that count, and those of no list."""
    con.execute("CREATE TEMP TABLE known (n BIGINT)")
    con.execute(
        "CREATE TEMP TABLE matched (n BIGINT, run_id VARCHAR, list VARCHAR, source VARCHAR, place INTEGER, "
        "clicked BOOLEAN)"
    )
    made: dict[str, dt.datetime | None] = {}

    def each(run_ids: Iterable[str], do: Callable[[str], None]) -> None:
        """Do it with each generation as `published`; one that can't be read is noted."""
        for run_id in run_ids:
            try:
                with warehouse.attached(con, run.home.generation(run.dataset, run_id), "published"):
                    do(run_id)
            except warehouse.DatabaseError as error:
                journal.note(run, f"impressions: generation {run_id} can't be read ({str(error).splitlines()[0]})")

    def note_time(run_id: str) -> None:
        made[run_id] = con.sql("SELECT max(generated_at) FROM published.recommendations").fetchall()[0][0]

    each(kept_generations(run.home, run.dataset), note_time)
    gone = published_before(run, made)
    spans = live_times(made, operation_log.read(run.home, run.dataset, "rollback"), gone)
    each(made, lambda run_id: _match(con, run_id, impressions, spans[run_id]))
    total, known, kept = con.sql(
        "SELECT (SELECT count(*) FROM seen), (SELECT count(DISTINCT n) FROM known), (SELECT count(*) FROM matched)"
    ).fetchall()[0]
    ledger[Reason.KEPT] += kept
    ledger[Reason.UNKNOWN_LIST] += total - known
    ledger[Reason.NOT_IN_LIST] += known - kept
    rates = con.sql(
        "SELECT run_id, list, coalesce(source, 'all') AS source, coalesce(place, 0)::INTEGER AS place, "
        "count(*) AS shown, count(*) FILTER (clicked) AS clicked FROM matched GROUP BY GROUPING SETS "
        "((run_id, list), (run_id, list, source), (run_id, list, place), (run_id, list, source, place)) ORDER BY ALL"
    ).pl()
    ends = [wilson(clicked, shown) for clicked, shown in rates.select("clicked", "shown").iter_rows()]
    return rates.with_columns(
        pl.col("shown", "clicked").cast(pl.Int64),
        rate=pl.col("clicked") / pl.col("shown"),
        ci_low=pl.Series([low for low, _ in ends], dtype=pl.Float64),
        ci_high=pl.Series([high for _, high in ends], dtype=pl.Float64),
    )


def published_before(run: Run, kept: Collection[str]) -> dict[str, dt.datetime]:
    """When the published nights ended whose generation is not among those `kept`, by run id, UTC."""
    nights = journal.read(run.home, run.dataset, tables.RUNS).filter(
        pl.col("outcome") == "published", ~pl.col("run_id").is_in(list(kept))
    )
    return dict(nights.select("run_id", pl.coalesce("finished_at", "started_at")).iter_rows())


def live_times(
    made: Mapping[str, dt.datetime | None],
    rollbacks: Iterable[Mapping[str, Any]],
    gone: Mapping[str, dt.datetime] | None = None,
) -> dict[str, list[Span]]:
    """When each generation was live: from when it was made or a rollback went back to it, until another one was live.

    `made`: by run id, in UTC, None for one without lists; `rollbacks`: records of the log of operations, in order;
    `gone`: generations that are not kept, which ended the time of others all the same.
    """
    starts = [(at, run_id) for run_id, at in {**made, **(gone or {})}.items() if at is not None]
    for record in rollbacks:
        with suppress(KeyError, ValueError, TypeError):  # a record that was damaged by hand
            at = dt.datetime.fromisoformat(record["at"])
            starts.append((at.astimezone(dt.UTC).replace(tzinfo=None) if at.tzinfo else at, record["to"]))
    starts.sort(key=itemgetter(0))
    spans: dict[str, list[Span]] = {run_id: [] for run_id in made}
    for (start, run_id), (end, _) in zip_longest(starts, starts[1:], fillvalue=(dt.datetime.max, "")):
        if run_id in spans and start < end:
            spans[run_id].append((start, end))
    return spans


def _match(con: warehouse.Connection, run_id: str, impressions: Impressions, spans: list[Span]) -> None:
    """Match what was seen with the lists of one generation, `published`.

    By user and time, its lists count for what was seen while it was live, in one of `spans`.
    """
    columns = "SELECT table_name, column_name FROM duckdb_columns() WHERE database_name = 'published'"
    there = set(con.sql(columns).fetchall())
    parts = ["SELECT *, '' AS list FROM published.recommendations"]
    if impressions.list_id is None:
        live = [f"seen.shown_at >= TIMESTAMP '{start}' AND seen.shown_at < TIMESTAMP '{end}'" for start, end in spans]
        fits = f"lists.user_id = seen.key AND ({' OR '.join(live) or 'false'})"
    else:
        if ("recommendations", "list_id") not in there:
            return  # of an earlier version
        fits = "lists.list_id = seen.key"
        if ("recommendations_in", "list_id") in there:
            parts.append("SELECT * EXCLUDE (list), list FROM published.recommendations_in")
        if ("recommendations_by", "list_id") in there:
            name = "concat(attribute, '=', value)"
            parts.append(f"SELECT *, 'model' AS source, {name} AS list FROM published.recommendations_by")
    lists = f"({' UNION ALL BY NAME '.join(parts)}) AS lists"
    con.execute(f"INSERT INTO known SELECT DISTINCT seen.n FROM seen JOIN {lists} ON {fits}")
    con.execute(
        f"INSERT INTO matched SELECT seen.n, $run_id, lists.list, lists.source, lists.rank, seen.clicked "
        f"FROM seen JOIN {lists} ON {fits} AND lists.item_id = seen.item_id",
        {"run_id": run_id},
    )
