"""Reads all files of a night, each into a part, and puts the parts together in order."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.config.dataset import Dataset
from pipeline.config.run import Run
from pipeline.core.errors import UnreadableInput
from pipeline.schemas import tables
from pipeline.sources import exclusions, files, incremental
from pipeline.sources.file_reader import FileResult, read_file
from pipeline.sources.parquet_writer import INTERACTIONS, REJECTED, read_batches, write_rows
from pipeline.storage import lake, warehouse

VERSION = 2
"""Of the stage; raise it when its result changes."""


class Parts:
    """Reads the files of one night into parts: in the lake where they are to be kept, else in `scratch`."""

    def __init__(self, run: Run, folder: Path, scratch: Path, paths: dict[str, str]) -> None:
        self.run, self.folder, self.scratch, self.paths = run, folder, scratch, paths
        self.dataset = run.settings.dataset
        self.keep = self.dataset.source.mode == "incremental"
        self.stamps = {name: _stamp(run.data / name) for name in paths.values()}
        limits: dict[str, Any] = {"threads": run.settings.threads, "memory_limit": run.settings.memory_limit}
        self.con = warehouse.connect(temporary=scratch / "spill", **limits)

    def part(self, digest: str, number: int) -> tuple[Path, FileResult]:
        """The folder with the rows and rejects of one file."""
        name = self.paths.get(digest)
        if not self.keep:
            assert name is not None
            return self._read(name, self.scratch / f"part-{number}")
        kept = incremental.folder(self.folder.parent) / f"{digest[:16]}-{hash_of(layout_settings(self.dataset))[:8]}"
        if lake.is_complete(kept):
            return kept, incremental.result_of(kept)
        if name is None:
            raise incremental.gone(digest[:16])
        part, result = self._read(name, self.scratch / f"part-{number}")
        incremental.complete(part, result)
        files.remove(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part.rename(kept)
        return kept, result

    def _read(self, name: str, into: Path) -> tuple[Path, FileResult]:
        into.mkdir()
        result = read_file(self.con, self.run.data / name, name, self.dataset, into)
        return into, exclusions.of_the_night(self.run, into, result)

    def concatenate(self, parts: list[tuple[Path, FileResult]], names: list[str]) -> None:
        """All parts' rows and rejects, in order."""
        rows = [part / INTERACTIONS for part, _ in parts]
        if len(rows) == 1:
            os.link(rows[0], self.folder / INTERACTIONS)
        else:
            write_rows(read_batches(rows), self.folder / INTERACTIONS)
        self.con.close()
        rejects = [
            pl.scan_parquet(part / REJECTED).with_columns(file=pl.lit(name))
            for (part, _), name in zip(parts, names, strict=True)
        ]
        pl.concat(rejects).sink_parquet(self.folder / REJECTED, maintain_order=True)
        tables.RAW.check(pl.scan_parquet(self.folder / INTERACTIONS).head(0).collect())

    def check_unchanged(self) -> None:
        """A file that is still being written is no source."""
        for name, stamp in self.stamps.items():
            if _stamp(self.run.data / name) != stamp:
                raise UnreadableInput(
                    f"{self.run.data / name} changed while it was read: run again when it is complete"
                )


def layout_settings(dataset: Dataset) -> dict[str, Any]:
    """The settings that decide what is read of a file."""
    layout = dataset.source.model_dump(include={"delimiter", "header", "column_names", "encoding", "quote"})
    columns, missing = dataset.columns.model_dump(), dataset.feedback.missing_ratings
    return {"version": VERSION, "layout": layout, "columns": columns, "missing_ratings": missing}


def hash_of(content: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
