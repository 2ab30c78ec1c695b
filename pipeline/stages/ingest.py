"""Source files to `1_raw`: valid rows in source order, rejected lines with reasons, the item catalog."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Dataset
from pipeline.config.run import Run
from pipeline.core import progress
from pipeline.core.errors import Refused, UnreadableInput
from pipeline.core.stage_call import StageCall, StageName
from pipeline.schemas import tables
from pipeline.schemas.reasons import LEFT_OUT, Reason
from pipeline.sources import exclusions
from pipeline.sources import files as sources
from pipeline.sources import incremental as ingest_seen
from pipeline.sources.assemble import VERSION, Parts, hash_of, layout_settings
from pipeline.sources.catalog_reader import read_items
from pipeline.sources.file_reader import FileResult
from pipeline.sources.parquet_writer import REJECTED
from pipeline.storage import journal, lake, warehouse

LAYER = "1_raw"


def read_source(run: Run) -> Path:
    """Folder with interactions.parquet (`raw`), rejected_rows.parquet (run_id "": it is set when published)
    and, where `dataset.items` is set, catalog.parquet.

    Raises UnreadableInput where a file is missing, broken as a whole or lacks a column, and Refused where too
    many lines are rejected or no row is left; the journal keeps the rejected lines in any case. A line that is
    blank, or has no user, item, number or time where one is configured, is a reject, never a guess.
    """
    dataset, layer = run.settings.dataset, run.home.lake(run.dataset) / LAYER
    source = look_at(run)

    def write(folder: Path) -> lake.StageResult:
        scratch = _scratch(layer)
        try:
            reader = Parts(run, folder, scratch, {digest: name for name, digest in source.present.items()})
            parts, rows = [], 0
            for number, (_, digest) in enumerate(source.order):
                parts.append(reader.part(digest, number))
                rows += parts[-1][1].ledger.get(Reason.KEPT, 0)
                progress.listener().advance("file", number + 1, len(source.order), rows=rows)
            reader.concatenate(parts, [name for name, _ in source.order])
            results = [result for _, result in parts]
            report = _report(results, dict(source.order), source.data_hash)
            new = [
                result for (_, digest), result in zip(source.order, results, strict=True) if digest not in source.seen
            ]
            _gate(run, folder, report, new)
            if dataset.items:
                frame, report.info["catalog"] = read_items(run.data, sorted(source.catalog), dataset.items, scratch)
                frame.write_parquet(folder / "catalog.parquet")
            reader.check_unchanged()
            if dataset.source.mode == "incremental":
                ingest_seen.write_seen(layer, {digest: name for name, digest in source.order})
            return report
        finally:
            sources.remove(scratch)

    target = lake.build(run, _spec(run, source), write)
    _journal_rejects(run, target)
    return target


@dataclass(frozen=True)
class Source:
    """The files of a night, by their fingerprints."""

    seen: dict[str, str]
    """Read on nights before, in incremental mode: digest to name."""
    present: dict[str, str]
    """In the folder now: name to digest."""
    catalog: dict[str, str]
    """The same, of `dataset.items`."""
    order: list[tuple[str, str]]
    """Name and digest of all that are read, in the order of the rows."""

    @property
    def data_hash(self) -> str:
        """Of all content."""
        return hash_of([digest for _, digest in [*self.order, *sorted(self.catalog.items())]])


def look_at(run: Run) -> Source:
    """Find the source's files. Raises UnreadableInput where one is missing."""
    dataset, layer = run.settings.dataset, run.home.lake(run.dataset) / LAYER
    incremental = dataset.source.mode == "incremental"
    seen = ingest_seen.read_seen(layer) if incremental else {}
    present = _fingerprints(run.data, _patterns(dataset), optional=bool(seen))
    catalog = _fingerprints(run.data, dataset.items.files if dataset.items else [])
    order = sorted(present.items())
    if incremental:
        files = ingest_seen.merge(seen, {digest: name for name, digest in present.items()})
        order = [(name, digest) for digest, name in files.items()]
    return Source(seen, present, catalog, order)


def spec(run: Run) -> lake.Spec:
    """Key of `read_source`. Raises UnreadableInput where a file is missing."""
    return _spec(run, look_at(run))


