"""Rejected lines of a night: their share, the limit on it, and the copy that the journal keeps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.run import Run
from pipeline.core.errors import Refused
from pipeline.core.shares import as_percent
from pipeline.schemas import tables
from pipeline.schemas.reasons import LEFT_OUT, NO_ROWS, Reason
from pipeline.sources import catalog_ids, number_looks, odd_values
from pipeline.sources.doubts import KEY_TWICE, in_words
from pipeline.sources.file_reader import FileResult
from pipeline.sources.parquet_writer import REJECTED
from pipeline.sources.source_files import SourceFiles
from pipeline.storage import journal, lake, warehouse

NOTEWORTHY = 0.001
"""Share of lines whose rating a setting would read, from which on a warning says so."""


def summarize(results: Sequence[FileResult], source: SourceFiles) -> lake.StageResult:
    """The stage's result: rows by reason, reject rate, and the files that were read line by line."""
    ledger: Counter[str] = Counter()
    looks: Counter[str] = Counter()
    doubts: Counter[str] = Counter()
    for result in results:
        ledger.update(result.ledger)
        looks.update(result.looks)
        doubts.update(result.doubts)
    rows, kept = sum(ledger.values()), ledger[Reason.KEPT]
    names = dict(source.order)
    rescanned = {name: r.rescanned for name, r in zip(names, results, strict=True) if r.rescanned}
    info = {
        "data_hash": source.data_hash, "files": names, "reject_rate": reject_rate(results), "rescanned": rescanned,
        "rejects": {reason: n for reason, n in ledger.most_common() if reason not in (Reason.KEPT, *LEFT_OUT)},
    }  # fmt: skip
    if looks:
        info["looks"] = dict(looks.most_common())
    if doubts:
        info["doubts"] = dict(doubts)
    return lake.StageResult(rows, kept, {str(reason): n for reason, n in ledger.items() if n}, info)


def reject_rate(results: Sequence[FileResult]) -> float:
    """Share of rejected lines. Rows of forgotten users and rows after `as_of` are valid: they count as not rejected."""
    rows = sum(sum(result.ledger.values()) for result in results)
    valid = sum(result.ledger.get(reason, 0) for result in results for reason in (Reason.KEPT, *LEFT_OUT))
    return (rows - valid) / rows if rows else 0.0


def check_reject_rate(
    run: Run, folder: Path, report: lake.StageResult, results: Sequence[FileResult], source: SourceFiles
) -> None:
    """Raise Refused if no row is left, or if too many lines are rejected: of all files, or of tonight's new files.

    The journal then keeps the ledger and the rejected lines, since the folder is not completed.
    """
    limit = run.settings.dataset.source.max_reject_rate
    new = [r for (_, digest), r in zip(source.order, results, strict=True) if digest not in source.earlier]
    rate = max(report.info["reject_rate"], reject_rate(new))
    if report.rows_out and rate <= limit:
        return
    records = [{"stage": "ingest", "reason": reason, "rows": n} for reason, n in report.ledger.items()]
    journal.append(run, tables.ROW_LEDGER, records)
    copy_to_journal(run, folder)
    if report.rows_in == sum(report.ledger.get(reason, 0) for reason in NO_ROWS):
        raise Refused(f"{', '.join(report.info['files'])}: the source has no data lines")
    if run.as_of and not report.rows_out:
        raise Refused(f"no interaction is before {run.as_of}, the moment of the replay")
    looks = number_looks.in_words(report.info.get("looks", {}))
    reasons = ", ".join(f"{reason} {n}" for reason, n in list(report.info["rejects"].items())[:3])
    examples = pl.scan_parquet(folder / REJECTED).head(3).collect()
    lines = "; ".join(f"{e['file']} line {e['line']} ({e['reason']})" for e in examples.iter_rows(named=True))
    consequence = f", more than source.max_reject_rate = {as_percent(limit)}" if rate > limit else ", so no row is left"
    raise Refused(
        f"{as_percent(rate)} of the lines were rejected{consequence}: {reasons}{looks and f' ({looks})'}; "
        f"for example {lines}. To list all of them in DuckDB: from {warehouse.literal(journal.folder(run) / REJECTED)}",
        {"raw": [raw[:80] for raw in examples["raw"]]},
    )


