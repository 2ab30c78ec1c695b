"""Reads a file as `init` and a night do."""

import shutil
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipeline.config.dataset import Dataset
from pipeline.sources import file_reader
from pipeline.sources.sniffing.interactions import propose
from pipeline.storage import warehouse


@dataclass(frozen=True)
class Reading:
    """What became of a file."""

    dataset: Dataset
    notes: list[str]
    rows: list[tuple]
    rejects: list[tuple]
    """Line and reason of each rejected line."""
    ledger: dict[str, int]
    raw: list[str]
    """The rejected lines as they are shown."""
    doubts: dict[str, int]


def by_itself(path: Path, scratch: Path) -> Path:
    """A copy in a folder without other files: `init` looks for a catalog in each of them."""
    folder = scratch / "by-itself"
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(path, folder))


def read_sniffed(path: Path, scratch: Path, exact: bool = False) -> Reading:
    """Read a file with the data set that `init` proposes for it."""
    proposal = propose(path)
    dataset = Dataset.model_validate(tomllib.loads(proposal.toml))
    return read_as(path, dataset, scratch, exact, proposal.notes)


def read_as(
    path: Path, dataset: Dataset, scratch: Path, exact: bool = False, notes: list[str] | None = None
) -> Reading:
    """Read a file as a data set describes it."""
    into = scratch / uuid.uuid4().hex
    into.mkdir()
    with warehouse.scratch(threads=1) as con:
        result = file_reader.read_file(con, path, path.name, dataset, into, exact)
    rows = pl.read_parquet(into / "interactions.parquet").rows()
    rejected = pl.read_parquet(into / "rejected_rows.parquet")
    rejects = rejected.select("line", "reason").rows()
    ledger = {str(reason): n for reason, n in result.ledger.items() if n}
    assert ledger.get("kept", 0) == len(rows) and not list(into.glob(".*"))
    return Reading(dataset, notes or [], rows, rejects, ledger, rejected["raw"].to_list(), result.doubts)
