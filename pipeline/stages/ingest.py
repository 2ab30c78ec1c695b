"""Reads the source files into `1_raw`: valid rows in source order, rejected lines with reasons, the item catalog."""

import os
from dataclasses import asdict
from pathlib import Path

import polars as pl

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.publishing import item_conditions
from pipeline.schemas.reasons import Reason
from pipeline.sources import catalog_ids, exclusions, incremental, odd_values, rejects
from pipeline.sources.assemble import CATALOG, SourceAssembler
from pipeline.sources.connectors import fetching
from pipeline.sources.file_reader import FileResult
from pipeline.sources.parquet_writer import INTERACTIONS
from pipeline.sources.source_files import VERSION, SourceFiles, find_source_files, key_settings
from pipeline.storage import forgotten_users, journal, lake

LAYER = "1_raw"


def read_source(run: Run) -> Path:
    """Returns a folder with interactions.parquet (contract `raw`), rejected_rows.parquet (run_id "", which is set on
    publishing) and, if `dataset.items` is set, catalog.parquet; with `dataset.users` user_attributes.parquet.

    A line that is blank, or has no user, item, number or time where one is configured, is rejected, never guessed.
    Raises UnreadableInput if a file is missing, unreadable as a whole or lacks a column, and Refused if too many
    lines are rejected or no row is left; the journal keeps the rejected lines in any case. Raises SettingsError if a
    condition of `[export]` can't be evaluated on the catalog, before anything is fitted.
    """
    dataset, layer = run.settings.dataset, _layer(run)
    source = find_source_files(dataset, run.data, layer)

    def write(folder: Path) -> lake.StageResult:
        with SourceAssembler(run, source, folder) as assembler:
            results = assembler.read_files()
            report = rejects.summarize(results, source)
            report.info.update(odd_values.odd_values(folder / INTERACTIONS))
            rejects.check_reject_rate(run, folder, report, results, source)
            if dataset.items:
                report.info["catalog"] = assembler.write_catalog()
            if dataset.users:
                report.info["users"] = assembler.write_users()
            assembler.check_unchanged()
        return report

    folder = lake.build(run, _spec(run, source), write)
    if dataset.source.mode == "incremental":  # in any case: a file may have an earlier content again
        SourceAssembler(run, source, folder).keep_rows()
        incremental.write_seen(layer, {digest: name for name, digest in source.order}, source.sizes)
    journal.update_run(run, data_hash=lake.info(folder)["data_hash"])
    rejects.copy_to_journal(run, folder)
    rejects.note_looks(run, folder)
    rejects.note_doubts(run, folder)
    for note in fetching.notes_of(run.data):
        journal.note(run, f"ingest: {note}")
    _note_unused_times(run, source)
    _note_changed_files(run, source)
    if catalog := lake.info(folder).get("catalog"):
        rejects.report_catalog(run, catalog, is_source=set(source.catalog) <= set(source.present))
    if users := lake.info(folder).get("users"):
        rejects.report_users(run, users, is_source=set(source.users) <= set(source.present))
    item_conditions.check_values(run, folder)
    return folder


def _note_unused_times(run: Run, source: SourceFiles) -> None:
    """Warn if the first file has a column of times that the data set does not name: the split is then random."""
    if run.settings.dataset.columns.timestamp:
        return
    from pipeline.sources.unused_times import unused_times  # imports what guesses encodings and dialects

    for name in sorted(source.present)[:1]:
        if column := unused_times(run.settings.dataset, run.data / name):
            journal.note(
                run,
                f"warning: ingest: the column {column!r} looks like a time, but dataset.columns.timestamp is not set: "
                "without times no split by time is possible; set it, and dataset.columns.timestamp_unit",
            )


def _note_changed_files(run: Run, source: SourceFiles) -> None:
    """Say which files of an incremental source count with a new content only, and warn of those with several."""
    if run.settings.dataset.source.mode != "incremental":
        return
    now = incremental.contents({digest: source.present_names.get(digest, name) for name, digest in source.order})
    counting = {digest for _, digest in source.order}
    for name in source.withdrawn:
        journal.note(
            run,
            ("" if name in source.present else "warning: ")
            + f"ingest: what a refused night read of {name} is in no file any more: its rows don't count",
        )
    gone = source.earlier.keys() - counting
    dropped = incremental.dropped(source.earlier, source.present.values(), run.settings.dataset.source.drop_files)
    for name, digests in incremental.contents(source.earlier).items():
        if dropped & set(digests):
            journal.note(run, f"ingest: {name} is in source.drop_files, so its rows no longer count")
        elif gone & set(digests):
            journal.note(run, f"ingest: {name} changed since an earlier night: only its present content counts")
    several = {name: len(digests) for name, digests in now.items() if len(digests) > 1}
    if several and not run.settings.dataset.source.changed_files:
        name, n = next(iter(several.items()))
        journal.note(
            run,
            f"warning: ingest: {name} counts with {n} contents, as it changed between nights"
            + (f"; so do {len(several) - 1} other files" if len(several) > 1 else "")
            + '. source.changed_files = "replace" makes only the present content count; "add" says that this is meant',
        )


def cut_source(run: Run, whole: Path) -> Path:
    """The result of `read_source` for `run.as_of`, made of the result without a limit in time: no file is read again.

    Key and rows are those of `read_source`. Rows after `as_of` are counted as such.
    """
    assert run.as_of is not None
    manifest = lake.read_manifest(whole)
    settings = {**manifest["settings"], "as_of": run.as_of.isoformat()}

    def write(folder: Path) -> lake.StageResult:
        for path in whole.glob("*.parquet"):
            os.link(path, folder / path.name)  # `rewrite` replaces a file, and does not write into it
        before = FileResult(manifest["ledger"], None)
        ledger = exclusions.rewrite(folder, before, forgotten_users.Forgotten(), run.as_of).ledger
        info = {**manifest["info"]}
        if (folder / CATALOG).exists():
            known = pl.scan_parquet(folder / INTERACTIONS).select(pl.col("item_id").cast(pl.String).unique()).collect()
            listed = pl.read_parquet(folder / CATALOG, columns=["item_id"])["item_id"]
            info["catalog"] = {**info["catalog"], **asdict(catalog_ids.compare(listed, known["item_id"]))}
        kept = ledger.get(Reason.KEPT, 0)
        return lake.StageResult(manifest["rows_in"], kept, {str(reason): n for reason, n in ledger.items()}, info)

    folder = lake.build(run, lake.Spec(StageCall(StageName.INGEST), LAYER, VERSION, settings), write)
    journal.update_run(run, data_hash=lake.info(folder)["data_hash"])
    rejects.copy_to_journal(run, folder)
    return folder


def spec(run: Run) -> lake.Spec:
    """Key of `read_source`. Raises UnreadableInput if a file is missing."""
    return _spec(run, find_source_files(run.settings.dataset, run.data, _layer(run)))


def _spec(run: Run, source: SourceFiles) -> lake.Spec:
    settings = {**key_settings(run.settings.dataset, source), **exclusions.key_settings(run)}
    is_incremental = run.settings.dataset.source.mode == "incremental"  # which files were read is kept in the home
    return lake.Spec(StageCall(StageName.INGEST), LAYER, VERSION, settings, private=is_incremental)


def _layer(run: Run) -> Path:
    return run.home.lake(run.dataset) / LAYER
