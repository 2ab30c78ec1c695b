"""Decides which raw rows take part: the latest of each user and item, kept by condition, sampled, dense enough."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Events
from pipeline.config.run import Run
from pipeline.core import spread
from pipeline.core.console import log
from pipeline.core.errors import Refused
from pipeline.core.shares import as_percent, of_rows
from pipeline.core.stage_call import StageCall, StageName
from pipeline.preparation import events as event_rows
from pipeline.preparation import shards as shards_of
from pipeline.preparation.capacity import Capacity
from pipeline.preparation.clean_rows import clean_file
from pipeline.preparation.clean_shards import clean_shards
from pipeline.preparation.events import EventCounts
from pipeline.preparation.filters import RowFilter, apply_filters
from pipeline.preparation.ids import LAKE_PARQUET
from pipeline.preparation.row_names import RowNames
from pipeline.preparation.shards import RowsWriter, number_of_shards
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.schemas.table import Table
from pipeline.sources import column_types
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.storage import expressions, journal, lake

VERSION = 2
FEW_TARGETS, RARE_TARGET = 1000, 0.005
"""Rows of the target's event types, and their share of all rows, below which a warning says so."""


def clean_interactions(run: Run, raw: Path) -> Path:
    """Apply `feedback` and `filter` to raw/interactions.parquet.

    Writes interactions.parquet (contract `clean`, in source order; of shards, one after another, and the folder's info
    has the rows of each as `shards`); its ledger has every raw row.
    Raises Refused if no row is left or none is positive, SettingsError if a condition is not allowed, or if the rows
    need more memory than there is.
    """
    dataset = run.settings.dataset
    feedback, filters, events = dataset.feedback, dataset.filter, dataset.events

    def write(folder: Path) -> lake.StageResult:
        rows_in = lake.read_manifest(raw)["rows_out"]
        shards = number_of_shards(run.settings, rows_in) if rows_in else 1
        if shards > 1:
            return _in_shards(run, raw, folder, shards)
        Capacity.of(run.settings, rows_in).require(f"{rows_in:,}")
        if not dataset.is_weighted:
            return _in_groups(run, raw, folder)
        source = pl.read_parquet(raw / "interactions.parquet")
        names = RowNames.of(run).learnt(source, feedback)
        column_types.report(names.types, "the source")
        rows, ledger = apply_filters(source, feedback, filters, run.settings.seed, names, events)
        rows = _contract(run).check(rows, unique=False)  # `apply_filters` has removed duplicates
        rows.write_parquet(folder / "interactions.parquet", **LAKE_PARQUET)
        counts = [EventCounts.of(event_rows.read_columns(source, events, feedback), events)] if events else []
        info = _info(run, raw, names, _non_positive(rows), counts)
        return lake.StageResult(rows_in=source.height, rows_out=rows.height, ledger=ledger, info=info)

    folder = lake.build(run, spec(run, raw), write)
    if n := lake.info(folder).get("non_positive"):
        _note_non_positive(run, n, lake.read_manifest(folder)["rows_out"])
    if events:
        _check_events(run, lake.info(folder)["events"], events)
    return folder


def _in_groups(run: Run, raw: Path, folder: Path) -> lake.StageResult:
    """The same for rows without event types, of which memory holds no more than codes of ids."""
    dataset = run.settings.dataset
    names = RowNames.of(run).learnt_from(raw / INTERACTIONS, dataset.feedback)
    column_types.report(names.types, "the source")
    rule = RowFilter(dataset.feedback, dataset.filter, run.settings.seed, names)
    found, non_positive = clean_file(raw / INTERACTIONS, rule, folder / INTERACTIONS)
    kept = sum(found.rows)
    ledger = {str(Reason.KEPT): kept, **found.ledger}
    return lake.StageResult(found.n_raw, kept, ledger, _info(run, raw, names, non_positive, []))


