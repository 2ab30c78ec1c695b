"""Reads the source files into `1_raw`: valid rows in source order, rejected lines with reasons, the item catalog."""

from pathlib import Path

from pipeline.config.run import Run
from pipeline.core.stage_call import StageCall, StageName
from pipeline.publishing import item_conditions
from pipeline.sources import exclusions, incremental, rejects
from pipeline.sources.assemble import SourceAssembler
from pipeline.sources.source_files import VERSION, SourceFiles, find_source_files, key_settings
from pipeline.sources.unused_times import unused_times
from pipeline.storage import journal, lake

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
            rejects.check_reject_rate(run, folder, report, results, source)
            if dataset.items:
                report.info["catalog"] = assembler.write_catalog()
            if dataset.users:
                report.info["users"] = assembler.write_users()
            assembler.check_unchanged()
            if dataset.source.mode == "incremental":
                incremental.write_seen(layer, {digest: name for name, digest in source.order})
        return report

    folder = lake.build(run, _spec(run, source), write)
    rejects.copy_to_journal(run, folder)
    rejects.note_looks(run, folder)
    _note_unused_times(run, source)
    if catalog := lake.info(folder).get("catalog"):
        rejects.report_catalog(run, catalog, is_source=set(source.catalog) <= set(source.present))
    if users := lake.info(folder).get("users"):
        rejects.report_users(run, users, is_source=set(source.users) <= set(source.present))
    item_conditions.check_values(run, folder)
    return folder


def _note_unused_times(run: Run, source: SourceFiles) -> None:
    """Warn if the first file has a column of times that the data set does not name: the split is then random."""
    for name in sorted(source.present)[:1]:
        if column := unused_times(run.settings.dataset, run.data / name):
            journal.note(
                run,
                f"warning: ingest: the column {column!r} looks like a time, but dataset.columns.timestamp is not set: "
                "without times no split by time is possible; set it, and dataset.columns.timestamp_unit",
            )


def spec(run: Run) -> lake.Spec:
    """Key of `read_source`. Raises UnreadableInput if a file is missing."""
    return _spec(run, find_source_files(run.settings.dataset, run.data, _layer(run)))


def _spec(run: Run, source: SourceFiles) -> lake.Spec:
    settings = {**key_settings(run.settings.dataset, source), **exclusions.key_settings(run)}
    return lake.Spec(StageCall(StageName.INGEST), LAYER, VERSION, settings)


def _layer(run: Run) -> Path:
    return run.home.lake(run.dataset) / LAYER
