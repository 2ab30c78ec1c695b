"""Reads all files of a night, each into a folder of its own, and assembles their rows and rejected lines in order."""

import os
import secrets
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from pipeline.config.run import Run
from pipeline.core import progress, spread
from pipeline.core.errors import UnreadableInput
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.sources import attributes, catalog_ids, column_types, files, incremental
from pipeline.sources.catalog_reader import notes_of, read_items
from pipeline.sources.extra_columns import common_types
from pipeline.sources.file_parts import read_ahead, read_into
from pipeline.sources.file_reader import FileResult
from pipeline.sources.number_formats import NumberFormat
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED, read_batches, write_rows
from pipeline.sources.source_files import SourceFiles, part_of
from pipeline.storage import lake, warehouse

CATALOG = "catalog.parquet"


class SourceAssembler:
    """Writes the result of `ingest` into `folder`. A context manager: its scratch folder goes when it ends.

    In incremental mode the rows of each file stay in the lake next to `folder`, and a later night reads them there.
    """

    def __init__(self, run: Run, source: SourceFiles, folder: Path) -> None:
        self.run, self.source, self.folder = run, source, folder
        self.dataset, self.layer = run.settings.dataset, folder.parent
        self._names = source.present_names
        self._ahead: dict[int, tuple[Path, FileResult]] = {}
        """What an engine has read, by number."""
        self._stamps = {name: _stamp(run.data / name) for name in source.present}

    def __enter__(self) -> "SourceAssembler":
        self.scratch = self.layer / f".scratch-{secrets.token_hex(8)}"
        self.scratch.mkdir(parents=True)
        settings = self.run.settings
        self._con = warehouse.connect(
            temporary=self.scratch / "spill", threads=settings.threads, memory_limit=settings.memory_limit
        )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._con.close()
        files.remove(self.scratch)

    def read_files(self) -> list[FileResult]:
        """Read every file, write interactions.parquet and rejected_rows.parquet; returns one result per file."""
        parts: list[Path] = []
        results: list[FileResult] = []
        rows = 0
        self._ahead = read_ahead(self.run, self._to_read(), self.scratch) if spread.engine().is_elsewhere else {}
        for number, (_, digest) in enumerate(self.source.order):
            part, result = self._part(digest, number)
            parts.append(part)
            results.append(result)
            rows += result.ledger.get(Reason.KEPT, 0)
            progress.listener().advance("file", number + 1, len(self.source.order), rows=rows)
        self._concatenate(parts)
        return results

    def keep_rows(self) -> None:
        """Read the files whose rows later nights need: of a content that counts again, whose result the lake has.

        It is not called within the context: nearly always there is none, and nothing is opened.
        """
        if missing := self._to_read():
            with self:
                for number, (_, digest) in missing.items():
                    self._part(digest, number)

    def write_catalog(self) -> dict[str, Any]:
        """Write catalog.parquet from the files of `dataset.items`, and add its rejected lines to rejected_rows.parquet.

        Call it after `read_files`. Returns counts of items and lines, rejected lines by reason, and how many ids the
        catalog and the interactions have in common. A file that is a source as well has its lines listed already.
        """
        assert self.dataset.items
        names = sorted(self.source.catalog)
        catalog, counts, rejected = read_items(self.run.data, names, self.dataset.items, self.scratch)
        tables.CATALOG.check(catalog).write_parquet(self.folder / CATALOG)
        form = NumberFormat(self.dataset.items.decimal, self.dataset.items.thousands)
        types = attributes.write_items(self.folder, catalog, form)
        column_types.report(types, "the item catalog")
        rejected = self._add_rejected(rejected)
        ids = pl.scan_parquet(self.folder / INTERACTIONS).select(pl.col("item_id").cast(pl.String).unique()).collect()
        found = catalog_ids.compare(catalog["item_id"], ids["item_id"])
        notes = notes_of(self.run.data, names, self.dataset.items)
        unpublished = [name for name in types if name not in attributes.published_columns(types)]
        return {
            **counts, **asdict(found), "rejects": dict(rejected["reason"].value_counts().iter_rows()),
            **({"unpublished": unpublished} if unpublished else {}), **({"notes": notes} if notes else {}),
        }  # fmt: skip

    def write_users(self) -> dict[str, Any]:
        """Write user_attributes.parquet from the files of `dataset.users`, after `read_files`.

        Returns counts of users and lines, and rejected lines by reason.
        """
        counts, rejected = attributes.write_users(self.run, self.folder, sorted(self.source.users), self.scratch)
        rejected = self._add_rejected(rejected)
        users = self.dataset.users
        notes = notes_of(self.run.data, sorted(self.source.users), attributes.as_items(users), "users") if users else []
        rejects = dict(rejected["reason"].value_counts().iter_rows())
        return {**counts, "rejects": rejects} | ({"notes": notes} if notes else {})

    def _add_rejected(self, rejected: pl.DataFrame) -> pl.DataFrame:
        """Add lines to rejected_rows.parquet, and return them, but for those of files that are sources as well."""
        rejected = rejected.filter(~pl.col("file").is_in(list(self.source.present)))
        if rejected.height:
            listed = pl.read_parquet(self.folder / REJECTED)
            pl.concat([listed, rejected]).write_parquet(self.folder / REJECTED)
        return rejected

    def check_unchanged(self) -> None:
        """Raise UnreadableInput if a file was written to while it was read."""
        for name in self._stamps:
            self._check(name)

    def _check(self, name: str) -> None:
        if _stamp(self.run.data / name) != self._stamps[name]:
            raise UnreadableInput(f"{self.run.data / name} changed while it was read: run again when it is complete")

    def _to_read(self) -> dict[int, tuple[str, str]]:
        """Name and digest by number of the files that no earlier night has read."""
        files_of = {number: (self._names.get(digest), digest) for number, (_, digest) in enumerate(self.source.order)}
        is_kept = self.dataset.source.mode == "incremental"
        return {
            number: (name, digest)
            for number, (name, digest) in files_of.items()
            if name is not None and not (is_kept and lake.is_complete(part_of(self.dataset, self.layer, digest)))
        }

    def _part(self, digest: str, number: int) -> tuple[Path, FileResult]:
        """Folder with the rows and rejects of one file: from the lake if an earlier night read it, else read now."""
        name = self._names.get(digest)
        if self.dataset.source.mode != "incremental":
            assert name is not None
            return self._read(name, number)
        kept = part_of(self.dataset, self.layer, digest)
        if lake.is_complete(kept):
            return kept, incremental.result_of(kept)
        if name is None:
            raise incremental.missing_file(digest[:16])
        scratch, result = self._read(name, number)
        self._check(name)  # before its rows are kept by the hash of the content that it had
        incremental.complete(scratch, result)
        files.remove(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch.rename(kept)
        return kept, result

    def _read(self, name: str, number: int) -> tuple[Path, FileResult]:
        if number in self._ahead:
            return self._ahead[number]
        into = self.scratch / f"part-{number}"
        return into, read_into(self._con, self.run, name, into)

    def _concatenate(self, parts: list[Path]) -> None:
        rows = [part / INTERACTIONS for part in parts]
        if len(rows) == 1:
            os.link(rows[0], self.folder / INTERACTIONS)
        else:
            schema = common_types([pq.read_schema(path) for path in rows])
            write_rows(read_batches(rows), self.folder / INTERACTIONS, schema)
        rejects = [
            pl.scan_parquet(part / REJECTED).with_columns(file=pl.lit(name))
            for part, (name, _) in zip(parts, self.source.order, strict=True)
        ]
        pl.concat(rejects).sink_parquet(self.folder / REJECTED, maintain_order=True)
        tables.RAW.check(pl.scan_parquet(self.folder / INTERACTIONS).head(0).collect())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
