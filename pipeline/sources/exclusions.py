"""Removes rows that a night must not have from a file's result: of forgotten users, and after `as_of`."""

import datetime as dt
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.run import Run
from pipeline.schemas.reasons import Reason
from pipeline.sources.file_reader import FileResult
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED, read_batches, write_rows
from pipeline.sources.user_traces import Dialect, Person, is_named, is_undecided
from pipeline.storage import forgotten_users
from pipeline.storage.forgotten_users import Forgotten


def apply(run: Run, part: Path, result: FileResult) -> FileResult:
    """Remove tonight's exclusions from the folder `part`; the returned ledger counts them."""
    listed = forgotten_users.read(run.home, run.dataset)
    if not listed and run.as_of is None:
        return result
    source = run.settings.dataset.source
    return rewrite(part, result, listed, run.as_of, [Dialect(source.delimiter, source.quote)])


def key_settings(run: Run) -> dict[str, str]:
    """What is excluded, for the key of `ingest`. Empty if nothing is, so that keys without exclusions do not change."""
    listed = forgotten_users.read(run.home, run.dataset)
    moment = {"as_of": run.as_of.isoformat()} if run.as_of else {}
    return {**({"forgotten": listed.digest} if listed else {}), **moment}


def rewrite(
    part: Path,
    result: FileResult,
    listed: Forgotten,
    as_of: dt.datetime | None = None,
    dialects: Sequence[Dialect] = (Dialect(),),
    person: Person | None = None,
) -> FileResult:
    """Remove excluded rows from `part` and redact rejected lines that name a forgotten user, in place."""
    gone: Counter[str] = Counter()
    rows, aside = part / INTERACTIONS, part / f".{INTERACTIONS}"
    write_rows(_staying(read_batches([rows]), listed, as_of, gone), aside, pq.read_schema(rows))
    os.replace(aside, rows) if gone else aside.unlink()
    redact_file(part / REJECTED, listed, dialects, person)
    kept = result.ledger.get(Reason.KEPT, 0) - gone.total()
    others = Counter({reason: n for reason, n in result.ledger.items() if reason != Reason.KEPT})
    return replace(result, ledger={**({Reason.KEPT: kept} if kept else {}), **(others + gone)})


def redact_file(
    path: Path, listed: Forgotten, dialects: Sequence[Dialect] = (Dialect(),), person: Person | None = None
) -> int:
    """Redact rejected lines that name a forgotten user; the lines stay counted. Returns how many were redacted."""
    rejects = pl.read_parquet(path)
    redacted = redact(rejects, listed, dialects, person)
    changed = int((rejects["raw"] != redacted["raw"]).sum())
    if changed:
        aside = path.with_name(f".{path.name}")
        redacted.write_parquet(aside)
        os.replace(aside, path)
    return changed


def redact(
    rejects: pl.DataFrame,
    listed: Forgotten,
    dialects: Sequence[Dialect] = (Dialect(),),
    person: Person | None = None,
) -> pl.DataFrame:
    """The frame with `raw` replaced by REDACTED where it names a forgotten user, or may name one.

    `rejects` has columns `reason` and `raw`; `dialects` are the layouts of the sources; `person` is the user who is
    being forgotten, whose id is known.
    """
    if not listed:
        return rejects

    def stays(raw: str, reason: str) -> bool:
        named = is_named(raw, listed, dialects) or (person is not None and person.is_in_raw(raw))
        return not named and not is_undecided(raw, dialects, reason)

    kept = [
        raw if raw == forgotten_users.REDACTED or stays(raw, reason) else forgotten_users.REDACTED
        for raw, reason in zip(rejects["raw"], rejects["reason"], strict=True)
    ]
    return rejects.with_columns(pl.Series("raw", kept, dtype=pl.String))


def _staying(
    batches: Iterable[pa.RecordBatch], listed: Forgotten, as_of: dt.datetime | None, gone: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The rows that stay; `gone` counts the others by reason. Dictionaries are rebuilt, so that they keep no id."""
    known: dict[str, bool] = {}
    for batch in batches:
        stays = np.ones(batch.num_rows, dtype=bool)  # (R,)
        if listed:
            column = batch.column("user_id")
            ids = column.dictionary.to_pylist()
            known.update((user, user in listed) for user in ids if user not in known)
            forgotten = np.fromiter((known[user] for user in ids), dtype=bool, count=len(ids))  # (U,)
            stays &= ~forgotten[column.indices.to_numpy(zero_copy_only=False)]
            _count(gone, Reason.FORGOTTEN, batch.num_rows - int(stays.sum()))
        if as_of is not None:
            before = batch.column("timestamp").to_numpy(zero_copy_only=False) < np.datetime64(as_of, "us")  # (R,)
            _count(gone, Reason.AFTER_AS_OF, int((stays & ~before).sum()))
            stays &= before
        if stays.all():
            yield batch
        elif stays.any():
            left = batch.filter(pa.array(stays))
            texts = [c.cast(pa.string()) if pa.types.is_dictionary(c.type) else c for c in left.columns]
            yield pa.RecordBatch.from_arrays(texts, names=left.schema.names)


def _count(gone: Counter[str], reason: Reason, rows: int) -> None:
    if rows:
        gone[reason] += rows