def note_looks(run: Run, folder: Path) -> None:
    """Warn about rejected ratings that a setting would read, unless they are few."""
    manifest = lake.read_manifest(folder)
    looks = manifest["info"].get("looks", {})
    if sum(looks.values()) >= max(1, NOTEWORTHY * manifest["rows_in"]):
        journal.note(run, f"warning: ingest: of the rejected ratings, {number_looks.in_words(looks)}")


def note_doubts(run: Run, folder: Path) -> None:
    """Say which rows were read with a doubt, and which values often stand for a missing one."""
    for sentence in in_words(lake.info(folder).get("doubts", {})):
        journal.note(run, f"warning: ingest: {sentence}")
    for sentence in odd_values.in_words(lake.info(folder)):
        journal.note(run, f"ingest: {sentence}")


def report_catalog(run: Run, catalog: Mapping[str, Any], is_source: bool) -> None:
    """Warn of rejected lines and repeated ids of the catalog, and of ids that are not those of the interactions.

    The ledger has the stage `catalog` only on nights on which a line was rejected or an id repeated. If `is_source`,
    the files of interactions are the catalog: their items repeat, and their lines are in the stage `ingest`.
    """
    _report_notes(run, "item catalog", catalog)
    if not is_source:
        _report_lines(run, "catalog", "the item catalog", catalog["items"], catalog)
    if columns := catalog.get("unpublished"):
        journal.note(
            run,
            f"warning: item catalog: {', '.join(map(repr, columns))} {'is' if len(columns) == 1 else 'are'} in "
            "item_attributes, but no column of items, which has that name in upper or lower case already: rename",
        )
    if (matching := catalog_ids.of_record(catalog)) and matching.warning:
        journal.note(run, f"warning: item catalog: {matching.warning}")


def report_users(run: Run, users: Mapping[str, Any], is_source: bool) -> None:
    """Note how many users of the file of user attributes have interactions; warn of rejected lines and repeated ids.

    The ledger has the stage `users` only on nights on which a line was rejected or an id repeated. `is_source`: as
    for `report_catalog`.
    """
    _report_notes(run, "user attributes", users)
    if not is_source:
        _report_lines(run, "users", "the user attributes", users["users"], users)
    journal.note(run, f"user attributes: {users['with_rows']:,} of {users['users']:,} users have interactions")


def _report_notes(run: Run, what: str, found: Mapping[str, Any]) -> None:
    """Warn of columns and values that are left out because of their type."""
    for note in found.get("notes", ()):
        journal.note(run, f"warning: {what}: {note}")


def _report_lines(run: Run, stage: str, what: str, kept: int, found: Mapping[str, Any]) -> None:
    """Lines of a file with one line per id: `kept` has the last line of each id, `duplicate` the ones before it."""
    if missing := found.get("missing", 0):
        journal.note(run, f"{what}: {missing:,} cells that are NULL or \\N are read as missing")
    for sentence in in_words({KEY_TWICE: found["key_twice"]} if "key_twice" in found else {}):
        journal.note(run, f"warning: {what}: {sentence}")
    rejected: Mapping[str, int] = found.get("rejects") or {}
    repeated: int = found["repeated"]
    if not rejected and not repeated:
        return
    rows = {str(Reason.KEPT): kept, str(Reason.DUPLICATE): repeated, **rejected}
    journal.append(
        run, tables.ROW_LEDGER, [{"stage": stage, "reason": str(r), "rows": n} for r, n in rows.items() if n]
    )
    lines = f"of {sum(rows.values()):,} lines of {what}"
    if rejected:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in rejected.items())
        text = f"{sum(rejected.values()):,} {lines} were rejected: {reasons}"
        journal.note(run, f"warning: {text}; the table rejected_rows lists them")
    if repeated:
        text = f"{repeated:,} {lines} were dropped as duplicate: a later line has the same id, and the last one counts"
        journal.note(run, f"warning: {text}; leave one line per id")


def copy_to_journal(run: Run, folder: Path) -> None:
    """Copy the rejected lines of `folder` to the journal of the night, with its run_id."""
    rejects = pl.scan_parquet(folder / REJECTED).with_columns(run_id=pl.lit(run.run_id))
    rejects.sink_parquet(journal.folder(run) / REJECTED, maintain_order=True)