def _spec(run: Run, source: Source) -> lake.Spec:
    files = {"files": source.order, "catalog": source.catalog, "data_hash": source.data_hash}
    settings = {**_that_matter(run.settings.dataset), **files, **exclusions.that_matter(run)}
    return lake.Spec(StageCall(StageName.INGEST), LAYER, VERSION, settings)


def _patterns(dataset: Dataset) -> list[str]:
    if dataset.source.files:
        return dataset.source.files
    if dataset.published:
        return [dataset.published.train, dataset.published.test]
    raise UnreadableInput(f"data set {dataset.name}: source.files is empty; name its files there")


def _fingerprints(folder: Path, patterns: list[str], optional: bool = False) -> dict[str, str]:
    """Name to SHA-256; `optional`: no file at all is fine too."""
    try:
        names = sources.find_files(folder, patterns)
    except UnreadableInput:
        if not optional:
            raise
        names = []
    return {name: sources.fingerprint(folder / name) for name in names}


def _that_matter(dataset: Dataset) -> dict[str, Any]:
    items = dataset.items.model_dump(exclude={"files"}) if dataset.items else None
    return {**layout_settings(dataset), "items": items, "max_reject_rate": dataset.source.max_reject_rate}


def _scratch(layer: Path) -> Path:
    """An empty folder for what is gone after the stage; those of killed nights go (the lock is held)."""
    for old in layer.glob(".scratch-*"):
        sources.remove(old)
    scratch = layer / f".scratch-{os.getpid()}"
    scratch.mkdir(parents=True)
    return scratch


def _report(results: list[FileResult], files: dict[str, str], data_hash: str) -> lake.StageResult:
    ledger: Counter[str] = Counter()
    for result in results:
        ledger.update(result.ledger)
    rows, kept = sum(ledger.values()), ledger[Reason.KEPT]
    rescanned = {name: r.rescanned for name, r in zip(files, results, strict=True) if r.rescanned}
    info = {
        "data_hash": data_hash, "files": files, "reject_rate": _reject_rate(results), "rescanned": rescanned,
        "rejects": {reason: n for reason, n in ledger.most_common() if reason not in (Reason.KEPT, *LEFT_OUT)},
    }  # fmt: skip
    return lake.StageResult(rows, kept, {str(reason): n for reason, n in ledger.items() if n}, info)


def _reject_rate(results: list[FileResult]) -> float:
    rows = sum(sum(result.ledger.values()) for result in results)
    valid = sum(result.ledger.get(reason, 0) for result in results for reason in (Reason.KEPT, *LEFT_OUT))
    return (rows - valid) / rows if rows else 0.0


def _gate(run: Run, folder: Path, report: lake.StageResult, new: list[FileResult]) -> None:
    """Refuse a source without rows, or with too many rejects: in all, or in tonight's new files."""
    limit = run.settings.dataset.source.max_reject_rate
    rate = max(report.info["reject_rate"], _reject_rate(new))
    if report.rows_out and rate <= limit:
        return
    records = [{"stage": "ingest", "reason": reason, "rows": n} for reason, n in report.ledger.items()]
    journal.append(run, tables.ROW_LEDGER, records)
    _journal_rejects(run, folder)
    if not report.rows_in:
        raise Refused(f"{', '.join(report.info['files'])}: the source has no data lines")
    if run.as_of and not report.rows_out:
        raise Refused(f"no interaction is before {run.as_of}, the moment of the replay")
    reasons = ", ".join(f"{reason} {n}" for reason, n in list(report.info["rejects"].items())[:3])
    examples = pl.scan_parquet(folder / REJECTED).head(3).collect()
    lines = "; ".join(f"{e['file']} line {e['line']} ({e['reason']})" for e in examples.iter_rows(named=True))
    limit_text = f", more than source.max_reject_rate = {limit:.1%}" if rate > limit else ", so no row is left"
    raise Refused(
        f"{rate:.1%} of the lines were rejected{limit_text}: {reasons}; for "
        f"example {lines}. All of them, by DuckDB: from {warehouse.literal(journal.folder(run) / REJECTED)}",
        {"raw": [raw[:80] for raw in examples["raw"]]},
    )


def _journal_rejects(run: Run, folder: Path) -> None:
    """The night's journal keeps its rejected lines."""
    rejects = pl.scan_parquet(folder / REJECTED).with_columns(run_id=pl.lit(run.run_id))
    rejects.sink_parquet(journal.folder(run) / REJECTED, maintain_order=True)