def _in_shards(run: Run, raw: Path, folder: Path, shards: int) -> lake.StageResult:
    """The same for one range of users after another, so that memory holds the rows of one."""
    dataset, source, non_positive = run.settings.dataset, raw / INTERACTIONS, 0
    names = RowNames.of(run).learnt_from(source, dataset.feedback)
    column_types.report(names.types, "the source")
    rule = RowFilter(dataset.feedback, dataset.filter, run.settings.seed, names, dataset.events)
    with lake.scratch(folder) as scratch:
        parts = shards_of.scatter(source, shards_of.cut(source, shards, run.settings, scratch), scratch)
        log.info(f"  {len(parts)} shards of users{'' if spread.engine().is_elsewhere else ', one after another'}")
        with RowsWriter(folder / INTERACTIONS, **LAKE_PARQUET) as writer:

            def write(rows: pl.DataFrame) -> None:
                nonlocal non_positive
                non_positive += _non_positive(rows)
                writer.add(_contract(run).check(rows, unique=False))

            found = clean_shards(parts, rule, scratch, write)
    kept = sum(found.rows)
    ledger = {str(Reason.KEPT): kept, **found.ledger}
    info = {**_info(run, raw, names, non_positive, found.events), "shards": found.rows}
    return lake.StageResult(rows_in=found.n_raw, rows_out=kept, ledger=ledger, info=info)


def _contract(run: Run) -> Table:
    return tables.CLEAN_WEIGHTED if run.settings.dataset.is_weighted else tables.CLEAN


def _info(run: Run, raw: Path, names: RowNames, non_positive: int, counts: list[EventCounts]) -> dict[str, Any]:
    info: dict[str, Any] = {"data_hash": lake.info(raw).get("data_hash")}
    if names.types:
        info["column_types"] = names.types
    if non_positive:
        info["non_positive"] = non_positive
    if events := run.settings.dataset.events:
        info["events"] = event_rows.funnel(counts, events)
    return info


def _check_events(run: Run, found: dict[str, Any], events: Events) -> None:
    """Warn of unknown event types, or refuse where there are too many; warn of a rare target."""
    share = found["unknown_rows"] / max(1, found["rows"])
    if share:
        named = ", ".join(f"{kind} {rows:,}" for kind, rows in list(found["unknown"].items())[:3])
        text = f"{of_rows(found['unknown_rows'], found['rows'])} an event type that is not in [events]: {named}"
        limit = run.settings.checks.max_unknown_events
        if limit is not None and share > limit:
            raise Refused(
                f"{text}; that is more than checks.max_unknown_events = {as_percent(limit)}. Add it to events.weights"
            )
        journal.note(run, f"warning: {text}; these rows were dropped. Add it to events.weights, with 0 to ignore it")
    rows = sum(kind["rows"] for kind in found["types"] if kind["target"])
    if rows < max(FEW_TARGETS, RARE_TARGET * found["rows"]):
        journal.note(
            run,
            f"warning: the target {' and '.join(events.targets)} has {rows:,} of {found['rows']:,} rows: "
            "metrics will be uncertain",
        )


def _non_positive(rows: pl.DataFrame) -> int:
    """Rows with a rating of 0 or below that count as positive."""
    return int((rows["positive"] & (rows["rating"] <= 0)).sum())


def _note_non_positive(run: Run, n: int, total: int) -> None:
    condition = run.settings.dataset.feedback.positive_if
    counted = f"{n:,} of {total:,} rows with a rating of 0 or below count as positive"
    if condition is not None:
        journal.note(run, f"clean: {counted}, by positive_if = {condition!r}")
        return
    journal.note(
        run,
        f'warning: clean: {counted}: set dataset.feedback.positive_if = "rating > 0", missing_ratings if the value '
        "means 'not rated', or another positive_if if that is meant",
    )


def spec(run: Run, raw: Path) -> lake.Spec:
    """Key of `clean_interactions`."""
    feedback, filters = run.settings.dataset.feedback, run.settings.dataset.filter
    settings = {
        "keep_if": feedback.keep_if, "positive_if": feedback.positive_if, **filters.model_dump(),
        **event_rows.key_settings(run.settings.dataset),
    }  # fmt: skip
    if filters.user_fraction < 1:
        settings["seed"] = run.settings.seed
    if expressions.depend_on_date(feedback.keep_if, feedback.positive_if):
        settings[expressions.NIGHT_DATE] = RowNames.of(run).night_date
    return lake.Spec(StageCall(StageName.CLEAN), "2_clean", VERSION, settings, parents=(raw,))
